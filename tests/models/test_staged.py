"""The shared contract on the smallest network that it can carry: maps in ``[B, C, H, W]`` all the way."""

import pytest
import torch
from timm.layers import ClassifierHead, LayerNorm2d
from timm.models import group_parameters
from timm.models._features import FeatureGetterNet, FeatureListNet
from torch import nn

from gatedvision.models._staged import Stage, StagedBackbone, drop_path_rates


class Convolutions(StagedBackbone):
    """Two stages of two convolutions."""

    def __init__(self) -> None:
        super().__init__(in_chans=3, num_classes=5, dims=(8, 16), reductions=(4, 8))
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.stages = nn.Sequential(
            Stage([nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)]),
            Stage([nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)], nn.Conv2d(8, 16, 2, stride=2)),
        )
        self.norm = LayerNorm2d(16)
        self.head = ClassifierHead(16, 5)
        self.init_weights()


@pytest.fixture
def model() -> Convolutions:
    torch.manual_seed(0)
    return Convolutions()


IMAGE = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))


def test_forward_is_stem_stages_norm_head(model: Convolutions) -> None:
    x = model.stem(IMAGE)
    for stage in model.stages:
        for block in (stage.downsample, *stage.blocks):
            x = block(x)
    x = model.norm(x)
    assert torch.equal(model.forward_features(IMAGE), x)
    torch.testing.assert_close(model(IMAGE), model.head.fc(x.mean((2, 3))))


@pytest.mark.parametrize("wrapper", [FeatureGetterNet, FeatureListNet])
def test_feature_wrappers(model: Convolutions, wrapper: type) -> None:
    expected = model.forward_intermediates(IMAGE, intermediates_only=True)
    options = {} if wrapper is FeatureGetterNet else {"flatten_sequential": True}
    features = wrapper(model, out_indices=(0, 1), **options)
    assert [tuple(x.shape[1:]) for x in features(IMAGE)] == [(8, 8, 10), (16, 4, 5)]
    for actual, x in zip(features(IMAGE), expected, strict=True):
        torch.testing.assert_close(actual, x)


def test_last_norm_fits_the_last_width_only(model: Convolutions) -> None:
    features, plain = model.forward_intermediates(IMAGE)
    _, normed = model.forward_intermediates(IMAGE, norm=True)
    assert torch.equal(normed[0], plain[0]) and torch.equal(normed[1], features)
    assert not torch.equal(normed[1], plain[1])


def test_stopping_early_leaves_the_norm_out(model: Convolutions) -> None:
    final, maps = model.forward_intermediates(IMAGE, indices=[0], stop_early=True)
    assert torch.equal(final, maps[0])


def test_a_step_down_belongs_to_the_block_after_it(model: Convolutions) -> None:
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    order = ["stem", "stages.0.blocks.0", "stages.0.blocks.1", "stages.1.blocks.0", "stages.1.blocks.1", "head.fc"]
    assert [layers[f"{name}.weight"] for name in order] == list(range(6))
    assert layers["stages.1.downsample.weight"] == layers["stages.1.blocks.0.weight"]
    assert layers["norm.weight"] == layers["head.fc.weight"]
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert [coarse[f"{name}.weight"] for name in order] == [0, 1, 1, 2, 2, 3]


def test_pruning_reports_and_resizes(model: Convolutions) -> None:
    assert model.prune_intermediate_layers([-2]) == [0]
    assert len(model.stages) == len(model.feature_info) == 1
    assert isinstance(model.norm, nn.Identity) and model.num_classes == 0
    assert model(IMAGE).shape == (2, 8, 8, 10)
    model.reset_classifier(3, "avg")
    assert model.head_hidden_size == 8 and model(IMAGE).shape == (2, 3)


def test_drop_path_rises_over_the_whole_depth() -> None:
    first, second = drop_path_rates(0.4, [2, 3])
    assert first == pytest.approx([0.0, 0.1]) and second == pytest.approx([0.2, 0.3, 0.4])
    assert drop_path_rates(0.4, [1]) == [[0.0]]
