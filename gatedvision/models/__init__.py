"""One file per family; importing a family registers its models in timm."""

from gatedvision.models.attention_unet import AttentionUnet
from gatedvision.models.attention_unet_3d import GridAttentionUnet
from gatedvision.models.attention_unet_monai import MonaiAttentionUnet
from gatedvision.models.deepfillv2 import DeepFillV2, composite
from gatedvision.models.hornet import HorNet
from gatedvision.models.moganet import MogaNet
from gatedvision.models.msvit import MixedScaleTokens, MSViT
from gatedvision.models.patch_discriminator import PatchDiscriminator
from gatedvision.models.sononet_ag import SonoNetAG
from gatedvision.models.vig import ViG
from gatedvision.models.vig_h import ViGH
from gatedvision.models.vmoe import VMoE
from gatedvision.models.vmoe_upcycling import upcycle

__all__ = [
    "AttentionUnet",
    "DeepFillV2",
    "GridAttentionUnet",
    "HorNet",
    "MSViT",
    "MixedScaleTokens",
    "MogaNet",
    "MonaiAttentionUnet",
    "PatchDiscriminator",
    "SonoNetAG",
    "VMoE",
    "ViG",
    "ViGH",
    "composite",
    "upcycle",
]
