"""One row per model; every check of the contract runs on every row.

Once they are small, most sizes of a family are one network. What only looks at the small network runs on ``NETWORKS``,
the first row of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import timm
from timm.models import build_model_with_cfg
from torch import nn


@dataclass(frozen=True)
class Case:
    """A registered model.

    Attributes:
        name: its registered name.
        num_params: parameters with 1000 classes.
        channels: channels of each map that ``features_only`` returns.
        reductions: strides of these maps, pixels.
        small: arguments that make a quick network of the same make, for what does not depend on size.
        mixer: class of its token mixer.
        operator: an operator of the mixer.
        checksum: digits of the checksum of its weights; some are published without one.
        weights: ``"default"`` for weights in its default cfg, ``"tag"`` if weights are only to be had by the name
            of their tag, ``"none"`` if there are none.
    """

    name: str
    num_params: int
    channels: Sequence[int]
    reductions: Sequence[int]
    small: dict[str, Any]
    mixer: str = "GatedLinearAttention"
    operator: str = "attend"
    checksum: int = 64
    weights: str = "default"

    def create(self, **kwargs: Any) -> Any:
        """Build the small network."""
        return timm.create_model(self.name, **{"num_classes": 10, **self.small, **kwargs})

    def __str__(self) -> str:
        return self.name


SMALL_VIG = {"dim": 32, "depth": 4, "num_heads": 2}
SMALL_VIG_H = {"dims": (16, 32, 48, 64), "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4)}
SMALL_MOGANET = {"dims": (16, 24, 32, 48), "depths": (1, 1, 2, 1), "mlp_ratios": (2, 2, 2, 2)}
SMALL_HORNET = {"dims": (16, 32, 48, 64), "depths": (1, 1, 2, 1)}
STRIDES = (4, 8, 16, 32)
HORNET = (STRIDES, SMALL_HORNET, "RecursiveGatedConv", "gate_recursively", 8)
MOGANET = (STRIDES, SMALL_MOGANET, "MultiOrderGatedAggregation", "gated_product", 0)

# Neither classify nor return features: held to what of the contract is left in a file of their own.
GENERATORS = ("deepfillv2", "deepfillv2_mmagic", "deepfillv2_port")
SEGMENTERS = ("attention_unet", "attention_unet_3d", "attention_unet_3d_multi", "attention_unet_monai")
# Classifies by maps of three stages: passes what of the contract its nature allows.
SCAN_PLANES = ("sononet_ag",)
# Transformers with a class token, of which timm asks what it asks of its own.
SMALL_VMOE = {
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
    "representation_size": 0,
    "expert_blocks": (1, 3),
}


def _experts(name: str, num_params: int) -> Case:
    dim = {"s": 512, "b": 768, "l": 1024, "h": 1280}[name[5]]
    patch = int(name[6:8])
    return Case(name, num_params, (dim,) * 4, (patch,) * 4, SMALL_VMOE, "Attention", "mlp", weights="none")


EXPERTS = [
    _experts("vmoe_s32_last2_e8", 56_999_400),
    _experts("vmoe_b32_last2_e8", 154_350_568),
    _experts("vmoe_b16_every2_e8", 284_946_664),
    _experts("vmoe_s32_last2_e32", 157_810_152),
    _experts("vmoe_s32_every2_e32", 288_025_064),
    _experts("vmoe_b32_last2_e32", 381_654_760),
    _experts("vmoe_b32_every2_e32", 967_334_632),
    _experts("vmoe_b16_last2_e32", 379_998_184),
    _experts("vmoe_b16_every2_e32", 965_678_056),
    _experts("vmoe_l32_last2_e32", 828_061_672),
    _experts("vmoe_l32_every2_e32", 3_430_445_032),
    _experts("vmoe_l16_last2_e32", 825_852_904),
    _experts("vmoe_l16_every2_e32", 3_428_236_264),
    _experts("vmoe_h14_last5_e32", 2_666_498_280),
    _experts("vmoe_h14_every2_e32", 7_138_686_440),
]

# Tokens of two scales: transformers with a class token, too.
SMALL_MSVIT = {"patch_size": 8, "coarse": 16, "embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 64}


def _mixed_scales(name: str, num_params: int, dim: int) -> Case:
    return Case(name, num_params, (dim,) * 4, (16,) * 4, SMALL_MSVIT, "MixedScaleAttention", "gate", weights="default")


MIXED_SCALES = [
    _mixed_scales("msvit_tiny", 5_764_457, 192),
    _mixed_scales("msvit_small", 22_218_473, 384),
    _mixed_scales("msvit_base", 87_198_185, 768),
]

CASES = [
    Case("vig_t", 5_834_536, (192,) * 4, (16,) * 4, SMALL_VIG),
    Case("vig_s", 22_615_144, (384,) * 4, (16,) * 4, SMALL_VIG),
    Case("vig_b", 89_022_184, (768,) * 4, (16,) * 4, SMALL_VIG),
    Case("vig_h_t", 28_600_680, (96, 192, 384, 768), STRIDES, SMALL_VIG_H),
    Case("vig_h_s", 50_051_688, (96, 192, 384, 768), STRIDES, SMALL_VIG_H),
    Case("vig_h_b", 88_904_360, (128, 256, 512, 1024), STRIDES, SMALL_VIG_H),
    Case("hornet_tiny_7x7", 22_409_512, (64, 128, 256, 512), *HORNET),
    Case("hornet_tiny_gf", 22_991_848, (64, 128, 256, 512), *HORNET),
    Case("hornet_small_7x7", 49_528_264, (96, 192, 384, 768), *HORNET),
    Case("hornet_small_gf", 50_401_768, (96, 192, 384, 768), *HORNET),
    Case("hornet_base_7x7", 87_256_680, (128, 256, 512, 1024), *HORNET),
    Case("hornet_base_gf", 88_421_352, (128, 256, 512, 1024), *HORNET),
    Case("hornet_base_gf_img384", 92_099_560, (128, 256, 512, 1024), *HORNET, "none"),
    Case("hornet_large_7x7", 194_542_504, (192, 384, 768, 1536), *HORNET, "tag"),
    Case("hornet_large_gf", 196_289_512, (192, 384, 768, 1536), *HORNET, "tag"),
    Case("hornet_large_gf_img384", 201_806_824, (192, 384, 768, 1536), *HORNET, "tag"),
    Case("moganet_xtiny", 2_956_066, (32, 64, 96, 192), *MOGANET),
    Case("moganet_tiny", 5_197_332, (32, 64, 128, 256), *MOGANET),
    Case("moganet_small", 25_335_675, (64, 128, 320, 512), *MOGANET),
    Case("moganet_base", 43_720_475, (64, 160, 320, 512), *MOGANET),
    Case("moganet_large", 82_480_978, (64, 160, 320, 640), *MOGANET),
    Case("moganet_xlarge", 180_991_924, (96, 192, 480, 960), *MOGANET),
]


def arguments_of(case: Case) -> tuple[type[nn.Module], dict[str, Any]]:
    """Return the class of the small network and what its constructor gets."""
    found = []

    def build(model_cls: type[nn.Module], *args: Any, **kwargs: Any) -> Any:
        def note(**arguments: Any) -> nn.Module:
            found.append((model_cls, arguments))
            return nn.Module()

        return build_model_with_cfg(note, *args, **kwargs)

    with patch("gatedvision.models._pretrained.build_model_with_cfg", build):
        case.create()
    (once,) = found
    return once


def distinct_networks(cases: Sequence[Case]) -> list[Case]:
    """Leave out rows whose small network is of the same class and from the same arguments as that of a row before."""
    found: list[Case] = []
    seen: list[tuple[Any, ...]] = []
    for case in cases:
        # What the checks read of a row belongs to its network.
        network = (*arguments_of(case), case.small, case.mixer, case.operator)
        if network not in seen:
            seen.append(network)
            found.append(case)
    return found


NETWORKS = distinct_networks(CASES)
