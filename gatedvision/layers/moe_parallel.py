"""Experts spread over processes: what the processes exchange before and after them (arXiv:2006.16668, section 3.2).

Routing gives every expert as many rows in each process, filled or not, so all exchanges are of equal parts and no
process has to be told how much comes.

Shapes: E experts in all, e of them here, n = E / e processes, R rows that a process has for an expert, C channels.
"""

from typing import Any, Optional

from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single_autograd

from gatedvision.layers.moe import ExpertMlp


class ExpertExchange:
    """Brings rows to the process that has their expert, and what became of them back.

    All processes of the group have to call it together, with rows of one shape. Copies of the experts exchange as well.

    Args:
        group: name of the process group; its i-th process has the i-th share of the experts.
        num_processes: n, the processes of the group.
    """

    def __init__(self, group: str, num_processes: int) -> None:
        self.group = group
        self.num_processes = num_processes

    def send(self, rows: Tensor) -> Tensor:
        """Map ``[E, R, C]``, rows of this process, to ``[e, n * R, C]``, rows of all processes, in their order."""
        return self._exchange(rows).unflatten(0, (self.num_processes, -1)).transpose(0, 1).flatten(1, 2)

    def send_back(self, rows: Tensor) -> Tensor:
        """Map ``[e, n * R, C]`` to ``[E, R, C]``, the reverse of :meth:`send`."""
        rows = self._exchange(rows.unflatten(1, (self.num_processes, -1)).transpose(0, 1).flatten(0, 1))
        # The exchange may still be going on. Operators of torch wait for it, kernels of ours could not.
        return rows.clone()

    def _exchange(self, rows: Tensor) -> Tensor:
        """Give the i-th process the i-th part of the rows."""
        group: Any = self.group  # torch takes names, and says so in some of its releases only
        return all_to_all_single_autograd(rows.contiguous(), None, None, group)

    def attach(self, experts: ExpertMlp) -> None:
        """Exchange rows around these experts from now on; they raise a ValueError for buffers of no fixed size.

        Args:
            experts: this process's share.
        """
        experts.takes_ends = False
        experts.register_forward_pre_hook(self._before)
        experts.register_forward_hook(self._after)

    def _before(self, experts: Any, inputs: tuple[Tensor, Optional[Tensor]]) -> Tensor:
        rows, *ends = inputs
        if ends and ends[0] is not None:
            raise ValueError("experts on several processes need a finite capacity_factor, which fixes what they get")
        return self.send(rows)

    def _after(self, experts: Any, inputs: Any, output: Tensor) -> Tensor:
        return self.send_back(output)
