"""One file per family; importing a family registers its models in timm."""

from gatedvision.models.deepfillv2 import DeepFillV2, composite
from gatedvision.models.hornet import HorNet
from gatedvision.models.moganet import MogaNet
from gatedvision.models.patch_discriminator import PatchDiscriminator
from gatedvision.models.vig import ViG
from gatedvision.models.vig_h import ViGH

__all__ = [
    "DeepFillV2",
    "HorNet",
    "MogaNet",
    "PatchDiscriminator",
    "ViG",
    "ViGH",
    "composite",
]
