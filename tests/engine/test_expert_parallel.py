"""Experts spread over 2 and 4 processes on one CPU train as in one process; settings that cannot work say why."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from compare import assert_same
from expert_parallel_processes import CONFIG, LAYOUTS, RESUMED, RUNS, folder_of

import gatedvision  # noqa: F401  registers our names in timm
from gatedvision.engine.checkpoint_file import read_checkpoint
from gatedvision.engine.expert_parallel import ExpertParallel
from gatedvision.engine.launch import evaluate, train


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    command = [sys.executable, Path(__file__).with_name("expert_parallel_processes.py"), folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return folder


@pytest.mark.parametrize(("layout", "name"), [(layout, name) for layout, names in LAYOUTS.items() for name in names])
def test_several_processes_train_as_one_does(runs, layout, name):
    """Weights, their average, the optimizer's state, norms of gradients and losses of validation."""
    differences = json.loads((folder_of(runs, *layout) / "differences.json").read_text())
    assert differences[name] <= RUNS[RESUMED.get(name, name)][2]


def test_interrupted_run_ends_like_an_uninterrupted_one(runs):
    """To the last bit; sums over four processes depend on how DDP cuts gradients, anew after a run's first step."""
    folder = folder_of(runs, 2, 2)
    whole, resumed = (
        read_checkpoint(folder / name / "epoch_2.pth") for name in (RESUMED["interrupted"], "interrupted")
    )
    assert_same(resumed, whole)
    # An epoch ends in the middle of a step.
    gradients = [state["gradients"] for state in read_checkpoint(folder / "batch" / "epoch_1.pth")["processes"]]
    experts = "backbone.blocks.1.mlp.experts.fc1.weight"
    assert [tuple(some[experts].shape) for some in gradients] == [(2, 16, 64)] * 2
    assert not torch.equal(gradients[0][experts], gradients[1][experts])


def test_runs_are_ones_that_could_go_wrong(runs):
    """Experts differ, gradients are clipped, and tokens are dropped."""
    checkpoint = read_checkpoint(folder_of(runs, 4, 2) / "group" / "epoch_2.pth")
    weight = checkpoint["state_dict"]["backbone.blocks.1.mlp.experts.fc1.weight"]
    assert weight.shape == (4, 16, 64) and weight.dtype == torch.float64
    assert torch.cdist(weight.flatten(1), weight.flatten(1)).fill_diagonal_(1).min() > 0.5
    log = checkpoint["message_hub"]["log_scalars"]
    assert log["train/grad_norm"]["log"].min() > 0.2
    assert {"train/auxiliary/importance", "train/auxiliary/load", "train/auxiliary/gshard"} < log.keys()
    total = log["train/cross_entropy"]["log"] + log["train/auxiliary"]["log"]
    torch.testing.assert_close(log["train/loss"]["log"], total)
    # Rows are means over several iterations.
    (path,) = (folder_of(runs, 4, 2) / "group").glob("*/vis_data/scalars.json")
    row = [json.loads(line) for line in path.read_text().splitlines() if '"lr"' in line][-1]
    assert row["loss"] == pytest.approx(row["cross_entropy"] + row["auxiliary"])


def test_checkpoint_is_evaluated_in_one_process(runs, tmp_path):
    folder = folder_of(runs, 2, 2) / "bf16"
    # Saved before the validation of the same epoch.
    (seen,) = read_checkpoint(folder / "epoch_2.pth")["message_hub"]["log_scalars"]["val/loss"]["log"]
    # The setting is that of the training, for which one process would not do.
    options = {"expert_parallel": 2, "experiment_name": "experts_in_one", "amp": "bf16"}
    report = evaluate(CONFIG, folder / "epoch_1.pth", tmp_path, cfg_options=options)
    assert report["images"] == 11
    assert report["loss"] == pytest.approx(seen.item(), rel=1e-3)


def small_model(**options: Any) -> Any:
    small = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "expert_blocks": (1,)}
    return timm.create_model("vmoe_s32_last2_e8", **small, **options)


def test_what_does_not_divide_is_named(monkeypatch):
    for size in (0, -1, 1.5, "2"):
        with pytest.raises(
            ValueError, match=f"expert_parallel must be a number of processes, at least 1, got {size!r}"
        ):
            ExpertParallel(torch.nn.Linear(1, 1), size)
    with pytest.raises(ValueError, match=r"expert_parallel=2 does not divide the number of processes, 1; .* torchrun"):
        ExpertParallel(small_model(), 2)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 6)
    with pytest.raises(ValueError, match=r"expert_parallel=4 does not divide the number of processes, 6"):
        ExpertParallel(small_model(), 4)
    with pytest.raises(ValueError, match=r"expert_parallel=3 does not divide the 8 experts of blocks\.1\.mlp\.experts"):
        ExpertParallel(small_model(), 3)
    with pytest.raises(ValueError, match="expert_parallel=2 is for models with experts, and this one has none"):
        ExpertParallel(torch.nn.Linear(1, 1), 2)
    with pytest.raises(ValueError, match=r"a finite capacity_factor, blocks\.1\.mlp has inf in evaluation"):
        ExpertParallel(small_model(eval_capacity_factor=float("inf")), 2)


def test_setting_of_a_run_is_read(tmp_path):
    with pytest.raises(ValueError, match="expert_parallel=2 does not divide the number of processes, 1"):
        train(CONFIG, tmp_path, cfg_options={"expert_parallel": 2, "experiment_name": "experts_alone"})


@pytest.fixture
def first_of_two() -> ExpertParallel:
    """What the first of two processes knows of a layer with two of its four experts."""
    experts = ExpertParallel(torch.nn.Linear(1, 1))
    experts.size, experts._index = 2, 0
    experts.parameters = {"experts.weight": torch.nn.Parameter(torch.zeros(2, 3))}
    return experts


def test_checkpoints_of_other_experts_are_refused(first_of_two):
    whole = torch.arange(12.0).view(4, 3)
    cut = first_of_two.cut_checkpoint({"state_dict": {"experts.weight": whole, "head.weight": whole}})
    assert torch.equal(cut["state_dict"]["experts.weight"], whole[:2])
    assert torch.equal(cut["state_dict"]["head.weight"], whole)
    with pytest.raises(ValueError, match=r"experts\.weight in the checkpoint is of 2 experts, the model has 4"):
        first_of_two.cut_checkpoint({"state_dict": {"experts.weight": whole[:2]}})


def test_what_processes_would_not_do_alike_is_refused(first_of_two):
    with pytest.raises(ValueError, match="expert_parallel=2 does not go with amp 'fp16'; use bf16"):
        first_of_two.clip_together(SimpleNamespace(amp="fp16"))  # pyright: ignore[reportArgumentType]
    loader = SimpleNamespace(batch_sampler=SimpleNamespace(sampler=SimpleNamespace(round_up=False)))
    with pytest.raises(ValueError, match="expert_parallel=2 needs batches of one size"):
        first_of_two.check_batches(loader)
