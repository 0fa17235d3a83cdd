"""Published weights: fetched with their checksum verified, renamed, and loaded strictly or not at all."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, TypeVar
from urllib.parse import urldefrag, urlsplit

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, resolve_pretrained_cfg
from timm.models._features import FeatureGetterNet
from timm.models._pretrained import PretrainedCfg
from torch import Tensor, nn

ModelT = TypeVar("ModelT", bound=nn.Module)
StateDict = Mapping[str, Tensor]
RenameRules = Sequence[tuple[str, Any]]


class DownloadError(RuntimeError, OSError):
    """Published weights could not be fetched, or are not what they were."""


def build_backbone(
    model_cls: type[ModelT],
    variant: str,
    pretrained: bool,
    filter_fn: Callable[[StateDict, nn.Module], dict[str, Tensor]],
    levels: Sequence[int],
    pretrained_cfg_overlay: Optional[dict[str, Any]] = None,
    **kwargs: Any,
) -> ModelT:
    """Build a model as timm does; with ``pretrained``, get hold of its weight file first.

    Args:
        model_cls: the network's class.
        variant: registered name of the model.
        pretrained: load weights.
        filter_fn: brings a state dict into the model's own names.
        levels: stages whose maps ``features_only`` returns by default.
        pretrained_cfg_overlay: entries that replace those of the pretrained cfg, such as ``file``.
        **kwargs: timm's and the network's own arguments.

    Raises:
        ValueError: if ``feature_cls`` names a way to take maps out that the network does not allow.
    """
    feature_cfg: dict[str, Any] = {"out_indices": tuple(levels), "feature_cls": "getter"}
    way = kwargs.get("feature_cls", "getter")
    if kwargs.get("features_only") and way not in ("getter", FeatureGetterNet):
        # Others than the getter take what stages pass on to each other, as it is.
        passed_on = getattr(model_cls, "passed_on", "NCHW")
        if passed_on is None:
            raise ValueError(
                f"feature_cls must be 'getter' for {variant}, got {way!r}: its blocks pass on no whole map"
            )
        feature_cfg["output_fmt"] = passed_on
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
        feature_cfg=feature_cfg,
        **kwargs,
    )


def imagenet_cfg(url: str, sha256: str, **kwargs: Any) -> dict[str, Any]:
    """Return timm's pretrained cfg of weights trained on ImageNet-1K at 224 pixels.

    Args:
        url: where the file lies; the checksum travels as the fragment of the URL.
        sha256: checksum of the file, 64 hexadecimal digits.
        **kwargs: entries of the family.
    """
    return {
        "url": f"{url}#sha256={sha256}",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "classifier": "head.fc",
        **kwargs,
    }


def _weight_file(variant: str, cfg: PretrainedCfg, cache_dir: Any) -> Optional[str]:
    """Return the local file of a model's weights, downloaded if need be; None leaves the source to timm.

    Raises:
        FileNotFoundError: if the file named in the cfg does not exist.
    """
    if cfg.state_dict or cfg.source in ("hf-hub", "local-dir"):
        return None
    if cfg.file:
        if not Path(cfg.file).is_file():
            raise FileNotFoundError(f"no weight file at {str(cfg.file)!r}, given as 'file' in pretrained_cfg_overlay")
        return str(cfg.file)
    if cfg.hf_hub_id or not isinstance(cfg.url, str):
        return None
    return _download(variant, cfg.url, Path(cache_dir) if cache_dir else Path(torch.hub.get_dir(), "checkpoints"))


def _download(variant: str, url: str, folder: Path) -> str:
    """Return the file behind a URL from the folder, downloaded into it and compared with its checksum if need be.

    Raises:
        DownloadError: if the download fails or the checksum is another one.
    """
    url, fragment = urldefrag(url)
    # Some links end in a query, which would be the same name for every file.
    path = folder / urlsplit(url).path.rstrip("/").rsplit("/", 1)[-1]
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=fragment.removeprefix("sha256="))
        except (OSError, RuntimeError) as error:
            raise DownloadError(
                f"cannot download the weights of {variant} from {url} ({error}); get the file by other means and "
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

    timm compares names only where it keeps the classifier, and drops a classifier of another size than the
    pretrained cfg's without a word.

    Args:
        state_dict: tensors by the model's names.
        model: the model to load them into.

    Returns:
        The state dict, ready for ``load_state_dict``.

    Raises:
        ValueError: if a name is missing or unknown, or the classes are not those of the pretrained cfg.
    """
    expected = model.state_dict()
    cfg = getattr(model, "pretrained_cfg", {})
    source = f"checkpoint {cfg['file']!r}" if cfg.get("file") else "checkpoint"
    wanted = getattr(model, "num_classes", 0)
    declared = cfg.get("num_classes", wanted)

    classifiers = cfg.get("classifier") or "head.fc"
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    names = [f"{classifier}.{leaf}" for classifier in classifiers for leaf in ("weight", "bias")]
    dropped = () if wanted == declared else names
    missing = [name for name in expected if name not in state_dict and name not in dropped]
    unexpected = [name for name in state_dict if name not in expected and name not in dropped]
    if missing or unexpected:
        raise ValueError(
            f"{source} does not fit {type(model).__name__}: missing {_shorten(missing)}; unexpected "
            f"{_shorten(unexpected)}; check that it is a file of this variant"
        )
    found = len(state_dict[names[1]]) if names[1] in state_dict else declared
    if found != declared and wanted in (found, declared):
        raise ValueError(
            f"{source} has {found} classes, its pretrained cfg {declared}; pass "
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
