import pytest
import timm
import torch
from safetensors.torch import save_file

from gatedvision.engine.checkpoint_file import CheckpointError
from gatedvision.inpainting.weights import load_generator


@pytest.fixture(scope="module")
def generator():
    return timm.create_model("deepfillv2", dim=8)


def same(model, generator) -> bool:
    own, expected = model.state_dict(), generator.state_dict()
    return own.keys() == expected.keys() and all(torch.equal(own[name], expected[name]) for name in own)


def run_checkpoint(generator, config: str = "") -> dict:
    """What a run saves: the average as ``state_dict``, beside it the weights in training."""
    weights = {f"generator.{name}": value for name, value in generator.state_dict().items()}
    weights["discriminator.weight"] = torch.zeros(2)
    raw = {f"module.{name}": value + 1 for name, value in weights.items()}
    return {"state_dict": weights, "ema_state_dict": raw, "meta": {"cfg": config}}


@pytest.mark.parametrize("name", ["bare.pth", "old.pth", "nested.pth", "bare.safetensors"])
def test_state_dicts(tmp_path, generator, name):
    weights, path = generator.state_dict(), tmp_path / name
    if name == "bare.safetensors":
        save_file(weights, path)
    else:
        content = {"state_dict": weights} if name == "nested.pth" else weights
        torch.save(content, path, _use_new_zipfile_serialization=name != "old.pth")
    model = load_generator(path, dim=8)
    assert same(model, generator) and not model.training


def test_a_run_says_which_generator_it_trained(tmp_path, generator):
    text = (
        "import os\nmodel = dict(\n    gan_weight=0.1,\n    generator=dict(dim=8, model_name='deepfillv2'),\n"
        "    type='gatedvision.tasks.Inpainting')\nos.remove('everything')\n"
    )
    torch.save(run_checkpoint(generator, text), tmp_path / "epoch_2.pth")
    assert same(load_generator(tmp_path / "epoch_2.pth"), generator)
    # A work directory means its last checkpoint.
    assert same(load_generator(str(tmp_path)), generator)


@pytest.mark.parametrize("config", ["", "model = 3", "model = dict(generator=unknown())", "no config"])
def test_a_run_whose_config_says_nothing(tmp_path, generator, config):
    torch.save(run_checkpoint(generator, config), tmp_path / "iter_9.pth")
    assert same(load_generator(tmp_path / "iter_9.pth", "deepfillv2", dim=8), generator)
    with pytest.raises(CheckpointError, match=r"iter_9.pth does not fit deepfillv2: .*--model-options"):
        load_generator(tmp_path / "iter_9.pth")


def test_mistakes_name_the_file(tmp_path, generator):
    with pytest.raises(CheckpointError, match="no weights: none come with this package.*--checkpoint FILE"):
        load_generator(None)
    with pytest.raises(CheckpointError, match="no checkpoint at .*gone.pth"):
        load_generator(tmp_path / "gone.pth")
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        load_generator(tmp_path)
    path = tmp_path / "epoch_1.pth"
    torch.save(run_checkpoint(generator), path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content, message in (
        (whole[: len(whole) // 2], "cannot read weights from .*epoch_1.pth: damaged"),
        (bytes(flipped), "epoch_1.pth is damaged: the checksum"),
        (b"junk", "cannot read weights from .*epoch_1.pth"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            load_generator(path, dim=8)
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="cannot read weights from .*junk.safetensors"):
        load_generator(tmp_path / "junk.safetensors")
    torch.save(generator.state_dict(), path)
    with pytest.raises(ValueError, match="no model named 'deepfill'"):
        load_generator(path, "deepfill")
