"""Medical images with label maps: grey or colour, of 8 or 16 bits or floating point, scaled one by one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.registry import TRANSFORMS
from PIL import Image, ImageOps

from gatedvision.data.image_reader import UnreadableImageError, to_rgb
from gatedvision.data.intensity import IntensityScaling
from gatedvision.data.segmentation import SegmentationFolder, describe_sizes, make_sample

_GREY_MODES = ("1", "L", "F")
# Of red, green and blue in brightness (ITU-R BT.601).
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class MedicalImageFolder(SegmentationFolder):
    """Images and label maps in two folders, as of :class:`SegmentationFolder`, with every value that the files hold.

    Grey PNG and TIFF files of 8, 16 or 32 bits or of floating point keep their precision; everything else is read as
    RGB of 8 bits. A sample's ``inputs`` are float32 ``[channels, H, W]`` in the range of its ``intensity``.

    Args:
        images: folder of the images.
        labels: folder of the label files.
        classes: names of the classes, the background first.
        intensity: arguments of :class:`IntensityScaling`, which is applied to each image.
        channels: 1 or 3; grey is repeated, colours are averaged by their brightness.
        patch: :class:`RandomPatch`, or a config of it, to cut out of what the transforms made; ``None`` for none.
        **options: ``label_ids``, ``ignored_ids``, ``image_suffix``, ``label_suffix`` and ``transforms`` of
            :class:`SegmentationFolder`.

    Raises:
        ValueError: ``channels`` is neither 1 nor 3, or an option is out of range.
        FileNotFoundError: a folder, the images or labels of some of them are missing.
    """

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        classes: Sequence[str],
        intensity: Mapping[str, Any] | None = None,
        channels: int = 3,
        patch: Any | None = None,
        **options: Any,
    ) -> None:
        super().__init__(images, labels, classes, **options)
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        self.channels = channels
        self.scale = IntensityScaling(**(intensity or {}))
        self.patch = TRANSFORMS.build(dict(patch)) if isinstance(patch, Mapping) else patch

    def __getitem__(self, index: int) -> dict[str, Any]:
        image_path, label_path, name = self.samples[index]
        values, labels = read_intensities(image_path), self.read_labels(label_path)
        if values.shape[:2] != labels.shape:
            raise ValueError(describe_sizes(image_path, values, label_path, labels))
        try:
            image = to_channels(self.scale(values), self.channels)
        except ValueError as error:
            raise ValueError(f"image '{image_path}': {error}") from error
        sample = make_sample(image, labels, name, self.transforms)
        if self.patch is not None:
            sample["inputs"], sample["labels"] = self.patch(sample["inputs"], sample["labels"])
        return sample


def read_intensities(path: Path) -> np.ndarray:
    """Read an image file with all the precision it has.

    The EXIF orientation is applied, and transparency laid over white.

    Args:
        path: the file.

    Returns:
        float32 ``[H, W, C]``, values as stored: one channel of a grey image, else red, green and blue.

    Raises:
        UnreadableImageError: the file is missing, damaged, no image, or a stack of several.
    """
    try:
        with Image.open(path) as image:
            _check_single(image)
            image.load()
            turned = ImageOps.exif_transpose(image)
            is_grey = turned.mode in _GREY_MODES or turned.mode.startswith("I")
            values = np.asarray(turned if is_grey else to_rgb(turned), dtype=np.float32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()).replace(f"'{path}'", "").strip()
        raise UnreadableImageError(f"cannot read image '{path}': {reason}") from error
    return values if values.ndim == 3 else values[..., None]


def _check_single(image: Image.Image) -> None:
    """Refuse a stack.

    Raises:
        ValueError: it is one.
    """
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise ValueError(f"it holds {pages} images; store a stack as a volume (.nii.gz or .npy)")


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Make an image grey or coloured.

    Args:
        image: float32 ``[H, W, 1]`` or ``[H, W, 3]``.
        channels: 1 or 3.

    Returns:
        float32 ``[H, W, channels]``.
    """
    if image.shape[2] == channels:
        return image
    return image.repeat(3, axis=2) if channels == 3 else (image @ _LUMINANCE)[..., None]
