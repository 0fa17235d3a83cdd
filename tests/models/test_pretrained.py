"""Weight files: what loads, and what a user reads when it does not."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import Tensor, nn

import gatedvision  # noqa: F401  registers the models
from tests.golden.golden import find_records

IMAGE = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def published(name: str) -> dict[str, Tensor]:
    return next(r for r in find_records("vig", "model") if r.name == name).weights(torch.float32)


@pytest.fixture
def vig_t_weights() -> dict[str, Tensor]:
    return published("vig_t_224x224")


@pytest.fixture
def vig_h_t_weights() -> dict[str, Tensor]:
    return published("vig_h_t_224x224")


@pytest.fixture
def vig_t_file(vig_t_weights: dict[str, Tensor], tmp_path: Path) -> Path:
    torch.save({"model": vig_t_weights}, tmp_path / "vig_t.pth")
    return tmp_path / "vig_t.pth"


def load(name: str, file: Path, overlay: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    overlay = {"file": str(file), **(overlay or {})}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


@torch.inference_mode()
def run(model: nn.Module, x: Tensor = IMAGE) -> Any:
    return model(x)


def test_every_container_gives_the_same_model(vig_t_weights: dict[str, Tensor], vig_t_file: Path) -> None:
    folder = vig_t_file.parent
    torch.save(vig_t_weights, folder / "bare.pth")
    save_file(vig_t_weights, folder / "bare.safetensors")
    expected = run(load("vig_t", vig_t_file))
    assert torch.equal(run(load("vig_t", folder / "bare.pth")), expected)
    assert torch.equal(run(load("vig_t", folder / "bare.safetensors")), expected)


def test_own_state_dict_comes_back(vig_t_file: Path) -> None:
    model = load("vig_t", vig_t_file)
    own = vig_t_file.with_name("own.safetensors")
    save_file(model.state_dict(), own)
    assert torch.equal(run(load("vig_t", own)), run(model))
    assert torch.equal(run(timm.create_model("vig_t", checkpoint_path=str(own)).eval()), run(model))


def test_hub_folder_comes_back(vig_t_file: Path) -> None:
    model = load("vig_t", vig_t_file)
    folder = vig_t_file.with_name("hub")
    save_for_hf(model, folder, safe_serialization=True)
    assert torch.equal(run(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()), run(model))


def test_other_classes_keep_everything_but_the_head(vig_t_file: Path) -> None:
    full, other = load("vig_t", vig_t_file), load("vig_t", vig_t_file, num_classes=7)
    assert run(other).shape == (2, 7)
    assert torch.equal(other.forward_features(IMAGE), full.forward_features(IMAGE))
    assert run(load("vig_t", vig_t_file, num_classes=0)).shape == (2, 192)


@pytest.mark.parametrize("name", ["vig_t", "vig_h_t"])
def test_one_channel_sums_the_stem(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    torch.save(request.getfixturevalue(f"{name}_weights"), tmp_path / "file.pth")
    full, grey = load(name, tmp_path / "file.pth"), load(name, tmp_path / "file.pth", in_chans=1)
    x = IMAGE[:, :1]
    torch.testing.assert_close(run(grey, x), run(full, x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_features_only_loads_strictly(vig_t_weights: dict[str, Tensor], vig_t_file: Path) -> None:
    maps = run(load("vig_t", vig_t_file, features_only=True, out_indices=(0, 11)))
    whole = load("vig_t", vig_t_file).forward_intermediates(IMAGE, indices=[0, 11], intermediates_only=True)
    assert all(torch.equal(actual, expected) for actual, expected in zip(maps, whole, strict=True))

    del vig_t_weights["blocks.3.attn.o_proj.weight"]
    torch.save(vig_t_weights, vig_t_file)
    with pytest.raises(ValueError, match=r"missing stages\.3\.mixer\.proj_out\.weight; unexpected nothing"):
        load("vig_t", vig_t_file, features_only=True)


def test_positions_are_resized_to_the_model(vig_t_file: Path) -> None:
    large = load("vig_t", vig_t_file, img_size=(64, 96))
    assert large.pos_embed.weight.shape == (1, 4, 6, 192)
    torch.testing.assert_close(run(large), run(load("vig_t", vig_t_file)), rtol=1e-4, atol=1e-5)


def test_linear_weights_stored_as_convolutions(vig_h_t_weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(vig_h_t_weights, tmp_path / "linear.pth")
    convolutions = {
        name: value[:, :, None, None] if value.ndim == 2 else value for name, value in vig_h_t_weights.items()
    }
    torch.save({"model": convolutions}, tmp_path / "conv.pth")
    expected = run(load("vig_h_t", tmp_path / "linear.pth"))
    assert torch.equal(run(load("vig_h_t", tmp_path / "conv.pth")), expected)


def test_feature_norms_start_fresh_from_a_classifier(vig_h_t_weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(vig_h_t_weights, tmp_path / "file.pth")
    normed = run(load("vig_h_t", tmp_path / "file.pth", features_only=True, feature_norms=True))
    plain = run(load("vig_h_t", tmp_path / "file.pth", features_only=True))
    for actual, x in zip(normed, plain, strict=True):
        expected = nn.functional.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)
        torch.testing.assert_close(actual, expected)


def test_dense_file_needs_feature_norms(tmp_path: Path) -> None:
    torch.save(published("vig_h_t_backbone_160x208"), tmp_path / "dense.pth")
    with pytest.raises(ValueError, match="feature_norms=True"):
        load("vig_h_t", tmp_path / "dense.pth", features_only=True)
    with pytest.raises(ValueError, match="missing head.fc.weight, head.fc.bias"):
        load("vig_h_t", tmp_path / "dense.pth", feature_norms=True)


def test_file_of_another_model(vig_t_file: Path) -> None:
    with pytest.raises(
        ValueError, match=r"vig_t\.pth' does not fit ViGH: missing stem\.conv_norm1.* and \d+ more; unex"
    ):
        load("vig_h_t", vig_t_file)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load("vig_s", vig_t_file)


def test_file_with_other_classes(vig_t_weights: dict[str, Tensor], vig_t_file: Path) -> None:
    for name in ("head.weight", "head.bias"):
        vig_t_weights[name] = vig_t_weights[name][:10]
    torch.save(vig_t_weights, vig_t_file)
    # Without a word, timm would drop the fitting classifier in the second case.
    for num_classes in (1000, 10):
        with pytest.raises(ValueError, match=r"has 10 classes.*num_classes=10\)"):
            load("vig_t", vig_t_file, num_classes=num_classes)
    assert run(load("vig_t", vig_t_file, {"num_classes": 10})).shape == (2, 10)
    assert run(load("vig_t", vig_t_file, num_classes=3)).shape == (2, 3)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none.pth"))):
        load("vig_t", tmp_path / "none.pth")


class Foreign:
    """Not a tensor."""


def test_only_tensors_are_unpickled(tmp_path: Path) -> None:
    torch.save({"model": Foreign()}, tmp_path / "pickle.pth")
    with pytest.raises(RuntimeError, match="weights_only"):
        load("vig_t", tmp_path / "pickle.pth")


def test_download_is_verified_and_kept(vig_t_file: Path, tmp_path: Path) -> None:
    checksum = hashlib.sha256(vig_t_file.read_bytes()).hexdigest()
    cache = tmp_path / "cache"
    arguments: dict[str, Any] = {"pretrained": True, "cache_dir": cache}
    wrong = {"url": f"{vig_t_file.as_uri()}#sha256={'0' * 64}"}
    with pytest.raises(RuntimeError, match="cannot download the weights of vig_t .*invalid hash"):
        timm.create_model("vig_t", pretrained_cfg_overlay=wrong, **arguments)
    assert not list(cache.iterdir())
    # Which a tool tells in a line.
    with pytest.raises(OSError, match="cannot download the weights of vig_t .*; get the file by other means"):
        timm.create_model("vig_t", pretrained_cfg_overlay={"url": (tmp_path / "none.pth").as_uri()}, **arguments)

    right = {"url": f"{vig_t_file.as_uri()}#sha256={checksum}"}
    expected = run(load("vig_t", vig_t_file))
    model = timm.create_model("vig_t", pretrained_cfg_overlay=right, **arguments).eval()
    assert torch.equal(run(model), expected)
    vig_t_file.unlink()
    model = timm.create_model("vig_t", pretrained_cfg_overlay=right, **arguments).eval()
    assert torch.equal(run(model), expected)


def test_links_that_end_in_a_query_have_files_of_their_own(vig_t_file: Path, tmp_path: Path) -> None:
    kept = tmp_path / "cache" / "1a2b3c"
    kept.parent.mkdir()
    vig_t_file.rename(kept)
    link = {"url": "http://127.0.0.1:9/f/1a2b3c/?dl=1"}
    timm.create_model("vig_t", pretrained=True, cache_dir=kept.parent, pretrained_cfg_overlay=link)


def test_without_network_the_error_names_the_way_out(tmp_path: Path) -> None:
    unreachable = {"url": "http://127.0.0.1:9/vig_t.pth#sha256=" + "0" * 64}
    with pytest.raises(RuntimeError, match=r"pretrained_cfg_overlay=dict\(file=PATH\)"):
        timm.create_model("vig_t", pretrained=True, cache_dir=tmp_path, pretrained_cfg_overlay=unreachable)
