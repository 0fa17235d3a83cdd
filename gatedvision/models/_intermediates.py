"""What timm's vision transformers return of their blocks."""

from collections.abc import Sequence
from typing import Any, Optional

from torch import Tensor


def arrange_intermediates(
    maps: Sequence[Tensor], prefixes: Sequence[Tensor], final: Optional[Tensor], as_dict: bool
) -> Any:
    """Arrange maps as ``forward_intermediates`` returns them.

    Args:
        maps: of the chosen blocks.
        prefixes: their prefix tokens, or nothing if they are not asked for.
        final: the final tokens, or ``None`` if they are not asked for.
        as_dict: return timm's dictionary.

    Returns:
        The list of maps, or of pairs of map and prefix tokens, after the final tokens if there are any; or the
        dictionary of ``image_intermediates``, ``image_intermediates_prefix`` and ``image_features``.
    """
    if as_dict:
        found: dict[str, Any] = {"image_intermediates": list(maps)}
        if prefixes:
            found["image_intermediates_prefix"] = list(prefixes)
        if final is not None:
            found["image_features"] = final
        return found
    taps = list(zip(maps, prefixes, strict=True)) if prefixes else list(maps)
    return taps if final is None else (final, taps)
