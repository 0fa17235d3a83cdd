"""One row per model; every check of the contract runs on every row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm


@dataclass(frozen=True)
class Case:
    """A registered model.

    Attributes:
        name: its registered name.
        num_params: parameters with 1000 classes.
        channels: channels of each map that ``features_only`` returns.
        reductions: strides of these maps, pixels.
        small: arguments that make a quick network of the same make, for what does not depend on size.
    """

    name: str
    num_params: int
    channels: Sequence[int]
    reductions: Sequence[int]
    small: dict[str, Any]

    def create(self, **kwargs: Any) -> Any:
        """Build the small network."""
        return timm.create_model(self.name, **{"num_classes": 10, **self.small, **kwargs})

    def __str__(self) -> str:
        return self.name


SMALL_VIG = {"dim": 32, "depth": 4, "num_heads": 2}
SMALL_VIG_H = {"dims": (16, 32, 48, 64), "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4)}
STRIDES = (4, 8, 16, 32)

CASES = [
    Case("vig_t", 5_834_536, (192,) * 4, (16,) * 4, SMALL_VIG),
    Case("vig_s", 22_615_144, (384,) * 4, (16,) * 4, SMALL_VIG),
    Case("vig_b", 89_022_184, (768,) * 4, (16,) * 4, SMALL_VIG),
    Case("vig_h_t", 28_600_680, (96, 192, 384, 768), STRIDES, SMALL_VIG_H),
    Case("vig_h_s", 50_051_688, (96, 192, 384, 768), STRIDES, SMALL_VIG_H),
    Case("vig_h_b", 88_904_360, (128, 256, 512, 1024), STRIDES, SMALL_VIG_H),
]
