"""Operators, parts and whole networks against golden records; a new family only adds records and parts."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import timm
import torch
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

import gatedvision
from gatedvision.models._pretrained import rename_published
from gatedvision.models.vig import PositionEmbedding
from gatedvision_kernels import bidirectional_gla_reference
from tests.golden.golden import Record, draw_input, draw_weight, find_records
from tests.models.golden_blocks import PARTS

FLOAT64 = 1e-9
FLOAT32 = 1e-4
DTYPES = [torch.float64, torch.float32]
# On a GPU, float32 goes through the kernels.
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
# Larger networks are judged in float32 only, to keep the suite short.
MAX_FLOAT64_PARAMS = 30_000_000


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    # TF32, which rounds to 10 bits, is the default of convolutions on GPUs.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float, what: str, scale: float = 0.0) -> None:
    """Compare with a tolerance relative to the largest expected value or to a given scale."""
    scale = scale or float(expected.abs().max())
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    error = float((actual.double().cpu() - expected).abs().max())
    assert error <= tolerance * scale, f"{what}: off by {error:.2e}, that is {error / scale:.2e} of {scale:.2e}"


def reduce_tokens(x: Tensor, statistic: str, positions: list[int]) -> Tensor:
    """Reduce ``[..., L, D]`` as the records do: rows, mean over tokens, root mean square over channels."""
    if statistic == "at":
        return x[:, positions]
    return x.mean((0, 1)) if statistic == "mean" else x.square().mean(-1).sqrt()


@pytest.mark.parametrize(
    ("name", "shape", "first"),
    [
        ("head.weight", [2, 2], "0x1.3767e3f874edcp-1"),
        ("norm.weight", [2], "0x1.2b86d7c28fb13p+0"),
        ("head.bias", [2], "-0x1.3799f1756a85cp-4"),
        ("running_var", [2], "0x1.da949e046a427p-1"),
    ],
)
def test_drawn_weights_repeat_bit_for_bit(name: str, shape: list[int], first: str) -> None:
    assert float(draw_weight(name, shape).flatten()[0]).hex() == first


def op_inputs(record: Record) -> dict[str, Tensor]:
    inputs = {}
    for name, spec in record.facts["inputs"].items():
        x = draw_input(*spec["golden_input"], seed=spec["seed"])
        if spec.get("map") == "constant":
            x = torch.full_like(x, spec["value"])
        elif spec.get("map") == "logsigmoid":
            x = nn.functional.logsigmoid(spec["gain"] * x + spec["shift"]) / spec["divisor"]
        inputs[name] = x
    return inputs


@pytest.mark.parametrize("record", find_records("vig", "op"), ids=str)
def test_bidirectional_gla(record: Record) -> None:
    inputs = op_inputs(record)
    expected = record.arrays()
    leaves = {name: inputs[name].requires_grad_() for name in ("q", "k", "v", "gf", "gb")}
    o = bidirectional_gla_reference(*(x.transpose(1, 2) for x in leaves.values())).transpose(1, 2)
    loss = (o * inputs["do"]).sum()
    loss.backward()

    actual = {"loss": loss, "o": o} | {f"d{name}": x.grad for name, x in leaves.items()}
    for name, values in expected.items():
        head, _, statistic = name.partition("_")
        x = actual[head].detach()
        if statistic == "at":
            x = x[:, :, record.facts["positions"]]
        elif statistic == "mean":
            x = x.mean(2)
        elif statistic == "rms":
            x = x.square().mean((2, 3)).sqrt()
        # An expected gradient of exactly zero has no scale of its own.
        scale = float(values.abs().max()) or 1.0
        assert_near(x, values, FLOAT64, name, scale)


def build_part(record: Record, dtype: torch.dtype) -> tuple[nn.Module, dict[str, str]]:
    """Return the module, filled, and the module's parameter for each of the record's keys."""
    part = PARTS[record.name]
    module = part.build(dtype=dtype)
    own_names = {}
    for key in record.facts["keys"]:
        place = next(before for begin, before in part.places.items() if key.startswith(begin))
        (renamed,) = rename_published({place + key: torch.empty(0)}, part.rules)
        begin = next(begin for begin in part.renamed if renamed.startswith(begin))
        own_names[key] = part.renamed[begin] + renamed.removeprefix(begin)
    # Linear layers and scales are published as kernels and maps of one pixel.
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    weights = {own_names[key]: value for key, value in record.weights(dtype).items()}
    module.load_state_dict({name: value.reshape(shapes[name]) for name, value in weights.items()})
    return module.eval(), own_names


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("record", [r for r in find_records(kind="block") if r.name in PARTS], ids=str)
def test_part(record: Record, dtype: torch.dtype, device: str) -> None:
    module, own_names = build_part(record, dtype)
    module.to(device)
    x = draw_input(*record.facts["input_shape"]).to(device, dtype)
    tokens_in = x.ndim == 3
    x.requires_grad_()
    if tokens_in:
        y = module(x.unflatten(1, record.facts["kwargs"]["grid"]))
    else:
        y = module(x if PARTS[record.name].takes_image else x.permute(0, 2, 3, 1))
    # Records of maps draw the output's gradient as [B, C, H, W].
    y = y.flatten(1, 2) if tokens_in else y.permute(0, 3, 1, 2)
    (y * draw_input(*y.shape, seed=6).to(device, dtype)).sum().backward()
    assert x.grad is not None

    tolerance = FLOAT64 if dtype == torch.float64 else FLOAT32
    tokens = {"y": y.detach(), "dx": x.grad}
    for name, value in tokens.items():
        tokens[name] = value if tokens_in else value.flatten(2).transpose(1, 2)
    parameters = dict(module.named_parameters())
    for name, values in record.arrays().items():
        if name == "y":
            assert_near(tokens["y"].transpose(1, 2), values.flatten(2), tolerance, name)
        elif name.startswith("grad."):
            key, _, statistic = name.removeprefix("grad.").rpartition(".")
            gradient = parameters[own_names[key]].grad
            assert gradient is not None, key
            rms = float(record.arrays()[f"grad.{key}.rms"])
            actual = gradient.square().mean().sqrt() if statistic == "rms" else gradient.flatten()[: len(values)]
            assert_near(actual, values, tolerance, name, scale=max(rms, float(values.abs().max())))
        else:
            which, statistic = name.split("_")
            actual = reduce_tokens(tokens[which], statistic, record.facts["positions"])
            rms = float(record.arrays()[f"{which}_rms"].max())
            assert_near(actual, values, tolerance, name, scale=max(rms, float(values.abs().max())))


def test_resized_positions() -> None:
    (record,) = (r for r in find_records("vig", "block") if r.name == "pos_embed_resize")
    module = PositionEmbedding((14, 14), 192, dtype=torch.float64)
    module.load_state_dict({"weight": record.weights()["pos_embed"].unflatten(1, (14, 14))})
    for name, values in record.arrays().items():
        grid, statistic = name.split("_")
        height, width = map(int, grid.split("x"))
        with torch.no_grad():
            table = module(torch.empty(1, height, width, 192)).flatten(1, 2)
        positions = [0, width - 1, height * width // 2, height * width - 1]
        assert_near(reduce_tokens(table, statistic, positions), values, FLOAT64, name)


def record_stem(record: Record) -> str:
    """Return the record's name without the size of its input."""
    return re.sub(r"_\d+x\d+$", "", record.name)


