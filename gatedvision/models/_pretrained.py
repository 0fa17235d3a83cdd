"""Published weights: fetched with their checksum verified, renamed, and loaded strictly or not at all."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional
from urllib.parse import urldefrag

import torch
from timm.models import build_model_with_cfg, resolve_pretrained_cfg
from timm.models._pretrained import PretrainedCfg
from torch import Tensor, nn

StateDict = Mapping[str, Tensor]
RenameRules = Sequence[tuple[str, Any]]


def build_backbone(
    model_cls: type[nn.Module],
    variant: str,
    pretrained: bool,
    filter_fn: Callable[[StateDict, nn.Module], dict[str, Tensor]],
    out_indices: Sequence[int],
    pretrained_cfg_overlay: Optional[dict[str, Any]] = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a model as timm does; with ``pretrained``, get hold of its weight file first.

    Args:
        model_cls: the network's class.
        variant: registered name of the model.
        pretrained: load weights.
        filter_fn: brings a state dict into the model's own names.
        out_indices: stages whose maps ``features_only`` returns by default.
        pretrained_cfg_overlay: entries that replace those of the pretrained cfg, such as ``file``.
        **kwargs: timm's and the network's own arguments.
    """
    overlay = dict(pretrained_cfg_overlay or {})
    if pretrained:
        cfg = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), overlay)
        file = _weight_file(variant, cfg, kwargs.get("cache_dir"))
        if file is not None:
            overlay["file"] = file
    if kwargs.get("features_only"):
        # The classifier would be built, loaded and thrown away.
        kwargs["num_classes"] = 0
    return build_model_with_cfg(
        model_cls,
        variant,
        pretrained,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=filter_fn,
        feature_cfg={"out_indices": tuple(out_indices), "feature_cls": "getter"},
        **kwargs,
    )


def _weight_file(variant: str, cfg: PretrainedCfg, cache_dir: Any) -> Optional[str]:
    """Return the local file of a model's weights, downloaded if need be; None leaves the source to timm."""
    if cfg.state_dict or cfg.source in ("hf-hub", "local-dir") or (cfg.hf_hub_id and not cfg.file):
        return None
    if cfg.file:
        if not Path(cfg.file).is_file():
            raise FileNotFoundError(f"no weight file at {str(cfg.file)!r}, given as 'file' in pretrained_cfg_overlay")
        return str(cfg.file)
    if not isinstance(cfg.url, str):
        return None
    url, checksum = urldefrag(cfg.url)
    folder = Path(cache_dir) if cache_dir else Path(torch.hub.get_dir(), "checkpoints")
    path = folder / url.rsplit("/", 1)[-1]
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=checksum.removeprefix("sha256="))
        except (OSError, RuntimeError) as error:
            raise RuntimeError(
                f"cannot download the weights of {variant} from {url} ({error}); fetch the file by other means and "
                f"pass pretrained_cfg_overlay=dict(file=PATH)"
            ) from error
    return str(path)


def rename_published(state_dict: Mapping[str, Any], rules: RenameRules) -> dict[str, Tensor]:
    """Bring published names into our own; a state dict in our names passes unchanged.

    Args:
        state_dict: tensors by name, bare or under ``model``.
        rules: pairs of pattern and replacement (or function) for ``re.sub``, applied in order.
    """
    state_dict = state_dict.get("model", state_dict)
    if any(name.startswith("stages.") for name in state_dict):
        return dict(state_dict)
    renamed = {}
    for name, value in state_dict.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def match_model(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Check that a state dict is the model's, and give linear weights stored as 1x1 convolutions their two axes.

    timm compares names only where the classifier is kept. A classifier of another size than the
    model's is left to timm, which drops it.

    Args:
        state_dict: tensors by the model's names.
        model: the model to load them into.

    Returns:
        The state dict, ready for ``load_state_dict``.

    Raises:
        ValueError: if a name is missing or unknown, or the classes are not those of the pretrained cfg.
    """
    expected = model.state_dict()
    cfg = getattr(model, "pretrained_cfg", None) or {}
    source = f"checkpoint {str(cfg.get('file'))!r}" if cfg.get("file") else "checkpoint"
    num_classes = cfg.get("num_classes", getattr(model, "num_classes", 0))

    classifier = {"head.fc.weight", "head.fc.bias"}
    dropped = classifier if getattr(model, "num_classes", 0) != num_classes else set()
    missing = [name for name in expected if name not in state_dict and name not in dropped]
    unexpected = [name for name in state_dict if name not in expected and name not in dropped]
    if missing or unexpected:
        raise ValueError(
            f"{source} does not fit {type(model).__name__}: missing {_shorten(missing)}; unexpected "
            f"{_shorten(unexpected)}; check that it is the file of this variant"
        )
    if "head.fc.bias" in state_dict and len(state_dict["head.fc.bias"]) != num_classes:
        found = len(state_dict["head.fc.bias"])
        raise ValueError(
            f"{source} has {found} classes, its pretrained cfg {num_classes}; say so with "
            f"pretrained_cfg_overlay=dict(file=PATH, num_classes={found})"
        )
    return {
        name: value.flatten(1) if value.ndim == 4 and name in expected and expected[name].ndim == 2 else value
        for name, value in state_dict.items()
    }


def _shorten(names: list[str], limit: int = 6) -> str:
    """List names, the first few of many."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "nothing") + rest
