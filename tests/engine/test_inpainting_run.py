"""Inpainting through the engine: two optimizers, resumed bit for bit; averaged, drawn, and in two processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import assert_same
from inpainting_two_processes import CONFIG, SAME
from mmengine.hooks import Hook
from tiny_data import InterruptionError

from gatedvision.engine import Runner
from gatedvision.engine.checkpoint_file import read_checkpoint, select_weights
from gatedvision.engine.checkpoint_hook import NonFiniteError
from gatedvision.engine.launch import evaluate, load_config

PARTS = ("generator", "discriminator")


def build(work_dir: Path, name: str, hooks: tuple[Any, ...] = (), resume: bool = False, **options: Any) -> Any:
    config = load_config(CONFIG, work_dir, cfg_options=options.pop("options", {}))
    # Runs of the same second would share their history otherwise.
    config.experiment_name = name
    config.resume = resume
    config.custom_hooks = [*config.custom_hooks, *hooks]
    return Runner.from_cfg(config)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("trained")
    run = build(folder, "inpainting_whole")
    run.train()
    return folder, run


# Of a step of four batches, the last checkpoint holds the gradients of two.
ACCUMULATE = {"default_hooks.checkpoint.by_epoch": False, "default_hooks.checkpoint.interval": 3}
ACCUMULATE |= {f"optim_wrapper.{part}.accumulative_counts": 4 for part in PARTS}


@pytest.mark.parametrize(
    ("interruption", "options"),
    [({"iteration": 7}, {}), ({"val_epoch": 1}, {}), ({"iteration": 7}, ACCUMULATE)],
    ids=["iteration", "validation", "accumulating"],
)
def test_interrupted_run_ends_like_an_uninterrupted_one(trained, tmp_path, interruption, options):
    whole, name = trained[0], f"inpainting_{len(options)}_{next(iter(interruption))}"
    if options:
        whole = tmp_path / "whole"
        build(whole, f"{name}_whole", options=options).train()
    with pytest.raises(InterruptionError):
        hooks = ({"type": "tiny_data.Interrupt", **interruption},)
        build(tmp_path / "run", f"{name}_broken", hooks, options=options).train()
    build(tmp_path / "run", f"{name}_resumed", resume=True, options=options).train()
    resumed, expected = (
        read_checkpoint(folder / (folder / "last_checkpoint").read_text().strip())
        for folder in (tmp_path / "run", whole)
    )
    assert_same(resumed, expected)


def test_a_checkpoint_holds_both_optimizers_spectral_norms_and_the_average(trained):
    folder, run = trained
    saved = read_checkpoint(folder / "epoch_2.pth")
    assert list(saved["optimizer"]) == list(PARTS)
    for part in PARTS:
        count = len(list(getattr(run.model, part).parameters()))
        assert len(saved["optimizer"][part]["state"]) == count
        assert all(float(state["step"]) == 10 for state in saved["optimizer"][part]["state"].values())
    # A warm-up and a cosine for each of them.
    assert len(saved["param_schedulers"]) == 4
    average, raw = (select_weights(saved, which)[0] for which in ("ema", "raw"))
    vectors = [name for name in average if name.endswith(("_u", "_v"))]
    assert len(vectors) == 12
    for name, value in run.model.state_dict().items():
        assert torch.equal(raw[name], value), name
        # The generator's alone is averaged.
        assert torch.equal(average[name], value) != name.startswith("generator."), name


def test_logs_carry_both_rates_all_losses_and_the_metrics(trained):
    folder, run = trained
    [scalars] = folder.glob("*/vis_data/scalars.json")
    history = run.message_hub.log_scalars
    for name in ("generator.lr", "discriminator.lr", "generator.grad_norm", "loss", "loss_discriminator"):
        assert len(history[f"train/{name}"].data[0]) == 10, name
    assert "train/discriminator.grad_norm" not in history, "it is not clipped"
    row = json.loads(scalars.read_text().splitlines()[-1])
    assert {"PSNR", "SSIM", "L1", "PSNR/0.01-0.10"} <= row.keys() and row["epoch"] == 2
    assert list(folder.glob("best_SSIM_epoch_*.pth"))
    pictures = sorted(path.relative_to(folder).as_posix() for path in folder.glob("pictures/**/*.png"))
    assert pictures == [f"pictures/epoch_2/val_{index:05d}.png" for index in range(3)]


class Poison(Hook):
    """Makes a weight of a part infinite in the third iteration."""

    def __init__(self, part: str) -> None:
        self.part = part

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == 2:
            next(getattr(runner.model, self.part).parameters()).data.fill_(float("inf"))


@pytest.mark.parametrize("part", PARTS)
def test_divergence_of_either_stops_and_says_which(part, tmp_path):
    run = build(tmp_path, f"inpainting_poisoned_{part}")
    run.register_hook(Poison(part))
    with pytest.raises(
        NonFiniteError, match=r"^loss_discriminator is nan at iteration 3 .*; there is no checkpoint yet"
    ):
        run.train()


def test_rates_are_scaled_and_mistakes_named(tmp_path):
    scaled = {"auto_scale_lr": {"enable": True, "base_batch_size": 1}, "train_cfg.max_epochs": 1}
    run = build(tmp_path, "inpainting_scaled", options={**scaled, "param_scheduler": None})
    run.train()
    assert run.optim_wrapper.get_lr() == {f"{part}.lr": [4e-4] for part in PARTS}
    with pytest.raises(ValueError, match="optim_wrapper has a part 'critic', and the model only .*discriminator"):
        build(tmp_path, "inpainting_critic", options={"optim_wrapper.critic": {"optimizer": {"type": "SGD"}}}).train()
    with pytest.raises(ValueError, match="DeepFillV2 has no backbone whose layers could learn at other rates"):
        options = {"optim_wrapper.generator.paramwise_cfg": {"layer_decay": 0.9}}
        build(tmp_path, "inpainting_decay", options=options).train()
    with pytest.raises(ValueError, match="EMA of only='critic': the model has no such part, but .*generator"):
        hook = {"type": "gatedvision.engine.EMA", "only": "critic"}
        build(tmp_path, "inpainting_average", (hook,)).train()


def test_two_processes_train_and_evaluate_like_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script, two = Path(__file__).with_name("inpainting_two_processes.py"), tmp_path / "two"
    done = subprocess.run([*command, script, two], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    build(tmp_path / "one", "inpainting_one", options=SAME).train()
    weights = [read_checkpoint(folder / "epoch_1.pth")["state_dict"] for folder in (tmp_path / "one", two)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-5, msg=name)
    # An uneven split: a process computes each image as one alone does, so all digits agree.
    metrics = json.loads((two / "metrics.json").read_text())
    assert metrics["images"] == 5 and "PSNR/0.01-0.10" in metrics
    expected = evaluate(CONFIG, two / "epoch_1.pth", tmp_path, cfg_options={"experiment_name": "inpainting_one_test"})
    assert metrics == expected
    assert sorted(path.name for path in (two / "show").iterdir()) == [f"val_{index:05d}.png" for index in range(5)]
