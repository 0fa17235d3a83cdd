import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision.heads import FCNHead, FPNHead, HorUPerHead, LinearHead, SmpUPerHead, UPerHead

DIMS = (8, 12, 16, 20)


def draw_maps(sizes=((13, 17), (7, 9), (4, 5), (2, 3))) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, dim, *size, generator=generator) for dim, size in zip(DIMS, sizes, strict=True)]


@pytest.mark.parametrize("head", [UPerHead, HorUPerHead, FPNHead])
def test_every_parameter_learns_and_odd_sizes_fit(head):
    torch.manual_seed(0)
    module = head(DIMS, 5, dim=16)
    logits = module(draw_maps())
    assert logits.shape == (2, 5, 13, 17)
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
    with pytest.raises(ValueError, match="expected 4 maps, got 3"):
        module(draw_maps()[1:])


def test_sizes_of_the_published_heads():
    # Of widths 512 and 256, on a backbone of 64 to 512 channels; counted by hand from the figures of the papers.
    dims, classes = (64, 128, 256, 512), 150
    bn = 2

    def conv(in_dim, dim, side):
        return in_dim * dim * side**2 + bn * dim

    upper = sum(conv(512, 512, 1) for _ in range(4)) + conv(512 + 4 * 512, 512, 3)
    upper += sum(conv(dim, 512, 1) + conv(512, 512, 3) for dim in dims[:3]) + conv(4 * 512, 512, 3)
    upper += 512 * classes + classes
    fpn = sum(dim * 256 + 256 + 256 * 256 * 9 + 256 for dim in dims)
    fpn += 4 * conv(256, 128, 3) + 3 * conv(128, 128, 3) + 128 * classes + classes
    auxiliary = conv(256, 256, 3) + 256 * classes + classes
    with torch.device("meta"):
        heads = UPerHead(dims, classes), FPNHead(dims, classes), FCNHead(dims, classes)
    assert [sum(p.numel() for p in head.parameters()) for head in heads] == [upper, fpn, auxiliary]


def test_uper_head_by_its_formula():
    torch.manual_seed(0)
    head, maps = UPerHead(DIMS, 5, dim=16, pool_sizes=(1, 3)).eval(), draw_maps()

    def up(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode="bilinear")

    with torch.no_grad():
        views = [head.pools[i][1](F.adaptive_avg_pool2d(maps[3], size)) for i, size in enumerate((1, 3))]
        top = head.pool_fusion(torch.cat([maps[3], *(up(view, maps[3]) for view in views)], 1))
        third = head.laterals[2](maps[2]) + up(top, maps[2])
        second = head.laterals[1](maps[1]) + up(third, maps[1])
        first = head.laterals[0](maps[0]) + up(second, maps[0])
        levels = [smooth(x) for smooth, x in zip(head.smooths, (first, second, third), strict=True)] + [top]
        expected = head.classifier(head.fusion(torch.cat([up(x, maps[0]) for x in levels], 1)))
        torch.testing.assert_close(head(maps), expected)


def test_fpn_head_doubles_level_by_level():
    torch.manual_seed(0)
    head, maps = FPNHead(DIMS, 5, pyramid_dim=8, dim=4).eval(), draw_maps(((16, 24), (8, 12), (4, 6), (2, 3)))
    with torch.no_grad():
        levels = list(head.pyramid({str(i): x for i, x in enumerate(maps)}).values())
        total = head.branches[0][0](levels[0])
        for level, x in enumerate(levels[1:], 1):
            assert len(head.branches[level]) == level
            for conv in head.branches[level]:
                x = F.interpolate(conv(x), scale_factor=2, mode="bilinear")
            total = total + x
        torch.testing.assert_close(head(maps), head.classifier(total))


def test_fcn_head_sees_one_map():
    head = FCNHead(DIMS, 5, index=1, dim=4).eval()
    maps = draw_maps()
    expected = head(maps)
    assert expected.shape == (2, 5, 7, 9)
    torch.testing.assert_close(head([torch.zeros_like(maps[0]), maps[1], *maps[:2]]), expected)
    with pytest.raises(ValueError, match=r"index must lie in 0\.\.3, one of the 4 maps, got 4"):
        FCNHead(DIMS, 5, index=4)


def test_linear_head_is_a_classifier_of_one_map():
    head, maps = LinearHead(DIMS, 5, index=-2), draw_maps()
    expected = torch.einsum("bchw,kc->bkhw", maps[2], head.classifier.weight[..., 0, 0])
    torch.testing.assert_close(head(maps), expected + head.classifier.bias[:, None, None])
    with pytest.raises(ValueError, match="index must name one of the 4 maps, got -5"):
        LinearHead(DIMS, 5, index=-5)


def test_head_of_smp_is_that_of_its_upernet():
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    model = smp.UPerNet("tu-convnext_atto", encoder_weights=None, classes=5, decoder_channels=16, upsampling=1).eval()
    head = SmpUPerHead(model.encoder.out_channels[2:], 5, dim=16).eval()
    head.decoder.load_state_dict(model.decoder.state_dict())
    head.classifier.load_state_dict(model.segmentation_head.state_dict())
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps = model.encoder.model(image)
        torch.testing.assert_close(head(maps), model(image))
