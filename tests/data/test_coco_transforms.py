import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from coco_files import make_annotation, make_content, write

from gatedvision.data import CocoDetection, RandomWindow

pytest.importorskip("faster_coco_eval")


def test_random_window_is_of_the_published_size(tmp_path):
    content = make_content()
    content["images"] = [{"id": 7, "file_name": "a.png", "width": 300, "height": 200}]
    content["annotations"] = [make_annotation(1, 7, 2, [0, 0, 300, 200])]
    dataset = CocoDetection(**write(tmp_path, content), transforms=[RandomWindow(p=1.0)])
    torch.manual_seed(0)
    sizes = torch.tensor([dataset[0]["inputs"].shape[1:] for _ in range(60)])
    # At short sides of 400 to 600, windows of 384 to 600: from 384 / 600 of 200 pixels to 600 / 400 of them.
    assert sizes.min() >= 128 and sizes[:, 0].max() == 200 and 250 < sizes[:, 1].max() <= 300
    assert len(set(sizes[:, 1].tolist())) > 20
    assert all(dataset[0]["target"]["boxes"].shape == (1, 4) for _ in range(5))
