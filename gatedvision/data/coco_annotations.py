"""Boxes and masks in COCO's JSON format: read once, checked, and kept in little memory."""

import json
import logging
import math
import pickle
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log

Segmentation = list[list[float]] | dict[str, Any]


class CocoImage(NamedTuple):
    """An image that annotations belong to; sides in pixels."""

    id: int
    file_name: str
    width: int
    height: int


class CocoObject(NamedTuple):
    """An annotated object, or a crowd of them that nobody told apart.

    ``label`` counts classes from 0; ``bbox`` is left, top, width, height in pixels; ``area`` in square pixels decides
    in evaluation whether the object is small; ``segmentation`` is a list of polygons, a run-length encoding, or
    ``None``.
    """

    label: int
    bbox: tuple[float, float, float, float]
    area: float
    is_crowd: bool
    segmentation: Segmentation | None


class CocoAnnotations:
    """The content of a COCO file, with categories as labels 0, 1, ... and every mistake named.

    Boxes without area inside their image are dropped, and their number is logged.

    Args:
        source: the JSON file, or its content.
        classes: names of categories in the order of the labels; ``None`` takes all, sorted by id.
        drop_other_classes: leave out objects of categories that ``classes`` does not name, and log their number; else
            they are an error.

    Attributes:
        name: the file, for messages.
        classes: names by label.
        images: the images, in the order of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such file, lacks or repeats an entry, or refers to an image or a category that it lacks.
    """

    def __init__(
        self,
        source: str | Path | Mapping[str, Any],
        classes: Sequence[str] | None = None,
        drop_other_classes: bool = False,
    ) -> None:
        self.name = "the annotations" if isinstance(source, Mapping) else f"'{source}'"
        content = source if isinstance(source, Mapping) else _read_json(Path(source))
        missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
        if missing:
            raise ValueError(f"{self.name} is no COCO file of boxes: it has no list {', '.join(missing)}")
        self.classes, label_of = self._number_classes(content["categories"], classes)
        self.images = [self._image(entry) for entry in content["images"]]
        index_of = {image.id: index for index, image in enumerate(self.images)}
        if len(index_of) < len(self.images):
            repeated = Counter(image.id for image in self.images).most_common(1)[0][0]
            raise ValueError(f"{self.name} has several images of id {repeated}")
        objects: list[list[CocoObject]] = [[] for _ in self.images]
        dropped: dict[str, list[Any]] = defaultdict(list)
        for entry in content["annotations"]:
            place = f"annotation {entry.get('id')} of {self.name}"
            index = index_of.get(_get(entry, "image_id", place))
            if index is None:
                raise ValueError(f"{place} belongs to image {entry['image_id']}, which is not among its images")
            if _get(entry, "category_id", place) not in label_of:
                raise ValueError(f"{place} is of category {entry['category_id']}, which is not among its categories")
            label = label_of[entry["category_id"]]
            if label is None:
                if not drop_other_classes:
                    raise ValueError(
                        f"{place} is of category {entry['category_id']}, which is none of the classes "
                        f"{', '.join(self.classes)}; name it there or set drop_other_classes=True"
                    )
                dropped["of other classes"].append(entry.get("id"))
                continue
            bbox = self._bbox(_get(entry, "bbox", place), place)
            left, top, right, bottom = clip_box(bbox, self.images[index])
            if right <= left or bottom <= top:
                dropped["without area in their image"].append(entry.get("id"))
                continue
            objects[index].append(
                CocoObject(
                    label,
                    bbox,
                    float(entry.get("area", bbox[2] * bbox[3])),
                    bool(entry.get("iscrowd", 0)),
                    entry.get("segmentation") or None,
                )
            )
        for reason, ids in dropped.items():
            total = len(content["annotations"])
            message = f"{self.name}: dropped {len(ids)} of {total} boxes {reason}, the first is annotation {ids[0]}"
            print_log(message, "current", logging.WARNING)
        self.num_dropped = {reason: len(ids) for reason, ids in dropped.items()}
        self._objects = _PackedList(objects)

    def objects(self, index: int) -> list[CocoObject]:
        """Objects of an image, crowds included.

        Args:
            index: place of the image in :attr:`images`.
        """
        return self._objects[index]

    def _number_classes(
        self, categories: list[dict[str, Any]], classes: Sequence[str] | None
    ) -> tuple[list[str], dict[int, int | None]]:
        """Return the names by label, and the label (or ``None``) of every category id.

        Raises:
            ValueError: the categories are none, or do not fit the classes.
        """
        name_of: dict[int, str] = {}
        for category in sorted(categories, key=lambda category: _get(category, "id", f"a category of {self.name}")):
            if category["id"] in name_of:
                raise ValueError(f"{self.name} has several categories of id {category['id']}")
            name_of[category["id"]] = str(_get(category, "name", f"category {category['id']} of {self.name}"))
        names = list(name_of.values()) if classes is None else list(classes)
        if not names:
            raise ValueError(f"{self.name} has no categories, and classes names none")
        if len(set(names)) < len(names):
            raise ValueError(f"the classes {', '.join(names)} name one twice")
        unknown = [name for name in names if name not in name_of.values()]
        if unknown:
            raise ValueError(f"{self.name} has no category {', '.join(unknown)}, only {', '.join(name_of.values())}")
        label_of_name = {name: label for label, name in enumerate(names)}
        return names, {category_id: label_of_name.get(name) for category_id, name in name_of.items()}

    def _image(self, entry: dict[str, Any]) -> CocoImage:
        place = f"image {entry.get('id')} of {self.name}"
        image_id, file_name, width, height = (_get(entry, key, place) for key in CocoImage._fields)
        if not isinstance(image_id, int):
            raise ValueError(f"{place} has an id that is no whole number")
        if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
            raise ValueError(f"{place} has a width of {width!r} and a height of {height!r}, expected positive integers")
        return CocoImage(image_id, str(file_name), width, height)

    def _bbox(self, bbox: Any, place: str) -> tuple[float, float, float, float]:
        is_box = isinstance(bbox, list | tuple) and len(bbox) == 4 and all(isinstance(x, int | float) for x in bbox)
        if not is_box or not all(math.isfinite(x) for x in bbox):
            raise ValueError(f"{place} has the bbox {bbox!r}, expected [left, top, width, height] in pixels")
        left, top, width, height = bbox
        return left, top, width, height


