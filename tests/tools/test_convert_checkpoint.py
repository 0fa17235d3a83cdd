"""The converter of published weights, on files of every layout."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gatedvision.models import DeepFillV2, PatchDiscriminator, VMoE
from gatedvision.models._deepfill_names import LAYOUTS, swap_colours

TOOL = Path(__file__).parents[2] / "tools" / "convert_checkpoint.py"


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the script in this process; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tools/convert_checkpoint.py", *map(str, arguments)])
        monkeypatch.setattr(sys, "path", sys.path[:])
        code = 0
        try:
            runpy.run_path(str(TOOL), run_name="__main__")
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 0
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def published(layout: str, **options: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a small generator's weights under published names, and under ours."""
    torch.manual_seed(0)
    weights = DeepFillV2(dim=12, **options).state_dict()
    own = {place: name for name, place in LAYOUTS[layout][1].items()}
    renamed = {}
    for name, value in weights.items():
        place, _, leaf = name.rpartition(".")
        layer = own[place]
        if layout == "tensorflow":
            inner = f"{layer}/{layer}_conv" if "upsample" in layer else layer
            leaf = {"weight": "kernel", "bias": "bias"}[leaf]
            renamed[f"inpaint_net/{inner}/{leaf}"] = value.permute(2, 3, 1, 0) if value.ndim == 4 else value
        elif layout == "mmagic":
            renamed[f"generator.{layer}.conv.conv.{leaf}"] = value
        else:
            inner = "conv.conv" if "upsample" in layer and "down" not in layer else "conv"
            renamed[f"{layer}.{inner}.{leaf}"] = value
    return {name: value.contiguous() for name, value in renamed.items()}, weights


def test_tensorflow_variables(convert: Callable[..., Any], tmp_path: Path) -> None:
    variables, weights = published("tensorflow")
    arrays = {name: value.numpy() for name, value in variables.items()}
    np.savez(tmp_path / "places2.npz", **arrays, global_step=np.int64(7))
    out = tmp_path / "new" / "places2.safetensors"
    code, printed, errors = convert(tmp_path / "places2.npz", "-o", out)
    assert code == 0, errors
    assert "a generator under the names of tensorflow" in printed and "CC BY-NC 4.0" in printed
    assert (
        f"timm.create_model('deepfillv2', pretrained=True, pretrained_cfg_overlay=dict(file={str(out)!r}), dim=12)"
        in printed
    )
    torch.testing.assert_close(load_file(out), swap_colours(weights), rtol=0, atol=0)
    with safe_open(out, "pt") as file:
        assert "not for commercial use" in file.metadata()["licence"]
    overlay = {"file": str(out)}
    model = timm.create_model("deepfillv2", pretrained=True, pretrained_cfg_overlay=overlay, dim=12)
    torch.testing.assert_close(dict(model.state_dict()), swap_colours(weights), rtol=0, atol=0)

    code, _, errors = convert(tmp_path / "places2.npz", "-o", out, "--no-bgr")
    assert code == 2 and f"'{out}' exists; pass --overwrite" in errors
    code, _, _ = convert(tmp_path / "places2.npz", "-o", out, "--no-bgr", "--overwrite")
    torch.testing.assert_close(load_file(out), dict(weights), rtol=0, atol=0)


MMAGIC = {"padding": "reflect", "gated_output": True, "guided_refinement": True, "wide_decoder": True}


@pytest.mark.parametrize(
    ("layout", "container", "options", "model"),
    [
        ("networks_tf", "G", {}, "deepfillv2"),
        ("networks_tf", "G", {"sketch": True}, "deepfillv2"),
        ("networks", "G", {"padding": "symmetric"}, "deepfillv2_port"),
        ("mmagic", "state_dict", MMAGIC, "deepfillv2_mmagic"),
    ],
)
def test_ports(
    layout: str, container: str, options: Any, model: str, convert: Callable[..., Any], tmp_path: Path
) -> None:
    tensors, weights = published(layout, **options)
    constants = {"networks": "stage2.contextual_attention.fuse_weight", "mmagic": "disc.module.weight"}
    if layout in constants:
        tensors[constants[layout]] = torch.eye(3)[None, None]
    torch.save({container: tensors, "epoch": 3}, tmp_path / "port.pth")
    code, printed, errors = convert(tmp_path / "port.pth", "--out", tmp_path / "own.pth")
    assert code == 0, errors
    assert f"names of {layout}\n" in printed and f"create_model('{model}'" in printed
    assert ("sketch=True" in printed) == ("sketch" in options)
    overlay = {"file": str(tmp_path / "own.pth")}
    kwargs = {"sketch": True} if "sketch" in options else {}
    loaded = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, dim=12, **kwargs)
    torch.testing.assert_close(dict(loaded.state_dict()), dict(weights), rtol=0, atol=0)


