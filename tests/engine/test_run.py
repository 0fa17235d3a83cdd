"""What a run does besides resuming: schedules, precision, averages, logs, divergence."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from gatedvision.engine.checkpoint_file import read_checkpoint, select_weights
from gatedvision.engine.checkpoint_hook import NonFiniteError, SaveCheckpoints
from gatedvision.engine.training_state import is_finite


def rows_of(work_dir: Path) -> list[dict]:
    [scalars] = work_dir.glob("*/vis_data/scalars.json")
    return [json.loads(line) for line in scalars.read_text().splitlines()]


def learning_rates(run) -> list[float]:
    return run.message_hub.get_info("rates")


RECORD_RATES = {"type": "tiny_data.RecordRates"}


def test_schedule_starts_peaks_and_ends_where_it_should(build_run, tmp_path):
    run = build_run(tmp_path, hooks=(RECORD_RATES,))
    run.train()
    rates = learning_rates(run)
    assert len(rates) == 18
    assert rates[0] == pytest.approx(1e-3)
    assert rates[5] == rates[6] == pytest.approx(1e-2), "the warm-up ends, and the cosine starts, at the peak"
    cosine = [1e-4 + (1e-2 - 1e-4) * (1 + math.cos(math.pi * step / 12)) / 2 for step in range(12)]
    assert rates[6:] == pytest.approx(cosine)


def test_learning_rate_is_scaled_by_the_whole_batch_and_both_ends_with_it(build_run, tmp_path):
    options = {"auto_scale_lr.enable": True, "optim_wrapper.accumulative_counts": 3}
    run = build_run(tmp_path, hooks=(RECORD_RATES,), options=options)
    run.train()
    # 4 images, 3 times, where the config was written for 8.
    rates = learning_rates(run)
    assert rates[0] == pytest.approx(1.5 * 1e-3)
    assert max(rates) == pytest.approx(1.5 * 1e-2)
    assert rates[-1] == pytest.approx(1.5 * (1e-4 + (1e-2 - 1e-4) * (1 + math.cos(math.pi * 11 / 12)) / 2))


def test_parameters_at_a_rate_of_zero_stay_as_they_are(build_run, tmp_path):
    run = build_run(tmp_path, options={"optim_wrapper.paramwise_cfg": {"rates": {"backbone.head*": 1.0, "*": 0.0}}})
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    run.train()
    moved = {name for name, parameter in run.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {"backbone.head.weight", "backbone.head.bias"}


def test_logs_carry_iteration_epoch_rate_and_both_losses(build_run, tmp_path):
    run = build_run(tmp_path, options={"default_hooks.logger.interval": 3})
    run.train()
    rows = rows_of(tmp_path)
    train = [row for row in rows if "loss" in row]
    val = [row for row in rows if "val_loss" in row]
    assert [(row["epoch"], row["iter"], row["step"]) for row in train] == [
        (epoch, step, step) for epoch, step in [(1, 3), (1, 6), (2, 9), (2, 12), (3, 15), (3, 18)]
    ]
    assert [(row["epoch"], row["iter"], row["step"]) for row in val] == [(1, 6, 6), (2, 12, 12), (3, 18, 18)]
    assert all(row["images_per_second"] > 0 and row["memory"] > 0 and row["grad_norm"] > 0 for row in train)
    # Each validation's own loss, not an average over the latest ones.
    assert [row["val_loss"] for row in val] == run.message_hub.get_scalar("val/loss").data[0].tolist()
    [log] = tmp_path.glob("*/*.log")
    assert "images/s: " in log.read_text()
    assert "eta: " in log.read_text()
    assert "evaluating the moving average (EMA)" in log.read_text()
    assert list(tmp_path.glob("*/vis_data/events.out.tfevents.*"))


def test_without_tensorboard_one_line_says_so(build_run, tmp_path, monkeypatch):
    monkeypatch.setattr("gatedvision.engine.runner.find_spec", lambda name: None)
    build_run(tmp_path)
    [log] = tmp_path.glob("*/*.log")
    assert log.read_text().count("tensorboard is not installed") == 1
    assert not list(tmp_path.glob("*/vis_data/events.out.tfevents.*"))


def test_checkpoint_holds_the_average_and_the_weights_in_training(build_run, tmp_path):
    run = build_run(tmp_path)
    run.train()
    saved = read_checkpoint(tmp_path / "epoch_3.pth")
    [ema] = [hook for hook in run.hooks if type(hook).__name__ == "EMA"]
    for which, model in (("raw", run.model), ("ema", ema.ema_model.module)):
        weights, label = select_weights(saved, which)
        assert label == which
        assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert not torch.equal(run.model.backbone.head.weight, ema.ema_model.module.backbone.head.weight)


def test_average_follows_its_formula(build_run, tmp_path):
    run = build_run(tmp_path, options={"train_cfg.max_epochs": 1, "param_scheduler": None})
    history = []
    run.optim_wrapper = run.build_optim_wrapper(run.optim_wrapper)
    weight_now = run.model.backbone.norm.weight
    run.optim_wrapper.optimizer.register_step_post_hook(lambda *_: history.append(weight_now.detach().clone()))
    run.train()
    assert len(history) == 6
    average = history[0]
    for weight in history[1:]:
        average = 0.9 * average + 0.1 * weight
    saved = read_checkpoint(tmp_path / "epoch_1.pth")["state_dict"]["backbone.norm.weight"]
    torch.testing.assert_close(saved, average)


def test_divergence_stops_and_names_the_last_good_checkpoint(build_run, tmp_path):
    with pytest.raises(NonFiniteError) as failure:
        build_run(tmp_path, hooks=({"type": "tiny_data.Poison", "iteration": 8},)).train()
    place, remedy = str(failure.value).split("; ")
    assert place == "the loss is nan at iteration 8 (epoch 2, batch 2 of 6)"
    assert remedy == f"the last good checkpoint is {tmp_path / 'epoch_1.pth'}"
    assert is_finite(read_checkpoint(tmp_path / "epoch_1.pth")["state_dict"])


def test_divergence_before_the_first_checkpoint(build_run, tmp_path):
    with pytest.raises(NonFiniteError, match="at iteration 1 .*; there is no checkpoint yet"):
        build_run(tmp_path, hooks=({"type": "tiny_data.Poison", "iteration": 1},)).train()


def test_weights_that_are_not_finite_are_never_saved(build_run, tmp_path):
    run = build_run(tmp_path)
    run.train()
    next(run.model.parameters()).data[0] = float("inf")
    [hook] = [hook for hook in run.hooks if isinstance(hook, SaveCheckpoints)]
    [ema] = [hook for hook in run.hooks if type(hook).__name__ == "EMA"]
    ema._swap_ema_parameters()
    with pytest.raises(NonFiniteError, match=r"so epoch_4\.pth was not saved"):
        hook._save(run, "epoch_4.pth", 4, 24, with_optimizer=True)
    assert not (tmp_path / "epoch_4.pth").exists()


def test_bfloat16_on_a_cpu_trains_and_evaluates_in_bfloat16(build_run, tmp_path):
    run = build_run(tmp_path, amp="bf16", options={"train_cfg.max_epochs": 1})
    seen = {}

    def note(module: nn.Module, _: object, output: torch.Tensor) -> None:
        seen.setdefault(module.training, output.dtype)

    run.model.backbone.blocks[0].mlp.fc1.register_forward_hook(note)
    run.train()
    assert seen == {True: torch.bfloat16, False: torch.bfloat16}
    assert {weight.dtype for weight in run.model.parameters()} == {torch.float32}
    assert not run.optim_wrapper.scaler.is_enabled()
    full = build_run(tmp_path / "full", options={"train_cfg.max_epochs": 1})
    full.train()
    norms = [rows_of(folder)[0]["grad_norm"] for folder in (tmp_path, tmp_path / "full")]
    # bfloat16 has 8 significant bits.
    assert norms[0] == pytest.approx(norms[1], rel=0.02)
    assert norms[0] != norms[1]


def test_compiled_run_saves_the_same_names_and_gradient_norms(build_run, tmp_path):
    options = {"train_cfg.max_epochs": 1, "model.backbone.drop_path_rate": 0.0, "model.backbone.drop_rate": 0.0}
    build_run(tmp_path / "plain", options=options).train()
    build_run(tmp_path / "compiled", options={**options, "compile": {"backend": "aot_eager"}}).train()
    plain, compiled = (read_checkpoint(tmp_path / name / "epoch_1.pth") for name in ("plain", "compiled"))
    assert plain["state_dict"].keys() == compiled["state_dict"].keys()
    norms = [rows_of(tmp_path / name)[0]["grad_norm"] for name in ("plain", "compiled")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_histories_keep_the_latest_values(build_run, tmp_path, monkeypatch):
    def losses(name: str) -> list[float]:
        run = build_run(tmp_path / name)
        run.train()
        return run.message_hub.get_scalar("train/loss").data[0].tolist()

    whole = losses("whole")
    assert len(whole) == 18
    monkeypatch.setattr("gatedvision.engine.loops.HISTORY_LENGTH", 4)
    assert losses("short") == whole[-4:]
    saved = read_checkpoint(tmp_path / "short" / "epoch_3.pth")["message_hub"]["log_scalars"]
    assert all(len(saved[name]["log"]) == 4 for name in ("train/loss", "train/lr", "train/time"))


def test_too_small_a_dataset_and_too_strange_a_loop_are_named(build_run, tmp_path):
    options = {"train_dataloader.batch_size": 50, "train_dataloader.drop_last": True}
    with pytest.raises(ValueError, match="too few training samples: no process has a full batch of 50"):
        build_run(tmp_path, options=options).train()
    with pytest.raises(ValueError, match="training is by epochs"):
        build_run(tmp_path, options={"train_cfg.by_epoch": False}).train()
    with pytest.raises(ValueError, match="save_best='mIoU' is none of the metrics accuracy/top1"):
        build_run(tmp_path, options={"default_hooks.checkpoint.save_best": "mIoU"}).train()
    with pytest.raises(ValueError, match="interval and keep must be at least 1"):
        SaveCheckpoints(keep=0)
