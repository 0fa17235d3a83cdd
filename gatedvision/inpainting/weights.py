"""The generator with weights from a file: of a run of ours, published ones converted, or a bare state dict."""

import ast
import zipfile
from pathlib import Path
from typing import Any

import timm
from timm.models import load_state_dict
from torch import Tensor, nn

from gatedvision.engine.checkpoint_file import (
    CheckpointError,
    ForeignCheckpointError,
    locate_checkpoint,
    read_checkpoint,
    select_weights,
)

# Where the inpainting task keeps the generator.
_PREFIX = "generator."
_NO_WEIGHTS = (
    "no weights: none come with this package, the published ones being for non-commercial use (CC BY-NC 4.0); convert "
    "those with tools/convert_checkpoint.py or train with tools/train.py configs/inpainting/..., then name the file: "
    "--checkpoint FILE, in Python model=FILE"
)


def load_generator(path: str | Path | None, name: str | None = None, **options: Any) -> nn.Module:
    """Build a generator and load its weights.

    Args:
        path: a checkpoint of ``tools/train.py``, whose moving average of the weights is taken where it has one, or a
            work directory, meaning its last checkpoint; or a state dict, ``.pth`` or ``.safetensors``.
        name: the model's name in timm; by default that of the run, or ``deepfillv2``.
        **options: the model's own options, such as ``dim``, in addition to those of the run.

    Returns:
        The generator on the CPU, in evaluation mode.

    Raises:
        CheckpointError: there is no file, it is damaged, or it does not fit the model.
        ValueError: there is no such model.
    """
    if path is None:
        raise CheckpointError(_NO_WEIGHTS)
    path = locate_checkpoint(Path(path).expanduser())
    weights, saved_options = _read_weights(path)
    saved_name = str(saved_options.pop("model_name", "deepfillv2"))
    name = name or saved_name
    if not timm.is_model(name):
        raise ValueError(f"no model named {name!r}")
    overlay = {"state_dict": weights}
    try:
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **(saved_options | options))
    except (RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(line.strip() for line in str(error).strip().split("\n")[:2])
        hint = "another variant is chosen with --model and --model-options, such as dim=24"
        raise CheckpointError(f"{path} does not fit {name}: {reason} ({hint})") from error
    return model.eval()


def _read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict in a file, and the arguments of ``timm.create_model`` that the file knows.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    if path.suffix != ".safetensors" and zipfile.is_zipfile(path):
        try:
            saved = read_checkpoint(path)
        except ForeignCheckpointError:
            pass
        else:
            weights = select_weights(saved, "ema")[0]
            own = {key.removeprefix(_PREFIX): value for key, value in weights.items() if key.startswith(_PREFIX)}
            if own:
                return own, _generator_settings(str(saved.get("meta", {}).get("cfg", "")))
    try:
        return load_state_dict(str(path)), {}
    except Exception as error:  # what the content of the file makes its reader raise, with advice that is none here
        raise CheckpointError(f"cannot read weights from {path}: damaged, or more than tensors by name") from error


def _generator_settings(config: str) -> dict[str, Any]:
    """The generator's settings in the text of a config, which is read and not run."""
    try:
        [model] = [
            node.value for node in ast.parse(config).body if isinstance(node, ast.Assign) and _names(node) == ["model"]
        ]
        generator = {keyword.arg: keyword.value for keyword in getattr(model, "keywords", [])}["generator"]
        settings = {str(word.arg): ast.literal_eval(word.value) for word in getattr(generator, "keywords", [])}
    except (SyntaxError, ValueError, KeyError):
        return {}
    return {name: value for name, value in settings.items() if not name.startswith(("pretrained", "checkpoint"))}


def _names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]
