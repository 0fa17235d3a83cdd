from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gatedvision.data import MaskFolder, UnreadableImageError
from gatedvision.data.mask_folder import read_mask
from tests.data.inpainting_files import write_masks


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two masks."""
    write_masks(tmp_path / "masks")
    return tmp_path


def test_masks_are_drawn_from_a_folder_at_random(folder):
    masks = MaskFolder(folder / "masks", match="random", hole="black")
    torch.manual_seed(0)
    drawn = [bool(masks(40, 50)[0, 0]) for _ in range(40)]
    assert 8 < sum(drawn) < 32
    torch.manual_seed(0)
    assert [bool(masks(40, 50)[0, 0]) for _ in range(40)] == drawn


def test_mask_files_of_any_kind_are_divided_in_the_middle(tmp_path):
    values = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    images = {
        "grey": Image.fromarray(values),
        "rgb": Image.fromarray(np.repeat(values[..., None], 3, 2)),
        "one_bit": Image.fromarray(values > 127),
        "sixteen": Image.fromarray(values.astype(np.uint16) * 257),
    }
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
        assert read_mask(tmp_path / f"{name}.png").tolist() == [[0, 0, 1, 1]], name
        assert read_mask(tmp_path / f"{name}.png", "black").tolist() == [[1, 1, 0, 0]], name
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match=r"cannot read mask '.*broken.png'"):
        read_mask(tmp_path / "broken.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": "name"}, "match must be 'index' or 'random', got 'name'"),
        ({"hole": "red"}, "hole must be 'white' or 'black', got 'red'"),
    ],
)
def test_mistakes_are_named(folder, options, message):
    with pytest.raises(ValueError, match=message):
        MaskFolder(folder / "masks", **options)
