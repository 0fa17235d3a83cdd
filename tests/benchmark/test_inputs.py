import pytest
import torch
from torch import nn

from gatedvision.benchmark.inputs import find_sides, make_inputs, name_sides
from gatedvision.benchmark.sources import create_model

VOLUMES = "attention_unet_3d(dims=[4, 8, 16])"


@pytest.mark.parametrize(
    ("name", "size", "sides"),
    [
        ("test_resnet", None, [160, 160]),
        ("test_resnet", 32, [32, 32]),
        ("sononet_ag(feature_scale=16)", None, [208, 272]),
        (VOLUMES, None, [160, 160, 96]),
        (VOLUMES, 32, [32, 32, 32]),
    ],
)
def test_sides(name, size, sides):
    assert find_sides(create_model(name), size) == sides


def test_a_model_that_says_nothing():
    assert find_sides(nn.Conv2d(3, 4, 3), None) == [224, 224]


@pytest.mark.parametrize(("sides", "name"), [([32, 32], 32), ([208, 272], "208 x 272"), ([8, 8, 8], "8 x 8 x 8")])
def test_names_of_sides(sides, name):
    assert name_sides(sides) == name


def test_images_and_volumes():
    assert [x.shape for x in make_inputs(create_model("test_resnet"), 2, [8, 6])] == [(2, 3, 8, 6)]
    assert [x.shape for x in make_inputs(create_model(VOLUMES), 1, [8, 6, 4])] == [(1, 3, 8, 6, 4)]


def test_a_generator_has_a_hole_to_fill():
    image, mask = make_inputs(create_model("deepfillv2(dim=8)"), 2, [8, 12])
    assert image.shape == (2, 3, 8, 12)
    hole = torch.zeros(2, 1, 8, 12)
    hole[:, :, 2:6, 3:9] = 1
    assert torch.equal(mask, hole)
    assert [x.device.type for x in make_inputs(create_model("deepfillv2(dim=8)"), 1, [8, 8], "meta")] == ["meta"] * 2
