"""What a model takes: images of its own or of another size, volumes, an image with a hole."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatedvision.models import DeepFillV2

# Of models that say nothing.
SIDE = 224
# Of a volume whose first two sides are those of the model's images.
THIRD_SIDE = 96


def find_sides(model: nn.Module, size: int | None) -> list[int]:
    """Return the sides of an image, or of a volume for models of such, pixels.

    Args:
        model: one of timm's, ours among them, or any other.
        size: all of them; the model's own by default.
    """
    axes: Any = getattr(model, "spatial_dims", 2)
    if size is not None:
        return [size] * axes
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    return [*config.get("input_size", (3, SIDE, SIDE))[1:], THIRD_SIDE][:axes]


def name_sides(sides: Sequence[int]) -> int | str:
    """Return the side of a square image, or all sides as text."""
    return sides[0] if len(sides) == 2 and sides[0] == sides[1] else " x ".join(map(str, sides))


def make_inputs(model: nn.Module, batch: int, sides: Sequence[int], device: str | torch.device = "cpu") -> list[Tensor]:
    """Return random images ``[B, C, *sides]``, and for a generator a mask with a hole in the middle."""
    in_chans: Any = getattr(model, "in_chans", 3)
    inputs = [torch.randn(batch, in_chans, *sides, device=device)]
    if isinstance(model, DeepFillV2):
        mask = torch.zeros(batch, 1, *sides, device=device)
        mask[:, :, sides[0] // 4 : -(sides[0] // 4), sides[1] // 4 : -(sides[1] // 4)] = 1
        inputs.append(mask)
    return inputs