def clip_box(bbox: tuple[float, float, float, float], image: CocoImage) -> tuple[float, float, float, float]:
    """Cut a box off at the edges of its image.

    Args:
        bbox: left, top, width, height.
        image: the image.

    Returns:
        Left, top, right, bottom; nothing is left where these are not in ascending order.
    """
    left, top, width, height = bbox
    return max(left, 0.0), max(top, 0.0), min(left + width, image.width), min(top + height, image.height)


class _PackedList:
    """A list in one array of bytes: processes that fork share it, where counting references would copy the objects.

    Args:
        items: what it holds, anything that pickles.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        pickled = [pickle.dumps(item, pickle.HIGHEST_PROTOCOL) for item in items]
        self._ends = np.cumsum([0, *map(len, pickled)])
        self._bytes = np.frombuffer(b"".join(pickled), dtype=np.uint8)

    def __getitem__(self, index: int) -> Any:
        return pickle.loads(self._bytes[self._ends[index] : self._ends[index + 1]].data)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no annotations at '{path}'; set GATEDVISION_DATA, or annotations of the data set")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"cannot read annotations '{path}': {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' is no COCO file: it holds a {type(content).__name__}, not an object")
    return content


def _get(entry: Any, key: str, place: str) -> Any:
    if not isinstance(entry, Mapping) or key not in entry:
        raise ValueError(f"{place} has no {key}")
    return entry[key]
