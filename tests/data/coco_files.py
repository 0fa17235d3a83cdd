"""A COCO data set of three small images, as content and as files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def make_content() -> dict[str, Any]:
    """Three images: two objects and a crowd, one object, none."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 20, "height": 10},
            {"id": 3, "file_name": "b.png", "width": 16, "height": 16},
            {"id": 5, "file_name": "c.png", "width": 8, "height": 8},
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            make_annotation(0, 7, 2, [2, 1, 6, 4]),
            make_annotation(1, 7, 9, [10, 2, 8, 8]),
            {
                **make_annotation(2, 7, 2, [0, 0, 20, 10]),
                "iscrowd": 1,
                "segmentation": {"size": [10, 20], "counts": [0, 200]},
            },
            make_annotation(3, 3, 9, [0, 0, 16, 16]),
        ],
    }


def make_annotation(id: int, image_id: int, category_id: int, bbox: list[float]) -> dict[str, Any]:
    """An object whose mask fills its box."""
    left, top, width, height = bbox
    right, bottom = left + width, top + height
    return {
        "id": id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": width * height,
        "iscrowd": 0,
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
    }


def write(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Write the files; return the arguments of the data set."""
    generator = np.random.default_rng(0)
    for image in content["images"]:
        pixels = generator.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / image["file_name"])
    (folder / "instances.json").write_text(json.dumps(content))
    return {"annotations": folder / "instances.json", "images": folder / "images"}
