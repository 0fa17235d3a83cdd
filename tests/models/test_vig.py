"""What is particular to the ViG families."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from gatedvision.layers.gated_linear_attention import GatedLinearAttention
from gatedvision.models import ViG, ViGH
from gatedvision.models.vig_h import ViGHBlock


def test_nano_model_for_eight_pixels() -> None:
    model = timm.create_model(
        "vig_t",
        img_size=8,
        dim=64,
        depth=4,
        num_heads=2,
        stem_kernel_sizes=(3, 3),
        stem_strides=(1, 2),
        in_chans=1,
        num_classes=10,
    )
    assert isinstance(model, ViG)
    assert model.pos_embed.weight.shape == (1, 4, 4, 64)
    assert model.feature_info[0]["reduction"] == 2
    assert model.forward_features(torch.randn(2, 1, 8, 8)).shape == (2, 64, 4, 4)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("sides", "grid"), [((224, 224), (14, 14)), ((231, 246), (15, 15)), ((7, 230), (1, 14)), ((384, 512), (24, 32))]
)
def test_grid_of_positions_is_that_of_the_stem(sides: tuple[int, int], grid: tuple[int, int]) -> None:
    model = ViG(img_size=sides, dim=16, depth=1, num_heads=1)
    assert model.pos_embed.weight.shape[1:3] == grid
    assert model.forward_features(torch.zeros(1, 3, *sides)).shape[2:] == grid


def test_positions_reach_the_features() -> None:
    torch.manual_seed(0)
    model, x = ViG(dim=16, depth=1, num_heads=1), torch.randn(1, 3, 64, 64)
    nn.init.normal_(model.pos_embed.weight)
    _, (with_positions,) = model.forward_intermediates(x)
    nn.init.zeros_(model.pos_embed.weight)
    _, (without,) = model.forward_intermediates(x)
    assert (with_positions - without).std() > 0.5


def test_only_vig_t_has_silu_in_its_mixers() -> None:
    for name in ("vig_t", "vig_s", "vig_b", "vig_h_t", "vig_h_s", "vig_h_b"):
        model = timm.create_model(name, device="meta")
        found = {(type(m.act).__name__, m.activation) for m in model.modules() if isinstance(m, GatedLinearAttention)}
        assert found == {("SiLU", "silu") if name == "vig_t" else ("Identity", "identity")}, name


def test_drop_path_rises_from_block_to_block() -> None:
    model = ViGH(dims=(16, 16), depths=(2, 3), num_heads=(1, 1), drop_path_rate=0.4)
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for b in model.modules() if isinstance(b, ViGHBlock)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def spread(module: Any) -> float:
    return float(module.weight.detach().std())


def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    plain: Any = timm.create_model("vig_t")
    hierarchical: Any = timm.create_model("vig_h_t")
    block = plain.stages[5]
    # A uniform draw within +-a has deviation a / sqrt(3); Xavier's a is gain * sqrt(6 / (fan_in + fan_out)).
    assert spread(block.mixer.conv_dw) == pytest.approx(2**-2.5 * (2 / (9 + 9 * 192)) ** 0.5, rel=0.1)
    assert spread(block.mixer.proj_qkv) == pytest.approx(2**-2.5 * (2 / (192 + 384)) ** 0.5, rel=0.05)
    assert spread(block.mlp.proj_in) == pytest.approx(0.02, rel=0.05)
    assert spread(plain.head.fc) == pytest.approx(0.02, rel=0.05)
    assert spread(plain.pos_embed) == pytest.approx(0.02, rel=0.05)
    block = hierarchical.stages[0].blocks[1]
    assert spread(block.mixer.conv_dw) == pytest.approx(0.0085, rel=0.1)
    assert spread(block.mixer.proj_qkv) == pytest.approx(0.02, rel=0.05)
    assert spread(hierarchical.head.fc) == pytest.approx(0.02, rel=0.05)
    for model in (plain, hierarchical):
        assert not model.head.fc.bias.any() and (model.norm.weight == 1).all()


def test_wrong_arguments_name_the_values() -> None:
    with pytest.raises(ValueError, match="dim=60 and num_heads=4"):
        ViG(dim=60, num_heads=4)
    with pytest.raises(ValueError, match="img_size 6"):
        ViG(img_size=6)
    with pytest.raises(ValueError, match="one entry per stage"):
        ViGH(dims=(16, 32), depths=(1,), num_heads=(1, 1))


def test_feature_norms_are_pruned_with_their_maps() -> None:
    model = ViGH(dims=(16, 32, 48), depths=(1, 1, 1), num_heads=(1, 1, 1), num_classes=0, feature_norms=True)
    x = torch.randn(1, 3, 64, 64)
    (expected,) = model.forward_intermediates(x, indices=[1], intermediates_only=True)
    kept = model.prune_intermediate_layers([1], prune_norm=True)
    (tap,) = model.forward_intermediates(x, indices=kept, intermediates_only=True)
    torch.testing.assert_close(tap, expected)
    tap.square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
