"""Images with holes: any folder of images, fixed pairs of image and mask, and crops of photographs.

A sample is ``dict(inputs=..., mask=..., name=...)``: the whole image as bytes ``[3, H, W]``, the hole as bytes
``[1, H, W]``, 1 where the image is to be filled, and what it is called; with sketches also ``sketch``, bytes
``[1, H, W]``, 1 on the lines.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from gatedvision.data._files import IMAGE_SUFFIXES, expand_path, images_in
from gatedvision.data.free_form_mask import FreeFormMask
from gatedvision.data.image_reader import read_image
from gatedvision.data.mask_folder import MaskFolder, fit_mask, read_mask
from gatedvision.data.segmentation_transforms import LabelTransforms

_REMEDY = "set GATEDVISION_DATA, or the paths of the data set (--cfg-options train_dataloader.dataset.images=PATH ...)"
_SKETCH_ENDING = "_edge"
# Of full scale; less bright pixels of a sketch are no lines.
_LINE = 0.6
_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina")
# A quarter of the narrowest photograph, where the held-out images are.
_LARGEST_CROP = 112


class InpaintingFolder(Dataset[dict[str, Any]]):
    """All images below a folder, in sorted order, each with a hole.

    Args:
        images: the folder. ``$NAME`` and ``~`` are expanded; ``$GATEDVISION_DATA`` is ``data`` when unset.
        masks: where holes come from: a :class:`FreeFormMask` or a :class:`MaskFolder`, a config of one of them, or the
            folder of a :class:`MaskFolder`. Holes are made for the image as its transforms left it.
        transforms: albumentations transforms, or configs of them, which also see the sketch. For images of any size:
            :class:`EnlargeToCover`, then ``RandomCrop``.
        with_sketch: read the lines of ``a/b.jpg`` from ``a/b_edge.<type>``, of the same size: where the first channel
            is brighter than 0.6 of full scale.
        repeats: how often an epoch shows each image, each time with other random numbers.

    Raises:
        FileNotFoundError: the folder, its images or one of the sketches is missing.
        ValueError: ``repeats`` is less than one.
        TypeError: ``masks`` is none of those.
    """

    def __init__(
        self,
        images: str | Path,
        masks: Any,
        transforms: Sequence[Any] = (),
        with_sketch: bool = False,
        repeats: int = 1,
    ) -> None:
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {repeats}")
        folder = expand_path(images)
        if not folder.is_dir():
            raise FileNotFoundError(f"no data folder '{folder}'; {_REMEDY}")
        paths = images_in(folder, recursive=True)
        self.paths, self._sketches = _set_sketches_apart(paths)
        if not self.paths:
            raise FileNotFoundError(f"no image in '{folder}'; {_REMEDY}")
        if with_sketch:
            _check_sketches(self.paths, self._sketches)
        self.names = [path.relative_to(folder).with_suffix("").as_posix() for path in self.paths]
        self.masks = _build_masks(masks)
        self.transforms = LabelTransforms(transforms) if transforms else None
        self.with_sketch = with_sketch
        self.repeats = repeats
        self.metainfo: dict[str, Any] = {}

    def __len__(self) -> int:
        return self.repeats * len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        place = index % len(self.paths)
        path = self.paths[place]
        image = np.asarray(read_image(path))
        sketch = read_sketch(self._sketches[path.with_suffix("")]) if self.with_sketch else None
        if sketch is not None and sketch.shape != image.shape[:2]:
            raise ValueError(
                f"image '{path}' is of {image.shape[1]}x{image.shape[0]} pixels, its sketch of "
                f"{sketch.shape[1]}x{sketch.shape[0]}; a sketch has to be of the same size"
            )
        image, sketch = _transform(self.transforms, image, sketch)
        return make_sample(image, self.masks(*image.shape[:2], place), self.names[place], sketch)


class InpaintingPairs(Dataset[dict[str, Any]]):
    """Fixed pairs of image and mask for evaluation, as a file lists them.

    The file is JSON, a list of records with ``image`` and ``mask``, paths from the file's folder on; what else a
    record holds is not read. Masks are white in the hole and are stretched to their images.

    Args:
        pairs: the file. ``$NAME`` and ``~`` are expanded; ``$GATEDVISION_DATA`` is ``data`` when unset.
        with_sketch: read the lines beside the images, as :class:`InpaintingFolder` does.

    Raises:
        FileNotFoundError: the file, an image, a mask or a sketch is missing.
        ValueError: the file holds something else.
    """

    def __init__(self, pairs: str | Path, with_sketch: bool = False) -> None:
        path = expand_path(pairs)
        if not path.is_file():
            raise FileNotFoundError(f"no list of pairs '{path}'; {_REMEDY.replace('images', 'pairs')}")
        self.pairs = _read_pairs(path)
        self.with_sketch = with_sketch
        self._sketches = {image: _find_sketch(image) for image, _, _ in self.pairs} if with_sketch else {}
        self.metainfo: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image_path, mask_path, name = self.pairs[index]
        image = np.asarray(read_image(image_path))
        mask = fit_mask(read_mask(mask_path), *image.shape[:2])
        sketch = read_sketch(self._sketches[image_path]) if self.with_sketch else None
        return make_sample(image, mask, name, None if sketch is None else fit_mask(sketch, *image.shape[:2]))


class InpaintingPhotographs(Dataset[dict[str, Any]]):
    """Crops of six photographs that scikit-image ships (CC0 or public domain), for trials without a download.

    Crops for training lie in the left three quarters of a photograph, anywhere and anew in each epoch, those for
    validation in its right quarter. The latter and their holes depend on their place and size alone; they cover 1 to
    10, 10 to 20, ... 40 to 50 % of the image in turn.

    Args:
        split: ``"train"`` or ``"val"``.
        length: number of images.
        size: side of the crops, pixels, 16 to 112.
        masks: where the holes of training come from, as for :class:`InpaintingFolder`.
        transforms: albumentations transforms of the training crops, or configs of them.

    Raises:
        ValueError: unknown split, or length or size out of range.
        ModuleNotFoundError: scikit-image is not installed.
    """

    def __init__(
        self,
        split: str,
        length: int = 64,
        size: int = 64,
        masks: Any = None,
        transforms: Sequence[Any] = (),
    ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"split of the photographs must be 'train' or 'val', got {split!r}")
        if length < 1 or not 16 <= size <= _LARGEST_CROP:
            raise ValueError(
                f"length must be at least 1 and size 16 to {_LARGEST_CROP}, got length={length} and size={size}"
            )
        self.split = split
        self.length = length
        self.size = size
        self._photographs = _load_photographs()
        self.masks = _build_masks(masks if masks is not None else FreeFormMask())
        self.transforms = LabelTransforms(transforms) if transforms else None
        self.metainfo: dict[str, Any] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        photograph = self._photographs[index % len(self._photographs)]
        edge = 3 * photograph.shape[1] // 4
        name = f"{self.split}_{index:05d}"
        if self.split == "train":
            image, _ = _transform(self.transforms, self._crop(photograph[:, :edge]), None)
            return make_sample(image, self.masks(*image.shape[:2], index), name)
        # The random numbers that follow outside stay what they were.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * self.size + index)
            image = self._crop(photograph[:, edge:])
            low = 0.1 * (index // len(self._photographs) % 5)
            draw = FreeFormMask(rectangle=0, strokes=(1, 10), brush=(8, 28), area=(max(low, 0.01), low + 0.1))
            return make_sample(image, draw(self.size, self.size), name)

    def _crop(self, pixels: np.ndarray) -> np.ndarray:
        top, left = (int(torch.randint(side - self.size + 1, ())) for side in pixels.shape[:2])
        return pixels[top : top + self.size, left : left + self.size]


def read_sketch(path: Path) -> np.ndarray:
    """Read the lines that guide what is filled in.

    Args:
        path: image file.

    Returns:
        uint8 ``[H, W]``, 1 where the first channel is brighter than 0.6 of full scale.

    Raises:
        UnreadableImageError: the file is missing or damaged.
    """
    return (np.asarray(read_image(path))[..., 0] > 255 * _LINE).astype(np.uint8)


def make_sample(image: np.ndarray, mask: np.ndarray, name: str, sketch: np.ndarray | None = None) -> dict[str, Any]:
    """Turn an image and its hole into tensors.

    Args:
        image: uint8 ``[H, W, 3]``.
        mask: uint8 ``[H, W]``, 1 in the hole.
        name: what the image is called.
        sketch: uint8 ``[H, W]``, 1 on the lines, or ``None``.

    Returns:
        A sample as the module describes it.
    """
    # Pillow's pixels are read-only, and torch wants to own what it writes to.
    inputs = torch.tensor(image).permute(2, 0, 1).contiguous()
    sample: dict[str, Any] = {"inputs": inputs, "mask": torch.tensor(mask)[None], "name": name}
    if sketch is not None:
        sample["sketch"] = torch.tensor(sketch)[None]
    return sample


def collate_inpainting(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put samples of images with holes into one batch.

    Args:
        samples: dictionaries with ``inputs``, ``mask``, ``name`` and perhaps ``sketch``.

    Returns:
        ``inputs`` ``[B, 3, H, W]``, ``masks`` and perhaps ``sketches`` ``[B, 1, H, W]``, or lists of ``[C, H_i, W_i]``
        where the images differ in size; and ``names``.
    """
    batch: dict[str, Any] = {"names": [sample["name"] for sample in samples]}
    for key, plural in (("inputs", "inputs"), ("mask", "masks"), ("sketch", "sketches")):
        tensors: list[Tensor] = [sample[key] for sample in samples if key in sample]
        if tensors:
            same_shape = len({tensor.shape for tensor in tensors}) == 1
            # In a worker process this stacks into shared memory, where the batch has to go anyway.
            batch[plural] = default_collate(tensors) if same_shape else tensors
    return batch


