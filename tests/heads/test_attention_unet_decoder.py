"""The gated U-Net decoder over encoders of timm, and in place of segmentation_models_pytorch's."""

import inspect
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gatedvision  # noqa: F401  registers the models
from gatedvision.heads import AttentionUnetDecoder
from tests.layers.memory_layout import channels_last_outputs

DIMS = (6, 8, 10)
ENCODERS = [
    ("resnet18", {}),
    ("test_convnext", {}),
    ("test_vit", {"img_size": 64}),
    ("swin_tiny_patch4_window7_224", {"img_size": 64, "embed_dim": 12, "depths": (1, 1, 1, 1), "window_size": 4}),
    ("vig_h_t", {"dims": (16, 32, 48, 64), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 4)}),
]


def features(*dims: int, size: tuple[int, int] = (16, 24), seed: int = 0) -> list[Tensor]:
    """Return a pyramid, the finest first, of which every map halves the sides."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [tuple(-(-side // 2**level) for side in size) for level in range(len(dims))]
    return [torch.randn(2, dim, *sides, generator=generator) for dim, sides in zip(dims, sizes, strict=True)]


def create(*args: Any, **kwargs: Any) -> AttentionUnetDecoder:
    torch.manual_seed(0)
    return AttentionUnetDecoder(*args, **kwargs).eval()


@pytest.mark.parametrize("gate", ["same_grid", "grid"])
@pytest.mark.parametrize(("name", "options"), ENCODERS, ids=[name for name, _ in ENCODERS])
def test_over_encoders_of_timm(name: str, options: dict[str, Any], gate: str) -> None:
    encoder: Any = timm.create_model(name, features_only=True, **options)
    decoder = AttentionUnetDecoder.for_encoder(encoder, gate=gate)
    y, attention = decoder(encoder(torch.randn(2, 3, 64, 64)), return_attention=True)
    assert y.shape == (2, decoder.out_channels, 64, 64)
    assert [a.shape[2] for a in attention] == [64 // r for r in encoder.feature_info.reduction()[-2::-1]]
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


@pytest.mark.parametrize("encoder", ["resnet18", "tu-test_convnext", "mit_b0"])
def test_in_place_of_the_decoder_of_smp(encoder: str) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet(encoder, encoder_weights=None, classes=3).eval()
    options = {"encoder_channels": model.encoder.out_channels, "decoder_channels": (64, 32, 16, 12, 8)}
    theirs = inspect.signature(type(model.decoder).__init__).parameters
    ours = inspect.signature(AttentionUnetDecoder.__init__).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    model.decoder = AttentionUnetDecoder(*options.values(), 5, "batchnorm", None, False, "nearest").eval()
    model.segmentation_head[0] = nn.Conv2d(8, 3, 3, padding=1)
    x = torch.randn(2, 3, 64, 96)
    assert model(x).shape == (2, 3, 64, 96)
    maps, attention = model.decoder(model.encoder(x), return_attention=True)
    torch.testing.assert_close(model.segmentation_head(maps), model(x))
    assert attention and attention[0].shape == (2, 1, 4, 6)


def test_step_by_step() -> None:
    for gate in ("same_grid", "grid"):
        decoder = create(DIMS, (7, 5, 4), image_first=False, gate=gate)
        fine, middle, x = features(*DIMS)
        for block, skip in zip(decoder.blocks, (middle, fine, None), strict=True):
            up = F.interpolate(x, scale_factor=2, mode="nearest")
            if skip is None:
                x = block.merge(up)
            else:
                x = block.merge(torch.cat([up, block.gate(x=skip, gating=x if gate == "grid" else up)], 1))
        y, attention = decoder(features(*DIMS), return_attention=True)
        torch.testing.assert_close(y, x)
        assert y.shape == (2, 4, 32, 48) and [a.shape[2:] for a in attention] == [(8, 12), (16, 24)]
        assert torch.equal(decoder(features(*DIMS)), y)


def test_odd_sizes_and_levels_without_features() -> None:
    maps = features(3, 0, *DIMS, size=(33, 47))
    y = create([3, 0, *DIMS], (9, 8, 7, 6))(maps)
    assert y.shape == (2, 6, 33, 47)
    without = create([0, *DIMS], (9, 8, 7, 6), image_first=False)(maps[1:])
    assert without.shape == (2, 6, 34, 48)


def test_options_of_convolutions() -> None:
    plain = create(DIMS, (7, 5), image_first=False, use_norm=False, add_center_block=True, gate="grid")
    norms = [name for name, m in plain.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(".gate." in name for name in norms)
    assert plain.center[1].conv.out_channels == DIMS[-1]
    smooth = create(DIMS, (7, 5), image_first=False, interpolation_mode="bilinear")
    rough = create(DIMS, (7, 5), image_first=False)
    rough.load_state_dict(smooth.state_dict())
    assert not torch.allclose(smooth(features(*DIMS)), rough(features(*DIMS)))


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((DIMS, (7, 5)), {"n_blocks": 5}, r"decoder_channels \(7, 5\) must have n_blocks entries, got 5"),
        ((DIMS, (7, 5)), {"attention_type": "scse"}, "pass attention_type=None, not 'scse'"),
        ((DIMS, (7, 5)), {"gate": "cube"}, "gate must be one of same_grid, grid, got 'cube'"),
        ((DIMS, (7, 5)), {"use_norm": "layernorm"}, "use_norm must be 'batchnorm'"),
        ((DIMS, (7, 5)), {"use_norm": {"type": "batchnorm"}}, "use_norm must be 'batchnorm'"),
        ((DIMS, (7,)), {"image_first": False}, r"need 2 blocks or more, got decoder_channels \(7,\)"),
        (((3,), (7,)), {}, r"features of \(\) channels need 0 blocks or more"),
    ],
)
def test_bad_options_are_named(args: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(*args, **options)


def test_bad_inputs_are_named() -> None:
    with pytest.raises(ValueError, match="expected 3 maps, got 2"):
        create(DIMS, (7, 5), image_first=False)(features(*DIMS[1:]))
    with pytest.raises(TypeError, match="Linear has no feature_info; create it with features_only=True"):
        AttentionUnetDecoder.for_encoder(nn.Linear(2, 2))


def test_compile_and_layout() -> None:
    torch._dynamo.reset()
    decoder = create(DIMS, (7, 5, 4), image_first=False)
    maps = features(*DIMS)
    expected = decoder(maps)
    actual = torch.compile(decoder, backend="aot_eager", fullgraph=True)(maps)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    last = [x.to(memory_format=torch.channels_last) for x in maps]
    found = channels_last_outputs(decoder, 2, last)
    assert len(found) > 20 and all(found.values())