def test_discriminator(convert: Callable[..., Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator()
    tensors = {}
    for index, layer in enumerate(model.layers, 1):
        weight: Any = layer.parametrizations.weight
        tensors[f"conv{index}.conv_sn.weight"] = weight.original.detach()
        tensors[f"conv{index}.conv_sn.bias"] = layer.bias.detach()
        tensors[f"conv{index}.conv_sn.weight_u"] = weight[0]._u[:, None]
    torch.save({"D": tensors}, tmp_path / "port.pth")
    code, printed, errors = convert(tmp_path / "port.pth", "-o", tmp_path / "own.pth", "--part", "discriminator")
    assert code == 0, errors
    assert "a discriminator" in printed
    again = PatchDiscriminator()
    again.load_published(torch.load(tmp_path / "own.pth", weights_only=True))
    for name in ("layers.3.parametrizations.weight.original", "layers.3.parametrizations.weight.0._u", "layers.3.bias"):
        assert torch.equal(again.state_dict()[name], model.state_dict()[name])


VMOE = Path(__file__).parents[1] / "golden" / "vmoe" / "checkpoint" / "tiny_e4_last1"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_vmoe_checkpoint(suffix: str, convert: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "new" / f"own{suffix}"
    code, printed, errors = convert(f"{VMOE}.index", "-o", out)
    assert code == 0, errors
    assert "V-MoE with 4 experts in each of blocks 1\n" in printed and "Apache-2.0" in printed
    call = printed.split("load it by ")[1].splitlines()[0]
    arguments = call[: call.index(".load_state_dict")]
    model = eval(arguments, {"VMoE": VMoE})
    model.load_state_dict(load_file(out) if suffix == ".safetensors" else torch.load(out)["state_dict"])
    assert model.num_classes == 5


def test_vmoe_has_no_parts(convert: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "own.pth"
    for option in (["--part", "discriminator"], ["--bgr"]):
        code, _, errors = convert(VMOE, "-o", out, *option)
        assert code == 2 and "is of V-MoE, which has neither parts nor BGR" in errors
    code, _, errors = convert(VMOE, "-o", tmp_path / "own.onnx")
    assert code == 2 and "the output must end in .safetensors or .pth, got" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.pth", "-o", "own.pth"], "none.pth', and no TensorFlow checkpoint of that prefix"),
        (["other.pth", "-o", "own.onnx"], "the output must end in .safetensors or .pth, got"),
        (["other.pth", "-o", "own.pth"], "holds no generator of DeepFill v2 under any name known"),
        (["other.pth", "-o", "own.pth", "--part", "discriminator"], "holds no discriminator of DeepFill v2"),
        (["torn.pth", "-o", "own.pth"], "torn.pth' as a file of weights: "),
        (["snap-0.index", "-o", "own.pth"], "is a TensorFlow checkpoint: install tensorflow, or save its variables"),
        (["partial.safetensors", "-o", "own.pth"], "does not fit DeepFillV2: missing "),
        (["partial.npz", "-o", "own.pth"], "does not fit DeepFillV2: missing refine.encoder.0.weight"),
        (["wrong.safetensors", "-o", "own.pth"], "does not fit DeepFillV2: size mismatch for coarse.encoder.1.weight"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str],
    message: str,
    convert: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gatedvision.models.deepfill_checkpoint.find_spec", lambda name: None)
    torch.save({"fc.weight": torch.ones(2, 2)}, "other.pth")
    Path("torn.pth").write_bytes(b"no weights")
    Path("snap-0.index").write_bytes(b"")
    _, weights = published("networks_tf")
    save_file({name: value for name, value in weights.items() if "refine" not in name}, "partial.safetensors")
    variables, _ = published("tensorflow")
    np.savez("partial.npz", **{n: v.numpy() for n, v in variables.items() if n.startswith("inpaint_net/conv")})
    save_file({**weights, "coarse.encoder.1.weight": torch.ones(1)}, "wrong.safetensors")
    code, printed, errors = convert(*arguments)
    assert code == 2 and not printed
    (line,) = errors.strip().splitlines()
    assert line.startswith("error: ") and message in line
    assert not Path("own.pth").exists()