def _build_masks(masks: Any) -> Callable[..., np.ndarray]:
    """Make what draws or reads holes.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(masks, str | Path):
        return MaskFolder(masks)
    draw: Any = TRANSFORMS.build(dict(masks)) if isinstance(masks, Mapping) else masks
    if not isinstance(draw, Callable):
        raise TypeError(f"masks must be a folder, a FreeFormMask or a MaskFolder, or the config of one, got {masks!r}")
    return draw


def _transform(
    transforms: LabelTransforms | None, image: np.ndarray, sketch: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    if transforms is None:
        return image, sketch
    blank = np.zeros(image.shape[:2], dtype=np.uint8)
    image, lines = transforms(image, blank if sketch is None else sketch)
    return image, None if sketch is None else lines


def _set_sketches_apart(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, Path]]:
    """Images without the sketches beside them, and the sketches by the paths of their images without the ending."""
    stems = {path.with_suffix("") for path in paths}
    images, sketches = [], {}
    for path in paths:
        stem = path.with_suffix("")
        image = stem.with_name(stem.name.removesuffix(_SKETCH_ENDING))
        # A picture that merely ends like this, without one that it could be of, is an image itself.
        if image != stem and image in stems:
            sketches[image] = path
        else:
            images.append(path)
    return images, sketches


def _check_sketches(paths: Sequence[Path], sketches: Mapping[Path, Path]) -> None:
    """Refuse a folder where sketches are missing.

    Raises:
        FileNotFoundError: they are.
    """
    missing = [path for path in paths if path.with_suffix("") not in sketches]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} images have no sketch, the first '{missing[0]}': add "
            f"'{missing[0].stem}{_SKETCH_ENDING}.png' beside it, or set with_sketch=False"
        )


def _find_sketch(image: Path) -> Path:
    for suffix in sorted(IMAGE_SUFFIXES):
        path = image.with_name(f"{image.stem}{_SKETCH_ENDING}{suffix}")
        if path.is_file():
            return path
    raise FileNotFoundError(f"'{image}' has no sketch '{image.stem}{_SKETCH_ENDING}.png' beside it")


def _read_pairs(path: Path) -> list[tuple[Path, Path, str]]:
    """Image, mask and name of each record.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: there are no pairs, or the records are of another kind.
    """
    try:
        records = json.loads(path.read_text())
        named = [(str(record["image"]), str(record["mask"])) for record in records]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"'{path}' is no list of pairs, [{{'image': ..., 'mask': ...}}, ...]: {type(error).__name__}: {error}"
        ) from error
    if not named:
        raise ValueError(f"'{path}' lists no pairs")
    pairs = []
    for number, (image, mask) in enumerate(named):
        for file in (image, mask):
            if not (path.parent / file).is_file():
                raise FileNotFoundError(f"no file '{path.parent / file}', which pair {number} of '{path}' names")
        pairs.append((path.parent / image, path.parent / mask, f"{number:03d}_{Path(image).stem}"))
    return pairs


def _load_photographs() -> list[np.ndarray]:
    try:
        from skimage import data
    except ModuleNotFoundError as error:
        message = "the photographs come with scikit-image, which is not installed: pip install 'gatedvision[demo]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    return [np.asarray(Image.fromarray(getattr(data, name)())) for name in _PHOTOGRAPHS]
