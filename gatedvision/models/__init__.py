"""One file per family; importing a family registers its models in timm."""

from gatedvision.models.vig import ViG
from gatedvision.models.vig_h import ViGH

# Modules as timm's registry knows them, by the last part of their names.
FAMILIES = ["vig", "vig_h"]

__all__ = ["FAMILIES", "ViG", "ViGH"]
