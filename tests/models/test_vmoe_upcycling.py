"""Dense networks as the start of sparse ones: what is copied, and which do not fit."""

from typing import Any

import pytest
import timm
import torch

from gatedvision.models import upcycle
from tests.models.small_vmoe import small
from tests.models.test_contract import image


def dense(**options: Any) -> Any:
    torch.manual_seed(1)
    arguments = {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 10, **options}
    return timm.create_model("vit_tiny_patch16_224", img_size=64, **arguments).eval()


@pytest.mark.parametrize("name", ["top_k", "expert_choice", "soft"])
def test_upcycled_experts_are_the_dense_perceptron(name: str) -> None:
    teacher = dense()
    options: dict[str, Any] = {"num_selected": 4} if name == "top_k" else {}
    options |= {"qk_norm": False, "class_token": True, "global_pool": "token"}
    model = upcycle(small(name, act_layer="gelu", **options), teacher)
    weight = model.blocks[3].mlp.experts.fc1.weight
    assert all(torch.equal(expert, teacher.blocks[3].mlp.fc1.weight.T) for expert in weight)
    if name == "top_k":
        # Gates of all experts sum to 1.
        x = image(2, 3, 64, 64)
        torch.testing.assert_close(model(x), teacher(x), rtol=1e-4, atol=1e-5)


def test_upcycling_keeps_the_head_of_other_classes() -> None:
    model = small("top_k", num_classes=7)
    head = model.head.weight.clone()
    state = {"model": dense().state_dict()}
    upcycle(model, state)
    assert torch.equal(model.head.weight, head)
    assert upcycle(small("top_k", img_size=32), dense(num_classes=0)).pos_embed.shape == (1, 17, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, "the dense network does not fit: missing blocks.3.norm1.weight"),
        ({"init_values": 1e-5}, "unexpected blocks.0.ls1.gamma"),
        ({"embed_dim": 48}, r"the dense network has other sizes, as cls_token: \(1, 1, 48\) for \(1, 1, 32\)"),
    ],
)
def test_dense_networks_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    model = small("top_k")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        upcycle(model, dense(**options))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
