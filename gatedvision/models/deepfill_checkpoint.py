"""Files of DeepFill v2's published weights, brought into ours."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gatedvision.models._deepfill_names import LAYOUTS, convert_discriminator, convert_generator, layout_of, unpack
from gatedvision.models._pretrained import match_model
from gatedvision.models.deepfillv2 import MODEL_OF_PADDING, deepfillv2, deepfillv2_mmagic, deepfillv2_port
from gatedvision.models.patch_discriminator import PatchDiscriminator

LICENCE = (
    "the weights published with DeepFill v2 and what is made from them are CC BY-NC 4.0: not for commercial use; "
    "mmagic's are Apache-2.0"
)
PARTS = ("generator", "discriminator")
MODELS: dict[str, Callable[..., nn.Module]] = {
    "deepfillv2": deepfillv2,
    "deepfillv2_port": deepfillv2_port,
    "deepfillv2_mmagic": deepfillv2_mmagic,
}


def convert_checkpoint(source: Path, out: Path, part: str = "generator", bgr: Optional[bool] = None) -> str:
    """Convert a file of published weights into one of ours.

    Args:
        source: as in :func:`read_published`.
        out: file to write, ``.safetensors`` or ``.pth``.
        part: ``"generator"`` or ``"discriminator"``.
        bgr: the weights are for BGR images; by default those in TensorFlow's names are.

    Returns:
        What was found and how the result loads, with the licence, one line each.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no file of such weights, or an ending is not known.
    """
    if out.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"the output must end in .safetensors or .pth, got {str(out)!r}")
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    published = read_published(source)
    weights, found, use = (_generator if part == "generator" else _discriminator)(published, bgr, source, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Whoever finds the file later is told where it is from.
    notes = {"source": source.name, "use": use, "licence": LICENCE}
    if out.suffix == ".safetensors":
        save_file(weights, out, metadata=notes)
    else:
        torch.save({"state_dict": weights, **notes}, out)
    return f"{source}: {found}\nwrote {out}, {len(weights)} tensors; load it by {use}\n{LICENCE}"


def read_published(source: Path) -> dict[str, Any]:
    """Read published weights under the names they have.

    Args:
        source: a state dict in a file of torch (``.pth``, ``.pt``) or safetensors; variables by name in an ``.npz``; or
            a TensorFlow checkpoint, by its prefix or its ``.index`` file, where TensorFlow is installed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read.
    """
    prefix = source.with_suffix("") if source.suffix == ".index" else source
    if prefix.with_name(f"{prefix.name}.index").is_file():
        return _read_tensorflow(prefix)
    if not source.is_file():
        raise FileNotFoundError(f"no file {str(source)!r}, and no TensorFlow checkpoint of that prefix")
    try:
        if source.suffix == ".npz":
            with np.load(source) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files if arrays[name].dtype.kind == "f"}
        if source.suffix == ".safetensors":
            return load_file(source)
        return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has errors of its own
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot read {str(source)!r} as a file of weights: {first}") from error


def _read_tensorflow(prefix: Path) -> dict[str, Tensor]:
    if find_spec("tensorflow") is None:
        raise ValueError(
            f"{str(prefix)!r} is a TensorFlow checkpoint: install tensorflow, or save its variables by name with "
            f"numpy.savez where it is installed, and pass the .npz"
        )
    import tensorflow  # pyright: ignore[reportMissingImports]  # an hour's guest, for this alone

    reader = tensorflow.train.load_checkpoint(str(prefix))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith(("inpaint_net/", "discriminator/"))]
    return {name: torch.from_numpy(np.asarray(reader.get_tensor(name))) for name in names}


def _generator(
    published: Mapping[str, Any], bgr: Optional[bool], source: Path, out: Path
) -> tuple[dict[str, Tensor], str, str]:
    layout = layout_of(unpack(published, "G"))
    weights, padding = convert_generator(published, bgr)
    first, last = weights.get("coarse.encoder.0.weight"), weights.get("coarse.decoder.6.bias")
    if first is None or last is None:
        raise ValueError(
            f"{str(source)!r} holds no generator of DeepFill v2 under any name known ({', '.join(LAYOUTS)})"
        )
    name = MODEL_OF_PADDING[padding or "same"]
    # The file knows what it was built with.
    options: dict[str, Any] = {}
    if first.shape[0] != 48:
        options["dim"] = first.shape[0]
    if first.shape[1] != 5:
        options["sketch"] = True
    model = MODELS[name](device="meta", **options)
    weights = match_model(weights, model)
    _check_shapes(model, weights, source)
    arguments = "".join(f", {key}={value!r}" for key, value in options.items())
    use = f"timm.create_model({name!r}, pretrained=True, pretrained_cfg_overlay=dict(file={str(out)!r}){arguments})"
    return _contiguous(weights), f"a generator under the names of {layout or 'this package'}", use


def _discriminator(
    published: Mapping[str, Any], bgr: Optional[bool], source: Path, out: Path
) -> tuple[dict[str, Tensor], str, str]:
    weights = convert_discriminator(published, bgr)
    first = weights.get("layers.0.parametrizations.weight.original")
    if first is None:
        raise ValueError(f"{str(source)!r} holds no discriminator of DeepFill v2 under any name known")
    model = PatchDiscriminator(first.shape[1], device="meta")
    _check_shapes(model, weights, source)
    load = "safetensors.torch.load_file" if out.suffix == ".safetensors" else "torch.load"
    return _contiguous(weights), "a discriminator", f"PatchDiscriminator().load_published({load}({str(out)!r}))"


def _check_shapes(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    try:
        model.load_state_dict(dict(weights), assign=True)
    except RuntimeError as error:
        problems = [line.strip() for line in str(error).splitlines()[1:]]
        raise ValueError(f"{str(source)!r} does not fit {type(model).__name__}: {' '.join(problems)[:300]}") from error


def _contiguous(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().float().contiguous() for name, value in weights.items()}
