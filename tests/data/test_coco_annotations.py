import json
import logging
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from coco_files import make_annotation, make_content

from gatedvision.data import CocoAnnotations


def test_labels_count_the_categories_by_id_or_as_the_classes_say():
    by_id = CocoAnnotations(make_content())
    assert by_id.classes == ["cat", "dog"]
    assert [item.label for item in by_id.objects(0)] == [0, 1, 0]
    named = CocoAnnotations(make_content(), classes=("dog", "cat"))
    assert [item.label for item in named.objects(0)] == [1, 0, 1]


def test_objects_keep_what_the_file_says():
    annotations = CocoAnnotations(make_content())
    first, _, crowd = annotations.objects(0)
    assert (first.bbox, first.area, first.is_crowd) == ((2, 1, 6, 4), 24, False)
    assert first.segmentation == [[2, 1, 8, 1, 8, 5, 2, 5]]
    assert crowd.is_crowd
    assert annotations.objects(2) == []
    assert annotations.images[1] == (3, "b.png", 16, 16)


def test_boxes_without_area_are_dropped_and_counted(caplog):
    content = make_content()
    empty = ([4, 4, 0, 3], [4, 4, 3, -1], [30, 2, 4, 4])
    content["annotations"] += [make_annotation(20 + n, 3, 2, bbox) for n, bbox in enumerate(empty)]
    with caplog.at_level(logging.WARNING, "mmengine"):
        annotations = CocoAnnotations(content)
    assert [item.bbox for item in annotations.objects(1)] == [(0, 0, 16, 16)]
    assert annotations.num_dropped == {"without area in their image": 3}


def test_other_classes_are_an_error_or_dropped_and_counted():
    with pytest.raises(ValueError, match="annotation 1 of .* category 9, which is none of the classes cat; name it"):
        CocoAnnotations(make_content(), classes=("cat",))
    annotations = CocoAnnotations(make_content(), classes=("cat",), drop_other_classes=True)
    assert annotations.num_dropped == {"of other classes": 2}
    assert [len(annotations.objects(index)) for index in range(3)] == [2, 0, 0]


def change(path: str, value: object) -> dict:
    content = make_content()
    *keys, last = (int(key) if key.isdigit() else key for key in path.split("."))
    target = content
    for key in keys:
        target = target[key]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("categories", None, "no COCO file of boxes: it has no list categories"),
        ("images", {}, "it has no list images"),
        ("annotations.1.image_id", 8, "annotation 1 of the annotations belongs to image 8, which is not among"),
        ("annotations.1.category_id", 8, "annotation 1 .* of category 8, which is not among its categories"),
        ("annotations.1.bbox", [1, 2, 3], re.escape("annotation 1 of the annotations has the bbox [1, 2, 3]")),
        ("annotations.1.bbox", [1, 2, 3, float("nan")], r"annotation 1 .* nan\], expected"),
        ("annotations.1.bbox", None, "annotation 1 of the annotations has no bbox"),
        ("images.1.id", 7, "several images of id 7"),
        ("images.1.id", "3", "id that is no whole number"),
        ("images.1.width", None, "image 3 of the annotations has no width"),
        ("images.1.width", 0, "image 3 of the annotations has a width of 0 and a height of 16"),
        ("categories.1.id", 9, "several categories of id 9"),
        ("categories", [], "no categories"),
    ],
)
def test_mistakes_are_named(path, value, message):
    with pytest.raises(ValueError, match=message):
        CocoAnnotations(change(path, value))


def test_classes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="no category cow, only cat, dog"):
        CocoAnnotations(make_content(), classes=("cat", "cow"))
    with pytest.raises(ValueError, match="name one twice"):
        CocoAnnotations(make_content(), classes=("cat", "cat"))


def test_files_that_are_no_annotations_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no annotations at '.*none.json'; set GATEDVISION_DATA"):
        CocoAnnotations(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text(json.dumps(make_content())[:-9])
    with pytest.raises(ValueError, match=r"cannot read annotations '.*cut.json'"):
        CocoAnnotations(tmp_path / "cut.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match=r"'.*list.json' is no COCO file: it holds a list"):
        CocoAnnotations(tmp_path / "list.json")
