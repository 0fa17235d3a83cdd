"""Published checkpoints of V-MoE: files of many parts, read without the published code, and brought into ours."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from gatedvision.models._pretrained import match_model
from gatedvision.models._vmoe_names import convert_published, is_published
from gatedvision.models.vmoe import VMoE, default_cfgs, every_second, last_odd

LICENCE = "V-MoE's code is Apache-2.0; its repository states no terms of their own for the weights"
# Types of values that the published code defines.
ARRAY, SCALAR, SLICES, ENTRY = 1, 3, 6, 8
Extension = tuple[int, bytes]
CHUNKS = "__msgpack_array_chunk_a87ca2__"


def prefix_of(source: Path) -> Path:
    """Return a checkpoint's prefix, given that or its index file."""
    return source.with_suffix("") if source.suffix == ".index" else source


def holds_vmoe(source: Path) -> bool:
    """Tell whether a prefix, or an index file, is of a checkpoint in the published format."""
    index = Path(f"{prefix_of(source)}.index")
    if not index.is_file():
        return False
    # Other checkpoints have index files, too; this one is a dictionary of up to 15 entries with this among its keys.
    data = index.read_bytes()
    return 0x80 < (data[0] if data else 0) < 0x90 and b"shard_count" in data


def read_checkpoint(source: Path) -> dict[str, np.ndarray]:
    """Read a published checkpoint.

    Args:
        source: its prefix, or its index file; the parts lie beside it.

    Returns:
        Arrays by name, as ``Encoder/encoderblock_0/LayerNorm_0/scale``.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or a piece of an array is missing.
    """
    prefix = prefix_of(source)
    index = _unpack_file(Path(f"{prefix}.index"))
    if not isinstance(index, Mapping) or not {"shard_count", "index"} <= set(index):
        raise ValueError(f"{str(prefix)!r}.index is no index of a checkpoint of V-MoE")
    count = index["shard_count"]
    entries = dict(_leaves(index["index"]))
    # Leaves are numbered in this order.
    names = list(entries)
    arrays = {name: np.empty(*_shape_and_dtype(entry)) for name, entry in entries.items()}
    missing = {name: array.size for name, array in arrays.items()}
    for shard in range(count):
        for leaf, pieces in _chunks(Path(f"{prefix}.data-{shard:05d}-of-{count:05d}")):
            name = names[int(leaf)]
            for parts, where in pieces:
                target = arrays[name][_slices(where)]
                values = np.concatenate([_array(part) for part in parts])
                if target.size != values.size:
                    raise ValueError(f"a piece of {name} has {values.size} values for {target.size} places")
                target[...] = values.reshape(target.shape)
                missing[name] -= values.size
    torn = [name for name, size in missing.items() if size]
    if torn:
        raise ValueError(f"the parts of {str(prefix)!r} do not hold all of {', '.join(torn[:3])}")
    return arrays


def _unpack(data: bytes) -> Any:
    """Read a value; those of the published code's own types are tuples ``(type, bytes)``.

    Raises:
        ModuleNotFoundError: msgpack is not installed.
    """
    try:
        import msgpack
    except ModuleNotFoundError as error:
        message = "V-MoE's published checkpoints need msgpack: pip install 'gatedvision[vmoe]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    return msgpack.unpackb(data, strict_map_key=False)


def _unpack_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}: a checkpoint is an index and all of its parts")
    try:
        return _unpack(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"cannot read {str(path)!r}: {str(error) or type(error).__name__}") from error


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Extension]]:
    """Go through a tree of dictionaries, in the order of the keys as text."""
    for key in sorted(tree):
        name = f"{prefix}{key}"
        if isinstance(tree[key], Mapping):
            yield from _leaves(tree[key], f"{name}/")
        else:
            yield name, tree[key]


def _chunks(path: Path) -> Iterator[tuple[str, Any]]:
    content = _unpack_file(path)
    if not isinstance(content, Mapping) or not content.get(CHUNKS):
        raise ValueError(f"{str(path)!r} is no part of a checkpoint of V-MoE")
    yield from ((leaf, pieces) for leaf, pieces in content.items() if leaf != CHUNKS)


def _body(value: Any, *kinds: int) -> Any:
    if not isinstance(value, tuple) or value[0] not in kinds:
        found = f"type {value[0]}" if isinstance(value, tuple) else type(value).__name__
        raise ValueError(f"expected a value of type {' or '.join(map(str, kinds))} in the checkpoint, found {found}")
    return _unpack(value[1])


def _dtype(name: str) -> np.dtype:
    try:
        return np.dtype(name)
    except TypeError as error:
        raise ValueError(f"numpy has no dtype {name!r}, of which the checkpoint has arrays") from error


def _shape_and_dtype(entry: Extension) -> tuple[tuple[int, ...], np.dtype]:
    shaped, _, _ = _body(entry, ENTRY)
    # Values within values are packed without their type.
    shape, dtype, *_ = _unpack(shaped)
    return tuple(shape), _dtype(dtype)


def _slices(where: Extension) -> tuple[slice, ...]:
    return tuple(slice(*_unpack(part)) for part in _body(where, SLICES))


def _array(part: Extension) -> np.ndarray:
    shape, dtype, data = _body(part, ARRAY, SCALAR)
    return np.frombuffer(data, _dtype(dtype)).reshape(shape).reshape(-1)


