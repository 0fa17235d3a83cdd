"""How long a call takes, as a user calls it and without the host."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

# More than the last-level cache of any GPU so far.
FLUSHED_BYTES = 2**28
MIN_RUNS, MAX_RUNS = 5, 2000


@dataclass(frozen=True)
class Spread:
    """What many measurements of one quantity gave.

    Args:
        median: their median.
        low: their percentile 20.
        high: their percentile 80.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.low:.4g}–{self.high:.4g})"


def time_call(call: Callable[[], Any], device: torch.device, seconds: float, flush: bool = False) -> Spread:
    """Time a call as a user makes it, warm, in milliseconds.

    Args:
        call: what to time.
        device: the device it works on. On a GPU, events before and after the call are compared; calls are queued
            one after the other, and the host's work counts where the GPU waits for it.
        seconds: time to spend, once for warming up and once for timing; at least 5 calls are timed.
        flush: empty the GPU's cache before each call. That takes it about 0.1 ms, in which the host goes ahead.
    """
    call()
    measure = _gpu_times if device.type == "cuda" else _cpu_times
    estimate = max(*measure(call, 2, flush), 1e-3)
    runs = min(max(MIN_RUNS, int(seconds * 1e3 / estimate)), MAX_RUNS)
    if device.type == "cuda":
        measure(call, runs, flush)
    times = torch.tensor(measure(call, runs, flush), dtype=torch.float64)
    return Spread(*torch.quantile(times, torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64)).tolist())


def record_graph(call: Callable[[], Any]) -> Callable[[], None]:
    """Record a call on the current GPU as a CUDA graph, and return what replays it without the host's work."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _cpu_times(call: Callable[[], Any], runs: int, flush: bool) -> list[float]:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def _gpu_times(call: Callable[[], Any], runs: int, flush: bool) -> list[float]:
    cache = torch.empty(FLUSHED_BYTES if flush else 0, dtype=torch.int8, device="cuda")
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    torch.cuda.synchronize()
    for start, end in events:
        cache.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]
