"""Checkpoint files: written whole or not at all, read as tensors and plain values only."""

import logging
import os
import re
import zipfile
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

LAST_CHECKPOINT = "last_checkpoint"
_NAME = re.compile(r"(epoch|iter)_(\d+)\.pth")


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or does not fit the model."""


class ForeignCheckpointError(CheckpointError):
    """A file can be read, but ``tools/train.py`` did not write it."""


def write_atomically(content: dict[str, Any] | str, path: Path) -> None:
    """Write a checkpoint or a text so that a crash at any moment leaves either the old file or the new one.

    Args:
        content: what to save: a text as it is, anything else through ``torch.save``.
        path: the file.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            if isinstance(content, str):
                file.write(content.encode())
            else:
                torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        # On a full disk it would keep the place that the next attempt needs.
        unfinished.unlink(missing_ok=True)
        raise
    # The new name itself is safe only once its folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_unfinished(folder: Path) -> None:
    """Delete what interrupted calls of :func:`write_atomically` left behind.

    Args:
        folder: the folder of the checkpoints.
    """
    for path in folder.glob(".*.unfinished"):
        path.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, refusing anything but tensors and plain values.

    Args:
        path: the file.

    Returns:
        The checkpoint, which holds at least ``state_dict``.

    Raises:
        CheckpointError: there is no such file, or it is damaged.
        ForeignCheckpointError: it is something else.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        # torch.load does not compare checksums, and would take flipped bits for weights.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        checkpoint = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the damage makes its readers raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(f"cannot read checkpoint {path}, it is damaged or no checkpoint: {reason}") from error
    if damaged:
        raise CheckpointError(f"checkpoint {path} is damaged: the checksum of {damaged} is wrong")
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ForeignCheckpointError(f"{path} is not a checkpoint of tools/train.py: it has no 'state_dict'")
    return checkpoint


def list_checkpoints(folder: Path) -> list[Path]:
    """Find the checkpoints that a run can go on from.

    Args:
        folder: the work directory. It may have been moved or copied: only names inside it count.

    Returns:
        Paths, the best choice first: the one that ``last_checkpoint`` names, then the older ones of its kind.
    """
    found = {path: match for path in folder.glob("*.pth") if (match := _NAME.fullmatch(path.name))}
    by_progress = sorted(found, key=lambda path: int(found[path][2]), reverse=True)
    pointer = folder / LAST_CHECKPOINT
    name = Path(pointer.read_text().strip()).name if pointer.is_file() else ""
    match = _NAME.fullmatch(name)
    if match is None:
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    # Files beyond the last one come from an earlier, longer run in the same folder.
    kind, progress = match[1], int(match[2])
    return [path for path in by_progress if found[path][1] == kind and int(found[path][2]) <= progress]


def locate_checkpoint(path: Path) -> Path:
    """Return a checkpoint that is named by its file, or by a work directory, meaning the last one.

    Args:
        path: the file, which need not exist, or the folder.

    Raises:
        CheckpointError: the folder has no checkpoint, or only damaged ones.
    """
    if not path.is_dir():
        return path
    found = find_last_checkpoint(path)
    if found is None:
        raise CheckpointError(f"no checkpoint in {path}")
    return found


def find_last_checkpoint(folder: Path) -> Path | None:
    """Find the newest checkpoint of a work directory that can be read.

    Args:
        folder: the work directory.

    Returns:
        Its path, or ``None`` if there is no checkpoint at all.

    Raises:
        CheckpointError: there are checkpoints, and all of them are damaged.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            print_log(f"{error}; trying the one before", "current", logging.WARNING)
        else:
            return path
    if paths:
        raise CheckpointError(f"all {len(paths)} checkpoints in {folder} are damaged")
    return None


def select_weights(checkpoint: dict[str, Any], which: Literal["ema", "raw"]) -> tuple[dict[str, Tensor], str]:
    """Choose between the moving average of the weights and the weights in training.

    Args:
        checkpoint: what :func:`read_checkpoint` returned.
        which: ``"ema"`` takes the average where there is one.

    Returns:
        The state dict of the model, and which weights these are, ``"ema"`` or ``"raw"``.
    """
    if "ema_state_dict" not in checkpoint:
        return checkpoint["state_dict"], "raw"
    if which == "ema":
        return checkpoint["state_dict"], "ema"
    # EMAHook stores the weights in training in the place of the average, under the names of its wrapper.
    prefix = "module."
    names = [name for name in checkpoint["ema_state_dict"] if name.startswith(prefix)]
    return {name[len(prefix) :]: checkpoint["ema_state_dict"][name] for name in names}, "raw"


def load_weights(model: nn.Module, state_dict: dict[str, Tensor], source: str) -> None:
    """Load weights that have to fit exactly.

    Args:
        model: the task model, not wrapped.
        state_dict: its weights by name.
        source: where they come from, for the message.

    Raises:
        CheckpointError: as of :func:`check_weights`.
    """
    check_weights(model, state_dict, source)
    model.load_state_dict(state_dict)


def check_weights(model: nn.Module, state_dict: dict[str, Tensor], source: str) -> None:
    """Check that weights fit a model exactly.

    Args:
        model: the task model, not wrapped.
        state_dict: its weights by name.
        source: where they come from, for the message.

    Raises:
        CheckpointError: names or shapes differ; where only the number of classes does, it says so.
    """
    own = model.state_dict()
    differing = [name for name in own if name in state_dict and own[name].shape != state_dict[name].shape]
    if differing and own.keys() == state_dict.keys():
        classes = getattr(model, "num_classes", None)
        saved_classes = {state_dict[name].shape[0] for name in differing}
        tails_agree = all(own[name].shape[1:] == state_dict[name].shape[1:] for name in differing)
        if tails_agree and len(saved_classes) == 1 and {own[name].shape[0] for name in differing} == {classes}:
            raise CheckpointError(f"{source} was trained on {saved_classes.pop()} classes, the config has {classes}")
    problems = [
        f"{name} is {tuple(state_dict[name].shape)} there and {tuple(own[name].shape)} here" for name in differing
    ]
    problems += [f"{name} is missing" for name in own if name not in state_dict]
    problems += [f"{name} is unknown to the model" for name in state_dict if name not in own]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CheckpointError(f"{source} does not fit the model of the config: {problems[0]}{more}")
