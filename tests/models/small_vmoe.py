"""Quick V-MoE of every kind of routing."""

from dataclasses import replace
from typing import Any

from tests.models import test_contract as contract
from tests.models.cases import EXPERTS, SMALL_VMOE, Case

# Slots for all, so that images do not depend on their batch, and no noise, so that training is evaluation.
NETWORKS = {
    "top_k": {"num_experts": 4, "capacity_factor": 2.0},
    "batch_priority": {"num_experts": 4, "capacity_factor": 2.0, "priority": "batch", "representation_size": 24},
    "expert_choice": {"num_experts": 4, "routing": "expert_choice", "class_token": False, "global_pool": "avg"},
    "soft": {"num_experts": 3, "routing": "soft", "num_slots": 2, "qk_norm": True},
    "ensemble": {"num_experts": 6, "capacity_factor": 6.0, "num_selected": 1, "num_members": 2},
}


def case_of(name: str) -> Case:
    """Describe a network for the contract of models."""
    small = {**SMALL_VMOE, "noise_std": 0.0, "img_size": 64, **NETWORKS[name]}
    return replace(EXPERTS[0], small=small)


def small(name: str, **options: Any) -> Any:
    """Make a network of ten classes for evaluation."""
    return contract.create(case_of(name), **options)