def arguments_of(published: Mapping[str, Any]) -> dict[str, Any]:
    """Read from the shapes of published tensors with which arguments to build the network.

    What no shape tells, k, the capacity and the size of groups, is left to the defaults; so are the members of an
    ensemble whose router has lost their axis.

    Args:
        published: tensors by their published names.

    Raises:
        ValueError: if they are none of such a network.
    """
    shapes = {name.removeprefix("params/"): tuple(value.shape) for name, value in published.items()}
    try:
        patch, _, in_chans, dim = shapes["embedding/kernel"]
        depth = 1 + max(int(name.split("/")[1][13:]) for name in shapes if name.startswith("Encoder/encoderblock_"))
        blocks = [f"Encoder/encoderblock_{index}" for index in range(depth)]
        num_heads = shapes[f"{blocks[0]}/SelfAttention/query/kernel"][1]
        experts = [index for index, block in enumerate(blocks) if f"{block}/Moe/Mlp/Dense_0/kernel" in shapes]
        num_experts, _, hidden = shapes[f"{blocks[experts[0]]}/Moe/Mlp/Dense_0/kernel"]
        positions = shapes["Encoder/posembed_input/pos_embedding"][1] - ("cls" in shapes)
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"no checkpoint of V-MoE: it lacks a tensor or has it in another shape ({error})") from error
    arguments: dict[str, Any] = {
        "img_size": round(positions**0.5) * patch,
        "patch_size": patch,
        "in_chans": in_chans,
        "num_classes": shapes.get("head/bias", (0,))[0],
        "embed_dim": dim,
        "depth": depth,
        "num_heads": num_heads,
        "mlp_ratio": hidden / dim,
        "representation_size": shapes.get("pre_logits/bias", (0,))[0],
        "expert_blocks": tuple(experts),
        "num_experts": num_experts,
    }
    if "cls" not in shapes:
        arguments |= {"class_token": False, "global_pool": "avg"}
    if f"{blocks[0]}/SelfAttention/query_ln/scale" in shapes:
        arguments["qk_norm"] = True
    router = f"{blocks[experts[0]]}/Moe/Router"
    if f"{router}/mu" in shapes:
        arguments |= {"routing": "soft", "num_slots": shapes[f"{router}/mu"][2]}
    elif len(shapes.get(f"{router}/dense/kernel", ())) == 3:
        arguments |= {"num_members": shapes[f"{router}/dense/kernel"][1], "num_selected": 1}
    return arguments


def convert_checkpoint(source: Path, out: Path) -> str:
    """Convert a published checkpoint into a file of ours.

    Args:
        source: as in :func:`read_checkpoint`.
        out: file to write, ``.safetensors`` or ``.pth``.

    Returns:
        What was found and how the result loads, with the licence, one line each.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if it is no such checkpoint, or the ending of ``out`` is not known.
    """
    if out.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"the output must end in .safetensors or .pth, got {str(out)!r}")
    published = {name: torch.from_numpy(array) for name, array in read_checkpoint(source).items()}
    if not is_published(published):
        raise ValueError(f"{str(source)!r} holds no V-MoE: none of its names begins with Encoder/encoderblock_")
    arguments = arguments_of(published)
    weights = {name: value.contiguous() for name, value in convert_published(published).items()}
    del published
    model = VMoE(**arguments, device="meta")
    weights = match_model(weights, model)
    _check_shapes(model, weights, source)
    use = _how_to_load(arguments, out)
    notes = {"source": prefix_of(source).name, "use": use, "licence": LICENCE}
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".safetensors":
        save_file(weights, out, metadata=notes)
    else:
        torch.save({"state_dict": weights, **notes}, out)
    blocks = ", ".join(map(str, arguments["expert_blocks"]))
    found = f"V-MoE with {arguments['num_experts']} experts in each of blocks {blocks}"
    return f"{source}: {found}\nwrote {out}, {len(weights)} tensors; load it by {use}\n{LICENCE}"


def _check_shapes(model: VMoE, weights: Mapping[str, Tensor], source: Path) -> None:
    try:
        model.load_state_dict(dict(weights), assign=True)
    except RuntimeError as error:
        problems = [line.strip() for line in str(error).splitlines()[1:]]
        raise ValueError(f"{str(source)!r} does not fit VMoE: {' '.join(problems)[:300]}") from error


def _how_to_load(arguments: Mapping[str, Any], out: Path) -> str:
    """Write the call that builds the network and loads the file."""
    depth, blocks = arguments["depth"], tuple(arguments["expert_blocks"])
    size = {512: "s", 768: "b", 1024: "l", 1280: "h"}.get(arguments["embed_dim"])
    suffix = f"e{arguments['num_experts']}"
    places = {every_second(depth): "every2", last_odd(2, depth): "last2", last_odd(5, depth): "last5"}
    name = f"vmoe_{size}{arguments['patch_size']}_{places.get(blocks)}_{suffix}"
    classes = arguments["num_classes"]
    if not any(cfg == name for cfg in default_cfgs):
        options = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        read = f"torch.load({str(out)!r})['state_dict']"
        if out.suffix == ".safetensors":
            read = f"safetensors.torch.load_file({str(out)!r})"
        return f"VMoE({options}).load_state_dict({read})"
    # Only what the name does not say.
    told = ("img_size", "representation_size", "num_members", "num_selected")
    own = {key: arguments[key] for key in told if key in arguments and (key, arguments[key]) != ("img_size", 224)}
    options = "".join(f", {key}={value!r}" for key, value in {"num_classes": classes, **own}.items())
    overlay = f"dict(file={str(out)!r}, num_classes={classes})"
    return f"timm.create_model({name!r}, pretrained=True, pretrained_cfg_overlay={overlay}{options})"
