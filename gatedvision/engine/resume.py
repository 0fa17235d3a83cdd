"""Going on with a run from one of its checkpoints."""

from pathlib import Path
from typing import Any

from mmengine.hooks import EMAHook

from gatedvision.engine.checkpoint_file import CheckpointError, check_weights, load_weights, read_checkpoint
from gatedvision.engine.training_state import all_schedulers, restore_histories, to_plain, unwrap

# What a scheduler's state has besides its settings, and the first values of its groups, which these have themselves.
_PROGRESS = {"last_step", "_global_step", "_last_value", "verbose", "base_values"}


def resume_training(runner: Any, path: Path) -> None:
    """Put a run, built but not started, into the state that a checkpoint holds.

    Args:
        runner: the run.
        path: the checkpoint.

    Raises:
        CheckpointError: the checkpoint is unreadable, holds no training state, or belongs to another setting.
    """
    checkpoint = runner.experts.cut_checkpoint(read_checkpoint(path), runner.optim_wrapper)
    meta = checkpoint["meta"]
    _check_setting(runner, checkpoint, path)
    if meta["seed"] != runner.seed:
        runner.logger.warning(f"going on with the seed of the checkpoint, {meta['seed']}, not with {runner.seed}")
        _reseed(runner, meta["seed"])
    # What does not fit is told of here in one line, before EMAHook would list all of it.
    check_weights(unwrap(runner.model), checkpoint["state_dict"], str(path))
    # EMAHook takes the average out of the checkpoint here, and puts the weights in training back in its place.
    runner.call_hook("after_load_checkpoint", checkpoint=checkpoint)
    load_weights(unwrap(runner.model), checkpoint["state_dict"], str(path))
    _tell_of_other_settings(runner, checkpoint, path)
    runner.optim_wrapper.load_state_dict(checkpoint["optimizer"])
    for scheduler, state in zip(all_schedulers(runner), checkpoint["param_schedulers"], strict=True):
        scheduler.load_state_dict(state)
    runner.message_hub.load_state_dict(restore_histories(checkpoint["message_hub"]))
    states = checkpoint["processes"]
    saved, own = (len(states), meta.get("expert_parallel", 1)), (runner.world_size, runner.experts.size)
    if saved != own:
        runner.logger.warning(
            f"{path} is of {saved[0]} processes (expert_parallel {saved[1]}), "
            f"this run of {own[0]} (expert_parallel {own[1]}): not exact"
        )
    runner.train_loop.start_from(meta["epoch"], meta["iter"], states[runner.rank] if saved == own else None)
    runner.logger.info(f"resumed {path} at epoch {meta['epoch']}, iteration {meta['iter']}")


def _check_setting(runner: Any, checkpoint: dict[str, Any], path: Path) -> None:
    """Refuse what cannot be gone on with.

    Raises:
        CheckpointError: see :func:`resume_training`.
    """
    if "optimizer" not in checkpoint:
        raise CheckpointError(f"{path} holds weights only and cannot be resumed; name an epoch_*.pth or iter_*.pth")
    saved, own = checkpoint["meta"]["iters_per_epoch"], len(runner.train_dataloader)
    if saved != own:
        raise CheckpointError(
            f"{path} has {saved} iterations an epoch and this run {own}: "
            "resuming needs the same data, batch_size and number of processes"
        )
    saved, own = len(checkpoint["param_schedulers"]), len(all_schedulers(runner))
    if saved != own:
        raise CheckpointError(
            f"{path} was trained with {saved} schedulers and the config has {own}; to train its weights by another "
            "schedule, start anew with load_from"
        )
    if "ema_state_dict" in checkpoint and not any(isinstance(hook, EMAHook) for hook in runner.hooks):
        raise CheckpointError(f"{path} was trained with a moving average (EMA) and the config has none")


def _tell_of_other_settings(runner: Any, checkpoint: dict[str, Any], path: Path) -> None:
    """Warn of settings of optimizers and schedulers that changed in the config: a run goes on with those it had."""
    schedulers = all_schedulers(runner)
    own = _settings(runner.optim_wrapper.state_dict(), [scheduler.state_dict() for scheduler in schedulers], schedulers)
    saved = _settings(checkpoint["optimizer"], checkpoint["param_schedulers"], schedulers)
    changed = [
        f"{name} {before}, not {now}"
        for name in own
        for before, now in zip(saved.get(name, []), own[name], strict=False)
        if before != now
    ]
    if changed:
        # Groups of parameters share most settings.
        runner.logger.warning(
            f"going on with the settings of the checkpoint: {'; '.join(dict.fromkeys(changed))}. To train its weights "
            f"by those of the config, start anew with --cfg-options load_from={path}"
        )


def _settings(optimizer: dict[str, Any], states: list[dict[str, Any]], schedulers: list[Any]) -> dict[str, list[Any]]:
    """Collect what was chosen, and does not change as the training goes on: by name, of each group of parameters.

    Args:
        optimizer: state of an optimizer, or of several by the part of the model that they train.
        states: of the schedulers.
        schedulers: which they are.
    """
    found: dict[str, list[Any]] = {}
    for state, scheduler in zip(states, schedulers, strict=True):
        for key, value in state.items():
            if key not in _PROGRESS:
                found.setdefault(f"{type(scheduler).__name__} {key}", []).append(to_plain(value))
    scheduled = {state["param_name"] for state in states}
    parts = {"": optimizer} if "param_groups" in optimizer else optimizer
    for part, state in parts.items():
        for group in state["param_groups"]:
            for key, value in group.items():
                if key not in {"params", *scheduled}:
                    found.setdefault(f"{part} {key}".strip(), []).append(to_plain(value))
    return found


def _reseed(runner: Any, seed: int) -> None:
    """Take over another seed; the data loaders are built already."""
    runner.set_randomness(seed, deterministic=bool(runner.deterministic))
    loops = [loop for loop in (runner.train_loop, runner.val_loop) if loop is not None]
    for loader in [loop.dataloader for loop in loops]:
        loader.dataset.seed = seed
        if hasattr(loader.batch_sampler.sampler, "seed"):
            loader.batch_sampler.sampler.seed = seed
