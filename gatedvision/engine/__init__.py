"""Training and evaluation on mmengine, with its traps worked around in one place.

A config names the classes exported here; ``tools/train.py`` and ``tools/test.py`` call ``gatedvision.engine.launch``.
"""

from gatedvision.engine.amp import AmpOptimWrapper
from gatedvision.engine.checkpoint_hook import SaveCheckpoints
from gatedvision.engine.ema import EMA
from gatedvision.engine.param_groups import ParamGroups
from gatedvision.engine.progress import Progress
from gatedvision.engine.runner import Runner
from gatedvision.engine.show_hook import ShowPredictions

__all__ = ["EMA", "AmpOptimWrapper", "ParamGroups", "Progress", "Runner", "SaveCheckpoints", "ShowPredictions"]
