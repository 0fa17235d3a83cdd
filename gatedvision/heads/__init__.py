"""Modules that turn a backbone's feature maps into pyramids and predictions."""

from gatedvision.heads.attention_unet_decoder import AttentionUnetDecoder
from gatedvision.heads.fcn_head import FCNHead
from gatedvision.heads.fpn_head import FPNHead
from gatedvision.heads.hor_fpn import HorFPN
from gatedvision.heads.hor_uper_head import HorUPerHead
from gatedvision.heads.linear_head import LinearHead
from gatedvision.heads.simple_feature_pyramid import SimpleFeaturePyramid
from gatedvision.heads.smp_uper_head import SmpUPerHead
from gatedvision.heads.uper_head import UPerHead

__all__ = [
    "AttentionUnetDecoder",
    "FCNHead",
    "FPNHead",
    "HorFPN",
    "HorUPerHead",
    "LinearHead",
    "SimpleFeaturePyramid",
    "SmpUPerHead",
    "UPerHead",
]
