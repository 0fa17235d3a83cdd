"""How long a call takes, as a user calls it and without the host."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# More than the last-level cache of any GPU so far.
FLUSHED_BYTES = 2**28
MIN_RUNS, MAX_RUNS = 5, 2000
# Of each call, where several are timed against each other.
TURNS = 5


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

    def rate(self, amount: int) -> "Spread":
        """Return how many a second these times, ms for so many, make; slow times give the low rates."""
        return Spread(*(1e3 * amount / ms for ms in (self.median, self.high, self.low)))

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
    measure, runs = _plan(call, device, seconds, flush)
    if device.type == "cuda":
        measure(call, runs, flush)
    return _spread(measure(call, runs, flush))


def time_in_turns(calls: Sequence[Callable[[], Any]], device: torch.device, seconds: float) -> list[Spread]:
    """Time calls against each other, warm, in milliseconds: A B C, A B C and so on, so that drift meets all alike.

    Args:
        calls: what to time; each is called several times when it is its turn, after one call that does not count.
        device: as in :func:`time_call`.
        seconds: time to spend on each call, once for warming up and once for timing, in 5 turns.
    """
    for call in calls:
        call()
    plans = [_plan(call, device, seconds) for call in calls]
    times: list[list[float]] = [[] for _ in calls]
    warming = TURNS if device.type == "cuda" else 0
    for turn in range(warming + TURNS):
        for call, (measure, runs), found in zip(calls, plans, times, strict=True):
            measured = measure(call, 1 + -(-runs // TURNS), False)
            if turn >= warming:
                found += measured[1:]
    return [_spread(found) for found in times]


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


def time_replay(name: str, call: Callable[[], Any], seconds: float, flush: bool = True) -> Spread | None:
    """Time a call as a replayed CUDA graph; ``None``, and a line on stderr, if none can hold it.

    Args:
        name: what is called, for that line.
        call: what to time.
        seconds: as in :func:`time_call`.
        flush: as in :func:`time_call`.
    """
    try:
        replay = record_graph(call)
    except Exception as error:  # whatever a peer does that a graph cannot hold
        note(f"CUDA graph of {name}", error)
        return None
    return time_call(replay, torch.device("cuda"), seconds, flush)


def peak_memory(call: Callable[[], Any]) -> float:
    """Return the memory that a call takes on the current GPU beside what is held already, MiB."""
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return (torch.cuda.max_memory_allocated() - held) / 2**20


def note(subject: str, error: Exception) -> None:
    """Say on stderr what could not be measured, and why."""
    print(f"n/a: {subject}: {' '.join(str(error).split())}", file=sys.stderr)


def _plan(
    call: Callable[[], Any], device: torch.device, seconds: float, flush: bool = False
) -> tuple[Callable[..., list[float]], int]:
    """Return what measures a call on this device, and how often to measure it."""
    measure = _gpu_times if device.type == "cuda" else _cpu_times
    estimate = max(*measure(call, 2, flush), 1e-3)
    return measure, min(max(MIN_RUNS, int(seconds * 1e3 / estimate)), MAX_RUNS)


def _spread(times: Sequence[float]) -> Spread:
    quantiles = torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64)
    return Spread(*torch.quantile(torch.tensor(times, dtype=torch.float64), quantiles).tolist())


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