def split_record_name(record: Record) -> tuple[str, str]:
    """Split ``<model>[_<form>]_<height>x<width>`` into model and form."""
    stem = record_stem(record)
    model = max((name for name in gatedvision.list_models() if f"{stem}_".startswith(f"{name}_")), key=len)
    return model, stem.removeprefix(model).strip("_")


# Arguments that turn a model into the form of its record, by family.
FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "hornet": {
        "dense": {"features_only": True, "feature_norms": True},
        "seg_dense": {"features_only": True, "feature_norms": True, "img_size": 384},
    },
    "moganet": {
        "dense": {"features_only": True},
        "doublegate": {"double_gate": True},
        "nofinaldil": {"final_dilation": False},
    },
    "vig": {"backbone": {"features_only": True, "feature_norms": True}},
}


def run_model(model: nn.Module, x: Tensor, first: int) -> dict[str, Tensor]:
    """Return what records name, counting from ``first``: maps by place, and logits."""
    if isinstance(model, FeatureGetterNet):
        maps = dict(enumerate(model(x), first))
        return {f"out{index}": x for index, x in maps.items()} | {f"level{index}": x for index, x in maps.items()}
    features, taps = model.forward_intermediates(x)
    found = {"patch_embed": model.stem(x).permute(0, 3, 1, 2), "norm": features, "logits": model.forward_head(features)}
    for index, tap in enumerate(taps, first):
        found[f"block{index}"] = found[f"stage{index}"] = tap
    return found


