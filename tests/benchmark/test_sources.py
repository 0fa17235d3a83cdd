import pytest
import timm
import torch

from gatedvision.benchmark.sources import count_macs, create_model, expand_names


# Counted by hand: convolutions, linear layers and attention of one image.
@pytest.mark.parametrize(("name", "giga"), [("vig_t", 1.17), ("deit_tiny_patch16_224", 1.254), ("resnet18", 1.814)])
def test_multiply_adds(name, giga):
    assert count_macs(timm.create_model(name), [torch.empty(1, 3, 224, 224)]) == pytest.approx(giga * 1e9, rel=0.01)


def test_a_model_that_reads_its_data_has_no_count(capsys):
    class Curious(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) if input.sum().item() else input

    assert count_macs(Curious(8, 8), [torch.ones(8)]) is None
    assert "n/a: GMACs of Curious: " in capsys.readouterr().err


def test_a_model_of_one_size_is_built_for_the_images():
    model = create_model("deit_tiny_patch16_224(depth=1)", 32)
    assert model.pos_embed.shape[1] == 5 and len(model.blocks) == 1


def test_a_callable_with_arguments():
    model = create_model("torch.nn:Conv2d(in_channels=3, out_channels=2, kernel_size=(3, 1), bias=False)", 32)
    assert isinstance(model, torch.nn.Conv2d) and model.weight.shape == (2, 3, 3, 1) and model.bias is None
    assert isinstance(create_model("torch:nn.Identity", 32), torch.nn.Identity)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("vig_x", "unknown model 'vig_x': timm.list_models"),
        ("vig_t(2)", r"cannot read 'vig_t\(2\)': arguments are keywords"),
        ("vig_t(depth=2", "cannot read"),
        ("vig_t(depth=width)", "cannot read"),
        ("vig_t(**{})", "cannot read"),
        ("vig_t(depth=2)(width=2)", "cannot read"),
        ("vig_t(depth=2).head", "cannot read"),
        ("no_such_module:Model", "cannot import 'no_such_module:Model': No module named"),
        ("torch.nn:NoSuchLayer", "cannot import 'torch.nn:NoSuchLayer': .*no attribute"),
        ("torch.nn:Linear", "cannot build 'torch.nn:Linear' for 32 pixels: .*missing 2 required"),
        ("vig_t(colour='red')", "cannot build .* for 32 pixels: .*colour"),
    ],
)
def test_mistakes(source, message):
    with pytest.raises(ValueError, match=message):
        create_model(source, 32)


def test_patterns_stand_for_our_models():
    names = expand_names(["resnet18", "vig_?", "vig_s", "vmoe_s32_*"])
    assert names[:4] == ["resnet18", "vig_b", "vig_s", "vig_t"]
    assert sorted(names[4:]) == ["vmoe_s32_every2_e32", "vmoe_s32_last2_e32", "vmoe_s32_last2_e8"]
    # Arguments are none.
    assert expand_names(["vig_t(name='*')"]) == ["vig_t(name='*')"]
    with pytest.raises(ValueError, match=r"no model of gatedvision matches 'resnet\*'"):
        expand_names(["vig_t", "resnet*"])


def test_something_else_than_a_module():
    with pytest.raises(TypeError, match="'builtins:dict' makes a dict, which is no torch.nn.Module"):
        create_model("builtins:dict", 32)
