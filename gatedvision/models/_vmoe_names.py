"""Published names of V-MoE's tensors, and their layouts, brought into ours."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# What each published name becomes, without "params/"; "Encoder/encoderblock_<i>/" is "blocks.<i>." before.
_RENAMED = (
    (r"^cls$", "cls_token"),
    (r"^Encoder/posembed_input/pos_embedding$", "pos_embed"),
    (r"^embedding/", "patch_embed.proj."),
    (r"^Encoder/encoder_norm/", "norm."),
    (r"^pre_logits/", "pre_logits.fc."),
    (r"^head/", "head."),
    (r"^Encoder/encoderblock_(\d+)/", r"blocks.\1."),
    (r"\.LayerNorm_0/", ".norm1."),
    (r"\.LayerNorm_1/", ".norm2."),
    (r"\.SelfAttention/query_ln/", ".attn.q_norm."),
    (r"\.SelfAttention/key_ln/", ".attn.k_norm."),
    (r"\.SelfAttention/out/", ".attn.proj."),
    (r"\.SelfAttention/(query|key|value)/", r".attn.\1."),
    (r"\.Moe/Router/dense/kernel$", ".mlp.router.weight"),
    (r"\.Moe/Router/(mu|scale)$", r".mlp.router.\1"),
    (r"\.Moe/Mlp/Dense_0/", ".mlp.experts.fc1."),
    (r"\.Moe/Mlp/Dense_1/", ".mlp.experts.fc2."),
    (r"\.Mlp/Dense_0/", ".mlp.fc1."),
    (r"\.Mlp/Dense_1/", ".mlp.fc2."),
    (r"(?<!router)\.(kernel|scale)$", ".weight"),
)


def strip(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors by name, bare: without ``model`` or ``state_dict`` around them and ``params/`` before them."""
    for container in ("model", "state_dict"):
        if isinstance(state_dict.get(container), Mapping):
            state_dict = state_dict[container]
    return {name.removeprefix("params/"): value for name, value in state_dict.items()}


def is_published(names: Any) -> bool:
    """Tell whether names are the published ones."""
    return any(name.startswith("Encoder/encoderblock_") for name in names)


def convert_published(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Bring published names and layouts into ours; a state dict in our names passes unchanged.

    Args:
        state_dict: tensors by name, bare or in a container.

    Raises:
        ValueError: if a block lacks one of queries, keys and values.
    """
    tensors = strip(state_dict)
    if not is_published(tensors):
        return tensors
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = _lay_out(name, torch.as_tensor(value))
    return _join_heads(renamed)


def _lay_out(name: str, value: Tensor) -> Tensor:
    """Turn a tensor the way torch has it, by its new name."""
    if re.search(r"\.attn\.(query|key|value)\.weight$", name):
        return value.flatten(1).T
    if re.search(r"\.attn\.(query|key|value)\.bias$", name):
        return value.flatten()
    if name.endswith(".attn.proj.weight"):
        return value.flatten(0, 1).T
    if name == "patch_embed.proj.weight":
        return value.permute(3, 2, 0, 1)
    if name.endswith(".router.weight"):
        # An ensemble's has an axis of members.
        return value.flatten(1).T
    if re.search(r"(^head|^pre_logits\.fc|\.mlp\.fc\d)\.weight$", name):
        return value.T
    return value


def _join_heads(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join queries, keys and values into one layer.

    Raises:
        ValueError: if one of them is missing.
    """
    joined = {}
    for name, value in tensors.items():
        found = re.match(r"(.*\.attn\.)(query|key|value)\.(weight|bias)$", name)
        if not found:
            joined[name] = value
        elif found[2] == "query":
            parts = [f"{found[1]}{part}.{found[3]}" for part in ("query", "key", "value")]
            missing = [part for part in parts if part not in tensors]
            if missing:
                raise ValueError(f"the checkpoint lacks {', '.join(missing)} beside {name}")
            joined[f"{found[1]}qkv.{found[3]}"] = torch.cat([tensors[part] for part in parts])
    return joined
