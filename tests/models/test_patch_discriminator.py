"""SN-PatchGAN, beside the published discriminator and its spectral norm."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gatedvision.models import PatchDiscriminator
from gatedvision.models._deepfill_names import convert_discriminator
from tests.golden.golden import draw_input, find_records

(RECORD,) = (record for record in find_records("inpainting") if record.name == "sn_patchgan_256")


def tensorflow_weights() -> dict[str, Tensor]:
    """Return the record's weights under TensorFlow's names, kernels as HWIO and vectors as rows."""
    weights, variables = RECORD.weights(), {}
    for name, facts in RECORD.facts["tf_keys"].items():
        value = weights[facts["key"]]
        inverse = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[value.ndim]
        variables[name] = value.permute(inverse).contiguous()
        assert list(variables[name].shape) == facts["tf_shape"]
    return variables


def step_as_published(model: Any) -> None:
    """Do the one step of power iteration that published code does in every forward pass, there in evaluation, too."""
    for layer in model.layers:
        norm, matrix = layer.parametrizations.weight[0], layer.parametrizations.weight.original.flatten(1)
        norm._v.copy_(F.normalize(matrix.t() @ norm._u, dim=0, eps=1e-12))
        norm._u.copy_(F.normalize(matrix @ norm._v, dim=0, eps=1e-12))


@torch.no_grad()
def test_record() -> None:
    model: Any = PatchDiscriminator(dtype=torch.float64).eval()
    model.load_published(tensorflow_weights())
    assert sum(p.numel() for p in model.parameters()) == RECORD.facts["num_params"]
    height, width = 256, 256
    y, x = torch.arange(height)[:, None], torch.arange(width)[None, :]
    rectangle = (64 <= y) & (y < 64 + 85) & (85 <= x) & (x < 85 + 64)
    mask = rectangle | ((y >= 128) & ((2 * (y * width - x * height)).abs() < 8 * (height + width)))
    mask = mask.expand(2, 1, height, width)
    # Published weights see BGR, ours RGB.
    image = torch.tanh(draw_input(2, 3, height, width)).flip(1)

    step_as_published(model)
    first = model(image, mask)
    # What layers returned was taken down with TensorFlow's slope, a number in single precision.
    outputs = [torch.cat([image, mask.double()], 1)]
    for layer in model.layers:
        outputs.append(F.leaky_relu(layer(outputs[-1]), float(np.float32(0.2))))
    vectors = [layer.parametrizations.weight[0]._u.clone() for layer in model.layers]
    step_as_published(model)
    second = model(image, mask)

    actual = {
        "call1_conv6": first[:, ::4],
        "call1_mean": first.mean((1, 2, 3)),
        "call2_mean": second.mean((1, 2, 3)),
        "call2_sub": second[:, ::16],
    }
    for index, output in enumerate(outputs[1:], 1):
        actual |= {f"conv{index}.mean": output.mean((0, 2, 3)), f"conv{index}.corner": output[0, :8, 0, 0]}
    actual |= {f"u_after.conv{n}.conv_sn.weight_u": u for n, u in enumerate(vectors, 1)}
    expected = RECORD.arrays()
    assert set(actual) == set(expected)
    for name, values in expected.items():
        torch.testing.assert_close(actual[name], values, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_every_name_of_the_published_weights_gives_the_same_tensors() -> None:
    from_port = convert_discriminator({"D": RECORD.weights(), "G": {}})
    from_tensorflow = convert_discriminator(
        {**tensorflow_weights(), "inpaint_net/conv1/kernel": torch.ones(1)}, bgr=False
    )
    torch.testing.assert_close(from_port, from_tensorflow, rtol=0, atol=0)
    model = PatchDiscriminator(dtype=torch.float64)
    assert set(from_port) == set(model.state_dict())
    model.load_published({"state_dict": from_port})
    torch.testing.assert_close(dict(model.state_dict()), from_port, rtol=0, atol=0)


def small(**kwargs: Any) -> Any:
    torch.manual_seed(0)
    return PatchDiscriminator(dims=(4, 8, 8, 8, 8, 8), **kwargs)


def test_scores_and_gradients() -> None:
    model, image = small(), torch.rand(2, 3, 70, 130) * 2 - 1
    mask = torch.rand(2, 1, 70, 130) > 0.5
    scores = model(image, mask)
    assert scores.shape == (2, 8, 2, 3)
    scores.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert PatchDiscriminator(5, device="meta").in_chans == 5
    assert small(in_chans=5)(image, mask, mask.float()).shape == (2, 8, 2, 3)
    assert not any("parametrizations" in name for name in small(normalize=False).state_dict())


def test_evaluation_leaves_the_vectors_alone_and_training_moves_them() -> None:
    model, inputs = small(), (torch.rand(1, 3, 64, 64), torch.rand(1, 1, 64, 64))
    vector = model.layers[2].parametrizations.weight[0]._u
    before = vector.clone()
    model.eval()(*inputs)
    assert torch.equal(vector, before)
    model.train()(*inputs)
    assert not torch.equal(vector, before)


def test_autocast_leaves_the_spectral_norm_in_float32() -> None:
    model, inputs = small(), (torch.rand(1, 3, 64, 64), torch.rand(1, 1, 64, 64))
    twin = small()
    model(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        scores = twin(*inputs)
    assert scores.dtype == torch.bfloat16
    for ours, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_bad_inputs_are_named() -> None:
    with pytest.raises(ValueError, match="image, mask and sketch have 5 channels, this discriminator 4"):
        small()(torch.ones(1, 3, 8, 8), torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8))
