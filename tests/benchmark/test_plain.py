import platform
from functools import partial

import pytest
import timm
import torch

from gatedvision.benchmark.inputs import make_inputs
from gatedvision.benchmark.plain import plain_forms
from gatedvision.benchmark.plain.vig import attend_in_chunks, attend_to_all_pairs, attend_token_by_token
from gatedvision.benchmark.plain_models import (
    SMALLEST,
    benchmark_plain,
    check_form,
    keep_freed_memory,
    settle,
)
from gatedvision.benchmark.sources import create_model
from gatedvision.benchmark.timing import Spread
from gatedvision_kernels import bidirectional_gla_reference

HORNET = "dims=[8, 16, 32, 64], depths=[1, 1, 2, 1]"
MOGANET = "dims=[16, 16, 16, 16], depths=[1, 1, 2, 1]"
UNET = "dims=[4, 8, 16]"
VMOE = "patch_size=8, embed_dim=16, depth=4, num_heads=2, expert_blocks=[1, 3], representation_size=0"
# Model, sides of its images, and how many forms there are.
TINY = [
    (f"hornet_tiny_7x7({HORNET})", (64, 64), 2),
    (f"hornet_tiny_gf({HORNET}, img_size=64)", (64, 96), 2),
    (f"moganet_xtiny({MOGANET})", (64, 96), 2),
    (f"moganet_xtiny({MOGANET}, double_gate=True)", (64, 64), 2),
    ("vig_t(dim=32, depth=2, num_heads=2)", (64, 96), 5),
    ("vig_s(dim=32, depth=2, num_heads=2)", (64, 64), 5),
    ("vig_h_t(dims=[16, 32, 48, 64], depths=[1, 1, 1, 1], num_heads=[1, 2, 3, 4])", (64, 64), 3),
    ("deepfillv2(dim=8)", (64, 96), 3),
    ("deepfillv2(dim=8, first_mask_only=True)", (64, 64), 3),
    ("deepfillv2_port(dim=8)", (64, 64), 3),
    ("deepfillv2_mmagic(dim=24)", (72, 96), 3),
    (f"attention_unet({UNET})", (32, 48), 4),
    (f"attention_unet({UNET}, gated=False)", (32, 32), 4),
    (f"attention_unet_3d({UNET})", (16, 16, 8), 4),
    (f"attention_unet_3d_multi({UNET}, transposed=True)", (16, 16, 8), 4),
    (f"attention_unet_3d({UNET}, shared_gating=True, deep_supervision=False)", (16, 16, 8), 4),
    (f"attention_unet_monai({UNET}, strides=[2, 2])", (32, 48), 4),
    ("sononet_ag", (64, 48), 4),
    (f"vmoe_s32_last2_e8({VMOE})", (32, 48), 2),
    (f"vmoe_s32_last2_e8({VMOE}, capacity_factor=0.5, group_images=2)", (32, 32), 2),
    ("msvit_tiny(embed_dim=32, depth=2, num_heads=2)", (96, 64), 2),
    ("msvit_tiny(embed_dim=32, depth=2, num_heads=2)", (80, 70), 2),
]
TINY_VIG = TINY[4][0]


def settled(source, sides):
    torch.manual_seed(0)
    model = create_model(source, 64)
    settle(model, make_inputs(model, 4, sides))
    return model


@pytest.mark.parametrize(("source", "sides", "count"), TINY)
def test_plain_forms_are_the_model(source, sides, count):
    model = settled(source, sides)
    forms = plain_forms(model)
    assert len(forms) == count
    for batch in (1, 3):
        inputs = make_inputs(model, batch, sides)
        for name, run in forms.items():
            # Batch norms that settled on few values take rounding further than others.
            assert check_form(name, run, model, inputs) < 2e-5, name


def test_every_registered_model_has_plain_forms():
    modules = {timm.model_entrypoint(name).__module__: name for name in SMALLEST}
    assert len(modules) == len(SMALLEST)
    with torch.device("meta"):
        names = [
            name
            for name in timm.list_models()
            if timm.model_entrypoint(name).__module__.startswith("gatedvision.models.")
        ]
    assert set(SMALLEST) < set(names)
    found = {timm.model_entrypoint(name).__module__ for name in names}
    assert found == {timm.model_entrypoint(source.partition("(")[0]).__module__ for source, _, _ in TINY}


