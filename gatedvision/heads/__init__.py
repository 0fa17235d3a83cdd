"""Modules that turn a backbone's feature maps into pyramids and predictions."""

from gatedvision.heads.hor_fpn import HorFPN
from gatedvision.heads.hor_uper_head import HorUPerHead

__all__ = ["HorFPN", "HorUPerHead"]
