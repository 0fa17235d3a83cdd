"""Names of DeepFill v2's published weights, from TensorFlow's to those of its ports, and ours.

Five layouts: ours; TensorFlow's variables (``inpaint_net/conv1/kernel``); nipponjo's ``networks_tf.py``, which takes
converted published weights (``conv1.conv.weight``), and ``networks.py``, which pads in another way and has weights of
its own (``stage1.conv1.conv.weight``); and mmagic's (``generator.stage1.encoder.enc1.conv.conv.weight``).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

import torch
from torch import Tensor
from torch.nn import functional as F

# The layers of ours that see colours first and those that return them.
FIRST_LAYERS = ("coarse.encoder.0", "refine.encoder.0", "refine.attention_encoder.0")
RGB_LAYERS = ("coarse.decoder.6", "refine.decoder.6")
STEMS = ("conv1", "conv2_downsample", "conv3", "conv4_downsample", "conv5", "conv6")
ATROUS = tuple(f"conv{index}_atrous" for index in (7, 8, 9, 10))
DECODER = ("conv11", "conv12", "conv13_upsample", "conv14", "conv15_upsample", "conv16", "conv17")


def _numbered(place: str, names: Sequence[str]) -> dict[str, str]:
    return {name: f"{place}.{index}" for index, name in enumerate(names)}


def _tensorflow_layers() -> dict[str, str]:
    return {
        **_numbered("coarse.encoder", STEMS),
        **_numbered("coarse.dilated", ATROUS),
        **_numbered("coarse.decoder", DECODER),
        **_numbered("refine.encoder", [f"x{name}" for name in STEMS]),
        **_numbered("refine.dilated", [f"x{name}" for name in ATROUS]),
        **_numbered("refine.attention_encoder", [f"pm{name}" for name in STEMS]),
        **_numbered("refine.attention_decoder", ["pmconv9", "pmconv10"]),
        **_numbered("refine.decoder", [f"all{name}" for name in DECODER]),
    }


def _port_layers() -> dict[str, str]:
    def encoder(prefix: str) -> list[str]:
        blocks = [f"{prefix}down_block{block}.{layer}" for block in (1, 2) for layer in ("conv1_downsample", "conv2")]
        return [f"{prefix}conv1", *blocks, f"{prefix}conv_bn1"]

    def dilated(prefix: str) -> list[str]:
        return [f"{prefix}conv_bn{index}" for index in (2, 3, 4, 5)]

    blocks = [f"up_block{block}.{layer}" for block in (1, 2) for layer in ("conv1_upsample", "conv2")]
    decoder = ["conv_bn6", "conv_bn7", *blocks, "conv_to_rgb"]
    return {
        **_numbered("coarse.encoder", encoder("stage1.")),
        **_numbered("coarse.dilated", dilated("stage1.")),
        **_numbered("coarse.decoder", [f"stage1.{name}" for name in decoder]),
        **_numbered("refine.encoder", encoder("stage2.conv_")),
        **_numbered("refine.dilated", dilated("stage2.conv_")),
        **_numbered("refine.attention_encoder", encoder("stage2.ca_")),
        **_numbered("refine.attention_decoder", ["stage2.ca_conv_bn4", "stage2.ca_conv_bn5"]),
        **_numbered("refine.decoder", [f"stage2.{name}" for name in decoder]),
    }


def _mmagic_layers() -> dict[str, str]:
    def numbered(place: str, name: str, count: int, first: int = 1) -> dict[str, str]:
        return _numbered(place, [f"{name}{index}" for index in range(first, first + count)])

    return {
        **numbered("coarse.encoder", "stage1.encoder.enc", 6),
        **numbered("coarse.dilated", "stage1.dilation_neck.dilation_convs.", 4, 0),
        **numbered("coarse.decoder", "stage1.decoder.dec", 7),
        **numbered("refine.encoder", "stage2.encoder_conv.enc", 6),
        **numbered("refine.dilated", "stage2.dilation_neck.dilation_convs.", 4, 0),
        **numbered("refine.attention_encoder", "stage2.encoder_attention.enc", 6),
        **numbered("refine.attention_decoder", "stage2.contextual_attention_neck.conv", 2),
        **numbered("refine.decoder", "stage2.decoder.dec", 7),
    }


# Layout: a name that only it has, its layers, and the padding of the network it belongs to.
LAYOUTS = {
    "tensorflow": ("inpaint_net/conv1/kernel", _tensorflow_layers(), "same"),
    "networks_tf": ("xconv1.conv.weight", _tensorflow_layers(), "same"),
    "networks": ("stage1.conv1.conv.weight", _port_layers(), "symmetric"),
    "mmagic": ("stage1.encoder.enc1.conv.conv.weight", _mmagic_layers(), "reflect"),
}
# Constants that ports keep among their weights: the diagonal by which scores are fused.
CONSTANTS = re.compile(r"contextual_attention\.fuse_(weight|kernel)$")


def unpack(state_dict: Mapping[str, Any], part: str) -> dict[str, Tensor]:
    """Take a state dict out of its container, without prefixes and what belongs to optimisers.

    Args:
        state_dict: tensors by name, bare or under ``state_dict``, ``model`` or ``part``.
        part: ``"G"`` for the generator, ``"D"`` for the discriminator.
    """
    for container in ("state_dict", "model", part):
        inner = state_dict.get(container)
        if isinstance(inner, Mapping):
            state_dict = inner
    prefix = {"G": "generator.", "D": "disc."}[part]
    if any(name.startswith(prefix) for name in state_dict):
        state_dict = {n.removeprefix(prefix): value for n, value in state_dict.items() if n.startswith(prefix)}
    return {re.sub(r":0$", "", name): value for name, value in state_dict.items() if isinstance(value, Tensor)}


def layout_of(names: Mapping[str, Any]) -> Optional[str]:
    """Return which of ``LAYOUTS`` unpacked names of a generator are in, or None."""
    return next((layout for layout, (mark, _, _) in LAYOUTS.items() if mark in names), None)


def convert_generator(
    state_dict: Mapping[str, Any], bgr: Optional[bool] = None
) -> tuple[dict[str, Tensor], Optional[str]]:
    """Bring the weights of a generator into our names.

    Args:
        state_dict: in any layout, in any container that :func:`unpack` knows.
        bgr: the weights are for BGR images and are to be swapped; by default those in TensorFlow's names are.

    Returns:
        The weights, with any names that are not known left as they are, and the padding of the network that they are
        for, None if they were in our names already.
    """
    tensors = unpack(state_dict, "G")
    layout = layout_of(tensors)
    if layout is None:
        return swap_colours(tensors) if bgr else tensors, None
    _, layers, padding = LAYOUTS[layout]
    if layout == "tensorflow":
        renamed = dict(_from_tensorflow(tensors, layers))
    else:
        renamed = {}
        for name, value in tensors.items():
            match = re.fullmatch(r"(.+?)(?:\.conv)+\.(weight|bias)", name)
            if match and match[1] in layers:
                renamed[f"{layers[match[1]]}.{match[2]}"] = value
            elif not CONSTANTS.search(name):
                renamed[name] = value
    swap = layout == "tensorflow" if bgr is None else bgr
    return swap_colours(renamed) if swap else renamed, padding


def _from_tensorflow(tensors: Mapping[str, Tensor], layers: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    for name, value in tensors.items():
        # Discriminator, learning rate and the optimiser's averages lie beside the generator.
        match = re.fullmatch(r"inpaint_net/(\w+?)(?:/\1_conv)?/(kernel|bias)", name)
        if match is None:
            continue
        own = layers.get(match[1], match[1])
        yield (f"{own}.bias", value) if match[2] == "bias" else (f"{own}.weight", _kernel(value))


def _kernel(value: Tensor) -> Tensor:
    """Bring a kernel from HWIO to OIHW."""
    return value.permute(3, 2, 0, 1).contiguous()


def swap_colours(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the weights of a generator, in our names, from BGR to RGB or back."""
    swapped = dict(state_dict)
    # What a torn file lacks is for those to report who load it.
    for name in {f"{layer}.weight" for layer in FIRST_LAYERS} & set(swapped):
        swapped[name] = _reverse_inputs(swapped[name])
    for name in {f"{layer}.{leaf}" for layer in RGB_LAYERS for leaf in ("weight", "bias")} & set(swapped):
        # A gated layer holds values before gates.
        swapped[name] = torch.cat([part.flip(0) for part in swapped[name].split(3)])
    return swapped


