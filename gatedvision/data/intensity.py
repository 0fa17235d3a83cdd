"""Grey values of any scanner or camera as numbers of one scale."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

_MODES = ("percentile", "min_max", "window", "z_score", "none")


class IntensityScaling:
    """Scales the grey values of an image or volume, which every scanner and camera counts from elsewhere.

    - ``"percentile"``: between the two ``percentiles`` of the image itself, cut off, to [0, 1]. A few very bright or
      dark pixels then change nothing, and dark microscopy becomes visible.
    - ``"min_max"``: between its least and greatest value, to [0, 1].
    - ``"window"``: between two given values, cut off, to [0, 1], such as -160 to 240 Hounsfield units.
    - ``"z_score"``: to zero mean and unit variance.
    - ``"none"``: as they are stored.

    All channels of an image are scaled alike, which keeps its hues. What is constant becomes 0.

    Args:
        mode: one of them.
        percentiles: for ``"percentile"``, in percent.
        window: for ``"window"``, lower and upper value; with ``"z_score"`` values are cut off there first.

    Raises:
        ValueError: the mode is unknown, or a range is empty or missing.
    """

    def __init__(
        self,
        mode: Literal["percentile", "min_max", "window", "z_score", "none"] = "percentile",
        percentiles: Sequence[float] = (0.5, 99.5),
        window: Sequence[float] | None = None,
    ) -> None:
        if mode not in _MODES:
            raise ValueError(f"intensity mode must be one of {', '.join(_MODES)}, got {mode!r}")
        low, high = percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles must rise within 0..100, got {tuple(percentiles)}")
        if mode == "window" and window is None:
            raise ValueError('intensity mode "window" needs window=(low, high)')
        if window is not None and (len(window) != 2 or window[0] >= window[1]):
            raise ValueError(f"window must be two rising values, got {tuple(window)}")
        self.mode = mode
        self.percentiles = (low, high)
        self.window = None if window is None else (window[0], window[1])

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Scale an image.

        Args:
            values: of any shape and type.

        Returns:
            float32 of the same shape.

        Raises:
            ValueError: there are no values, or some are infinite or NaN.
        """
        values = np.asarray(values, dtype=np.float32)
        if values.size == 0:
            raise ValueError(f"an image of shape {values.shape} is empty")
        if not np.isfinite(values).all():
            raise ValueError(f"{int((~np.isfinite(values)).sum())} of {values.size} values are infinite or NaN")
        if self.mode == "none":
            return values
        if self.mode == "z_score":
            values = values if self.window is None else values.clip(*self.window)
            # In double precision: a volume has more voxels than float32 counts.
            mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
            return (values - np.float32(mean)) / np.float32(deviation if deviation > 0 else 1.0)
        if self.mode == "window" and self.window is not None:
            low, high = self.window
        elif self.mode == "percentile":
            low, high = np.percentile(values, self.percentiles).tolist()
        else:
            low, high = float(values.min()), float(values.max())
        if high <= low:
            # Hardly anything is not black, such as a few bright spots: the percentiles agree, the extremes do not.
            low, high = float(values.min()), float(values.max())
        if high <= low:
            return np.zeros_like(values)
        return ((values - np.float32(low)) / np.float32(high - low)).clip(0, 1)
