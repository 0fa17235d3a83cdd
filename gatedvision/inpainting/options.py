"""What can be chosen about filling holes, checked once."""

from dataclasses import dataclass

import torch

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Options:
    """How masks are read and how the network is run.

    Args:
        threshold: a pixel is a hole where the mask is above this fraction of its full scale, 0 to below 1.
        invert: the mask marks what is known instead of the hole.
        dilate: pixels by which every hole grows first, for masks that do not quite cover the damage.
        max_size: longest side the network is run at, pixels; see :mod:`gatedvision.inpainting.windows`.
        amp: precision of the network, ``"bf16"``, ``"fp16"`` or ``None`` for full.

    Raises:
        ValueError: a value is out of its range.
    """

    threshold: float = 0.5
    invert: bool = False
    dilate: int = 0
    max_size: int = 512
    amp: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(
                f"threshold must be a fraction of the mask's full scale, 0 to below 1, got {self.threshold:g}"
            )
        if self.dilate < 0:
            raise ValueError(f"dilate must be 0 pixels or more, got {self.dilate}")
        if self.max_size < 64:
            raise ValueError(f"max_size must be at least 64 pixels, got {self.max_size}")
        if self.amp is not None and self.amp not in AMP_DTYPES:
            raise ValueError(f"amp must be one of {', '.join(AMP_DTYPES)} or None, got {self.amp!r}")