def _reverse_inputs(weight: Tensor) -> Tensor:
    """Reverse the first three input channels of a kernel; a mask and other guides follow them."""
    return torch.cat([weight[:, :3].flip(1), weight[:, 3:]], 1)


def convert_discriminator(state_dict: Mapping[str, Any], bgr: Optional[bool] = None) -> dict[str, Tensor]:
    """Bring the weights of a discriminator into our names.

    Args:
        state_dict: in TensorFlow's names, those of either port, or ours, in any container that :func:`unpack` knows.
        bgr: the weights are for BGR images and are to be swapped; by default those in TensorFlow's names are.

    Returns:
        The weights, with any names that are not known left as they are.
    """
    tensors = unpack(state_dict, "D")
    tensorflow = any(name.startswith("discriminator/") for name in tensors)
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        match = re.fullmatch(
            r"(?:discriminator/sn_patch_gan/)?conv(\d)(?:\.conv_sn)?[./](kernel_sn/u|kernel|weight_u|weight|bias)", name
        )
        if match is None:
            if not tensorflow:
                renamed[name] = value
            continue
        layer = f"layers.{int(match[1]) - 1}"
        if match[2] == "bias":
            renamed[f"{layer}.bias"] = value
        elif match[2] in ("kernel", "weight"):
            renamed[f"{layer}.parametrizations.weight.original"] = _kernel(value) if tensorflow else value
        else:
            renamed[f"{layer}.parametrizations.weight.0._u"] = value.flatten()
    first = "layers.0.parametrizations.weight.original"
    if (tensorflow if bgr is None else bgr) and first in renamed:
        renamed[first] = _reverse_inputs(renamed[first])
    # torch keeps the vector of the other side, too.
    for name in [name for name in renamed if name.endswith("._u")]:
        matrix = renamed[name.replace("0._u", "original")].flatten(1)
        renamed.setdefault(name.replace("._u", "._v"), F.normalize(matrix.t() @ renamed[name], dim=0, eps=1e-12))
    return renamed
