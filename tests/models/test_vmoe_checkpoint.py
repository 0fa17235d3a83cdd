"""Published checkpoints: read byte for byte from the fixture, converted, and refused where they are damaged."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from gatedvision.models._vmoe_names import convert_published
from gatedvision.models.vmoe import VMoE, checkpoint_filter_fn
from gatedvision.models.vmoe_checkpoint import arguments_of, holds_vmoe, read_checkpoint
from tests.golden.golden import draw_input, draw_weight
from tests.models.test_vmoe_golden import MODELS
from tests.models.test_vmoe_golden import arguments_of as recorded_arguments

FOLDER = Path(__file__).parents[1] / "golden" / "vmoe" / "checkpoint"
NAME = "tiny_e4_last1"


def test_fixture_is_read_byte_for_byte() -> None:
    keys = json.loads((FOLDER / f"{NAME}.json").read_text())["keys"]
    for source in (FOLDER / NAME, FOLDER / f"{NAME}.index"):
        assert holds_vmoe(source)
        arrays = read_checkpoint(source)
        assert set(arrays) == set(keys)
        for name, shape in keys.items():
            expected = draw_weight(name, shape).numpy().astype(np.float32)
            assert arrays[name].dtype == np.float32 and arrays[name].shape == tuple(shape)
            assert arrays[name].tobytes() == expected.tobytes(), name


def test_fixture_is_a_network() -> None:
    arrays = {name: torch.from_numpy(array) for name, array in read_checkpoint(FOLDER / NAME).items()}
    facts = json.loads((FOLDER / f"{NAME}.json").read_text())
    model = VMoE(**arguments_of(arrays))
    assert sum(p.numel() for p in model.parameters()) == facts["num_params"]
    model.load_state_dict(checkpoint_filter_fn(arrays, model))
    assert model.eval()(draw_input(*facts["input_shape"]).float()).shape == (2, facts["kwargs"]["num_classes"])
    assert checkpoint_filter_fn(model.state_dict(), model).keys() == model.state_dict().keys()


@pytest.mark.parametrize("img_size", [8, (12, 20)], ids=str)
def test_published_names_load_by_the_registered_name(img_size: Any, tmp_path: Path) -> None:
    arrays = {name: torch.from_numpy(array) for name, array in read_checkpoint(FOLDER / NAME).items()}
    torch.save({f"params/{name}": x for name, x in arrays.items()}, tmp_path / "published.pth")
    options = {**arguments_of(arrays), "img_size": img_size}
    overlay = {"file": str(tmp_path / "published.pth"), "num_classes": 5}
    model: Any = timm.create_model("vmoe_s32_last2_e8", pretrained=True, pretrained_cfg_overlay=overlay, **options)
    positions = arrays["Encoder/posembed_input/pos_embedding"]
    # Corners of the grid stay where they are.
    assert torch.equal(model.pos_embed[:, [0, 1, -1]], positions[:, [0, 1, -1]])
    assert torch.equal(model.head.weight, arrays["head/kernel"].T)

    arrays["Encoder/posembed_input/pos_embedding"] = positions[:, :-1]
    with pytest.raises(ValueError, match="pos_embed has 3 positions, no square grid"):
        checkpoint_filter_fn(arrays, model)


@pytest.mark.parametrize("record", MODELS, ids=str)
def test_arguments_are_read_from_shapes(record: Any) -> None:
    found = arguments_of({name: torch.empty(shape, device="meta") for name, shape in record.facts["keys"].items()})
    recorded = recorded_arguments(record)
    if recorded["img_size"][0] != recorded["img_size"][1]:
        found["img_size"] = recorded["img_size"]
    sides = recorded["img_size"]
    given = {**recorded, "img_size": sides if sides[0] != sides[1] else sides[0]}
    told = {name: given[name] for name in found if name in given}
    told["expert_blocks"] = tuple(told["expert_blocks"])
    assert {name: found[name] for name in told} == told
    assert "routing" not in found or found["routing"] == given["routing"]


@pytest.fixture
def torn(tmp_path: Path) -> Path:
    """Copy the fixture to where it can be damaged."""
    for file in FOLDER.glob(f"{NAME}.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / NAME


def test_damaged_files_are_named(torn: Path) -> None:
    part = Path(f"{torn}.data-00001-of-00002")
    data = part.read_bytes()
    part.write_bytes(data[:-7])
    with pytest.raises(ValueError, match=r"cannot read .*data-00001-of-00002.*incomplete input"):
        read_checkpoint(torn)
    part.write_bytes(data + b"\x00")
    with pytest.raises(ValueError, match=r"cannot read .*data-00001-of-00002.*extra data"):
        read_checkpoint(torn)
    part.write_bytes(b"\xc1")
    with pytest.raises(ValueError, match=r"cannot read .*data-00001-of-00002"):
        read_checkpoint(torn)
    part.write_bytes(b"\x80")
    with pytest.raises(ValueError, match="data-00001-of-00002' is no part of a checkpoint"):
        read_checkpoint(torn)
    # An empty part: what it should hold is missing.
    marker = b"__msgpack_array_chunk_a87ca2__"
    part.write_bytes(b"\x81" + b"\xd9" + bytes([len(marker)]) + marker + b"\xc3")
    with pytest.raises(ValueError, match=r"the parts of .* do not hold all of Encoder/"):
        read_checkpoint(torn)
    part.unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*00001-of-00002': a checkpoint is an index and all of"):
        read_checkpoint(torn)
    Path(f"{torn}.index").write_bytes(b"\x80")
    assert not holds_vmoe(torn)
    with pytest.raises(ValueError, match="is no index of a checkpoint of V-MoE"):
        read_checkpoint(torn)


def test_other_tensors_are_no_network() -> None:
    with pytest.raises(ValueError, match="no checkpoint of V-MoE: it lacks a tensor"):
        arguments_of({"fc.weight": torch.ones(2, 2)})
    with pytest.raises(ValueError, match=r"lacks blocks\.0\.attn\.key\.weight, blocks\.0\.attn\.value\.weight"):
        convert_published({"Encoder/encoderblock_0/SelfAttention/query/kernel": torch.ones(4, 2, 2)})


def test_missing_reader_is_named(torn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ModuleNotFoundError, match=r"need msgpack: pip install 'gatedvision\[vmoe\]'"):
        read_checkpoint(torn)
