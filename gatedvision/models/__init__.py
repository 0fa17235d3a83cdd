"""One file per family; importing a family registers its models in timm."""

from gatedvision.models.hornet import HorNet
from gatedvision.models.moganet import MogaNet
from gatedvision.models.vig import ViG
from gatedvision.models.vig_h import ViGH

__all__ = ["HorNet", "MogaNet", "ViG", "ViGH"]
