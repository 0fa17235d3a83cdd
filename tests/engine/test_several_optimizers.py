import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from gatedvision.engine.several_optimizers import Optimizers


def test_states_of_other_parts_are_refused():
    parts = {name: nn.Linear(2, 2) for name in ("generator", "discriminator")}
    optimizers = Optimizers(
        **{name: OptimWrapper(torch.optim.SGD(part.parameters(), lr=0.1)) for name, part in parts.items()}
    )
    with pytest.raises(ValueError, match="the state is of optimizers generator, the run has generator, discriminator"):
        optimizers.load_state_dict({"generator": {}})
