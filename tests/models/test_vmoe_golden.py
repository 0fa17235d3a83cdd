"""V-MoE against golden records of the published code, through the published names, in float64."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from gatedvision.models._vmoe_parts import resize_positions_aligned
from gatedvision.models.vmoe import VMoE, checkpoint_filter_fn
from tests.golden.golden import Record, draw_input, draw_weight
from tests.models.vmoe_records import RECORDS, assert_equal, recorded_weights

MODELS = [record for record in RECORDS.values() if "encoder" in record.facts.get("kwargs", {})]
REGISTERED = {"vmoe_b16_every2_e8_k2_224": "vmoe_b16_every2_e8", "vmoe_s32_last2_e8_k2_224": "vmoe_s32_last2_e8"}
LOSS_TOLERANCE = {"importance": 1e-6, "gshard": 1e-6, "auxiliary": 1e-6}


def arguments_of(record: Record) -> dict[str, Any]:
    """Turn published arguments into ours."""
    facts, size = record.facts["kwargs"], record.facts["input_shape"][2:]
    encoder, patch = facts["encoder"], facts["patch_size"][0]
    moe = encoder["moe"]
    token = facts["classifier"] == "token"
    options: dict[str, Any] = {
        "img_size": tuple(size),
        "patch_size": patch,
        "num_classes": facts["num_classes"],
        "embed_dim": facts["hidden_size"],
        "depth": encoder["num_layers"],
        "num_heads": encoder["num_heads"],
        "class_token": token,
        "global_pool": "token" if token else "avg",
        "qk_norm": encoder.get("attention_qk_norm", False),
        "representation_size": facts.get("representation_size") or 0,
        "expert_blocks": moe["layers"],
        "num_experts": moe["num_experts"],
        "num_members": moe.get("ensemble_size", 1),
    }
    router = moe["router"]
    if "Soft" in router.get("name", ""):
        return {**options, "routing": "soft", "capacity_factor": router["capacity_factor"]}
    tokens = (size[0] // patch) * (size[1] // patch) + token
    options["capacity_factor"] = router["dispatcher"]["capacity_factor"]
    options["group_images"] = moe["group_size"] // (tokens * options["num_members"])
    if "ItemsPerExpert" in router.get("name", ""):
        return {**options, "routing": "expert_choice"}
    priority = "batch" if router["dispatcher"]["batch_priority"] else "vanilla"
    return {**options, "num_selected": router["num_selected_experts"], "priority": priority}


def build(record: Record) -> VMoE:
    options = arguments_of(record)
    with torch.device("meta"):
        if record.name in REGISTERED:
            name = REGISTERED[record.name]
            model: Any = timm.create_model(name, dtype=torch.float64, group_images=options["group_images"])
        else:
            model = VMoE(**options, dtype=torch.float64)
    assert sum(p.numel() for p in model.parameters()) == record.facts["num_params"]
    model.load_state_dict(checkpoint_filter_fn(recorded_weights(record), model), assign=True)
    return model.eval()


def check_routing(routing: Any, name: str, values: Tensor, facts: Any) -> None:
    kept = routing.slot_of_choice >= 0
    if name == "expert_index":
        assert torch.equal(routing.experts.view(values.shape), values.long())
    else:
        assert np.array_equal(np.packbits(kept.numpy()), values.numpy())
    if facts:
        dropped = (~kept).view(len(facts["assignments_dropped_per_group"]), -1).sum(1)
        assert routing.capacity == facts["capacity"]
        assert dropped.tolist() == facts["assignments_dropped_per_group"]


@pytest.mark.parametrize("record", MODELS, ids=str)
def test_record(record: Record) -> None:
    model = build(record)
    model.keep_routing()
    found: dict[str, Tensor] = {}
    modules = {**{f"block{i}": block for i, block in enumerate(model.blocks)}, "encoder_norm": model.norm}
    for name, module in {**modules, "embedding": model.patch_embed}.items():
        module.register_forward_hook(lambda _, inputs, output, name=name: found.update({name: output}))
    with torch.inference_mode():
        x = draw_input(*record.facts["input_shape"])
        found["logits"] = model(x)
        # Recorded is what enters the tanh, where there is one.
        pooled = model.pool(found["encoder_norm"])
        found["pre_logits"] = (
            model.pre_logits.fc(pooled) if record.facts["kwargs"].get("representation_size") else pooled
        )

    layers = dict(model.expert_layers())
    total = 0
    arrays = record.arrays()
    for key, values in arrays.items():
        place, _, what = key.partition("_")
        losses = layers[int(place[5:])].last.losses if place.startswith("block") and what.endswith("loss") else None
        if key == "logits":
            assert_equal(found["logits"], values, 1e-6, key, scale=record.facts["logits_std"])
        elif what in ("expert_index", "kept"):
            check_routing(layers[int(place[5:])].last.routing, what, values, record.facts["routing"].get(place))
        elif losses is not None and what == "auxiliary_loss":
            own = 0.005 * losses["importance"] if losses else torch.zeros(())
            total = total + own
            assert_equal(own, values, 1e-6, key)
        elif losses is not None:
            assert_equal(losses[what.removesuffix("_loss")], values, 1e-6, key)
        elif key == "auxiliary_loss":
            assert_equal(torch.as_tensor(total), values, 1e-6, key)
        elif key == "embedding_corner":
            assert_equal(found["embedding"][0, :2, :2, :8], values, 1e-6, key)
        elif key == "pre_logits_corner":
            assert_equal(found["pre_logits"][:, :16], values, 1e-6, key)
        else:
            x, statistic = found[key.rsplit("_", 1)[0]], key.rsplit("_", 1)[1]
            corner = x[-1] if key.startswith("encoder_norm") else x[0]
            actual = x.mean((0, 1))[:64] if statistic == "mean" else corner[:4, :8]
            scale = float(arrays[key.replace("_mean", "_corner")].std())
            assert_equal(actual, values, 1e-6, key, scale)
    if layers[max(layers)].last.losses:
        losses = model.auxiliary_losses()
        assert_equal(losses["auxiliary"], arrays["auxiliary_loss"].mean(), 1e-6, "auxiliary_losses()")


def test_position_resize() -> None:
    record = RECORDS["posembed_resize"]
    for pair in record.facts["kwargs"]["pairs"]:
        old, new = pair["grid_from"], pair["grid_to"]
        table = draw_weight("Encoder/posembed_input/pos_embedding", [1, old**2 + 1, pair["channels"]])
        expected = record.arrays()[pair["name"]]
        assert_equal(resize_positions_aligned(table, (old, old), new, new), expected, 1e-12, pair["name"])
