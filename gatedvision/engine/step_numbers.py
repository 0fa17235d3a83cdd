"""Numbers of a training step on the host, which waits for them and for nothing that comes after them.

While the host waited for a whole step, the GPU would have nothing to do until the next one is on its way.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor


def mark(x: Tensor) -> torch.cuda.Event | None:
    """Mark what the GPU has been told so far; on other devices there is nothing to mark.

    Args:
        x: a tensor on the device.
    """
    if not x.is_cuda:
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(x.device))
    return event


def read_numbers(values: Mapping[str, Tensor], known: Sequence[torch.cuda.Event | None]) -> dict[str, float]:
    """Copy scalars to the host.

    Args:
        values: scalars by name.
        known: marks by which all of them are known; with none of them, whatever was told before is waited for.
    """
    marks = [event for event in known if event is not None]
    if not (marks and values and all(x.is_cuda for x in values.values())):
        return {name: x.item() for name, x in values.items()}
    stream = _reading_stream(next(iter(values.values())).device)
    with torch.cuda.stream(stream), torch.no_grad():
        for event in marks:
            stream.wait_event(event)
        numbers = torch.stack([x.double() for x in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))


class LateNumber:
    """A scalar on its way to the host.

    Args:
        x: the scalar.
    """

    def __init__(self, x: Tensor) -> None:
        # Only to pinned memory do copies travel while the host goes on.
        self._copy = torch.empty_like(x, device="cpu", pin_memory=x.is_cuda)
        self._copy.copy_(x.detach(), non_blocking=True)
        self._arrived = mark(x)

    def read(self) -> float:
        """Wait for it, and return it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copy.item()


@cache
def _reading_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