@pytest.mark.parametrize("chunk", [1, 4, 16])
def test_attention_by_definition(chunk):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 13, width, dtype=torch.float64) for width in (4, 4, 8))
    decays = [-torch.rand(2, 3, 13, 4, dtype=torch.float64) for _ in range(2)]
    by_token = [x.transpose(1, 2) for x in (query, key, value, *decays)]
    expected = bidirectional_gla_reference(*by_token, scale=2.0).transpose(1, 2)
    for attention in (partial(attend_in_chunks, chunk=chunk), attend_to_all_pairs, attend_token_by_token):
        torch.testing.assert_close(attention(query, key, value, *decays), expected, rtol=1e-10, atol=1e-10)


def test_models_are_settled_so_that_every_part_matters():
    model = settled(TINY[18][0], (32, 32))
    for _, layer in model.expert_layers():
        assert not torch.equal(layer.experts.fc1.weight[0], layer.experts.fc1.weight[1])
    model = settled(TINY[20][0], (96, 64))
    model(*make_inputs(model, 8, (96, 64)))
    shares = model.last.coarse.float().mean(1)
    assert 0.2 < shares.mean() < 0.8 and shares.unique().numel() > 1
    assert not model.training and settled(TINY[0][0], (64, 64)).stages[0].blocks[0].scale_mlp.gamma.abs().max() > 0.01


def test_a_wrong_form_is_refused(monkeypatch):
    source, sides, _ = TINY[4]
    model = settled(source, sides)
    inputs = make_inputs(model, 2, sides)
    run = next(iter(plain_forms(model).values()))
    with pytest.raises(ValueError, match="not timed, mine is wrong: relative error 0.02, limit 0.0001"):
        check_form("mine", lambda x: 1.02 * run(x), model, inputs)
    monkeypatch.setattr(
        "gatedvision.benchmark.plain_models.plain_forms", lambda model: {"wrong": lambda x: model(x).flip(1)}
    )
    with pytest.raises(ValueError, match=r"not timed, vig_t\(.*\), wrong is wrong"):
        benchmark_plain([source], [1], 64, 1e-3)


def test_rows():
    report = benchmark_plain([TINY_VIG, TINY[7][0]], [1, 2], 32, 1e-3)
    vig = ["ours", "chunks of 16", "chunks of 28", "chunks of 49", "all pairs", "recurrence"]
    deepfill = ["ours", "channels first, products", "channels last, products", "channels first, convolutions"]
    assert [(row["model"], row["batch"], row["form"]) for row in report.rows] == [
        (name, batch, form)
        for name, forms in ((TINY_VIG, vig), (TINY[7][0], deepfill))
        for batch in "12"
        for form in forms
    ]
    for first, last in ((0, 6), (6, 12), (12, 16), (16, 20)):
        rows = report.rows[first:last]
        fastest = min(row["ms (20–80 %)"].median for row in rows[1:])
        for row in rows:
            time = row["ms (20–80 %)"]
            assert isinstance(time, Spread) and 0 < time.low <= time.median <= time.high
            assert row["times the fastest plain"] == pytest.approx(time.median / fastest)
    assert report.title.startswith("forward pass in fp32, evaluation, CPU of ")


def test_the_models_own_size():
    report = benchmark_plain(["sononet_ag(feature_scale=64)"], [1], seconds=1e-3)
    assert len(report.rows) == 5 and {row["batch"] for row in report.rows} == {"1"}


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        ([TINY_VIG], {"batch_sizes": [0]}, "batch size must be positive, got 0"),
        ([TINY_VIG], {"img_size": 0}, "image size must be positive, got 0"),
        ([TINY_VIG], {"seconds": 0.0}, "seconds must be positive, got 0"),
        (["test_resnet"], {}, "no plain form of ResNet, only of AttentionUnet, DeepFillV2, "),
        (["vig_nobody"], {}, "unknown model 'vig_nobody'"),
        ([f"vmoe_s32_last2_e8({VMOE}, routing='soft')"], {}, "tokens that choose, in their order"),
        ([f"vmoe_s32_last2_e8({VMOE}, priority='batch')"], {}, "tokens that choose, in their order"),
        (["msvit_tiny(embed_dim=32, depth=2, num_heads=2, global_pool='avg')"], {}, "for the class token, got .*'avg'"),
        (["deepfillv2(dim=8)"], {"img_size": 60}, r"sides must be multiples of 8, got \(1, 3, 60, 60\)"),
    ],
)
def test_mistakes(names, arguments, message):
    with pytest.raises(ValueError, match=message):
        benchmark_plain(names, **{"batch_sizes": [1], "img_size": 64, "seconds": 1e-3, **arguments})


def test_memory_is_kept_where_there_is_glibc() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