REDUCE = {
    "rms": lambda x: x.square().mean().sqrt(),
    "mean": lambda x: x.mean((0, 2, 3)),
    "corner": lambda x: x[0, :8, 0, 0],
    "far": lambda x: x[-1, :8, -1, -1],
}


def model_runs() -> list[Any]:
    runs = []
    for record in find_records(kind="model"):
        if record.family == "vmoe":  # names tokens and routing decisions: judged in a file of its own
            continue
        dtypes = DTYPES if record.facts["num_params"] <= MAX_FLOAT64_PARAMS else [torch.float32]
        runs += [(record, dtype) for dtype in dtypes]
    # Those of one network follow each other.
    runs.sort(key=lambda run: (record_stem(run[0]), str(run[1])))
    return [pytest.param(record, dtype, id=f"{record}-{dtype}") for record, dtype in runs]


@contextmanager
def undrawn() -> Iterator[None]:
    """Leave new weights as memory was, for those who load all of them; drawing them takes as long as using them."""

    def leave(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x

    with patch.multiple(Tensor, uniform_=leave, normal_=leave, erfinv_=leave):
        yield


@pytest.fixture(scope="module")
def load_network(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Record, torch.dtype], Any]:
    """Load the weights of a record from a file; the last network stays for inputs of another size."""
    file = tmp_path_factory.mktemp("weights") / "published.pth"
    last: dict[str, Any] = {}

    def load(record: Record, dtype: torch.dtype) -> Any:
        name, form = split_record_name(record)
        wanted = {"name": name, "form": form, "dtype": dtype, "keys": record.facts["keys"]}
        if last.get("wanted") != wanted:
            last.clear()
            options = FORMS[record.family][form] if form else {}
            torch.save({"model": record.weights(dtype)}, file)
            overlay = {"file": str(file)}
            with undrawn():
                model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, dtype=dtype, **options)
            file.unlink()
            last.update(wanted=wanted, model=model.eval())
        return last["model"]

    return load


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("record", "dtype"), model_runs())
def test_model(record: Record, dtype: torch.dtype, device: str, load_network: Callable[..., Any]) -> None:
    model = load_network(record, dtype).to(device)
    assert sum(p.numel() for p in model.parameters()) == record.facts["num_params"]

    with torch.inference_mode():
        x = draw_input(*record.facts["input_shape"]).to(device, dtype)
        found = run_model(model, x, first=0 if record.family == "vig" else 1)
    tolerance = FLOAT64 if dtype == torch.float64 else FLOAT32
    expected = record.arrays()
    for what, values in expected.items():
        if what == "logits":
            assert_near(found["logits"], values, tolerance, what, scale=float(values.std()))
        elif what == "logits_published_eval":
            # The published inference path halves twice, which only acts through an epsilon.
            assert_near(found["logits"], values, max(tolerance, 1e-4), what, scale=float(values.std()))
        else:
            place, statistic = what.rsplit("_", 1)
            # Channel means nearly cancel: the map's own values give the scale.
            if f"{place}_rms" in expected:
                scale = float(expected[f"{place}_rms"])
            else:
                scale = float(torch.cat([expected[f"{place}_corner"], expected[f"{place}_far"]]).std())
            assert_near(REDUCE[statistic](found[place]), values, tolerance, what, scale)
