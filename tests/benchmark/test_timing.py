import time
from itertools import pairwise

import pytest
import torch

from gatedvision.benchmark.timing import TURNS, record_graph, time_call, time_in_turns


def test_median_of_a_known_time():
    spread = time_call(lambda: time.sleep(0.01), torch.device("cpu"), 0.1)
    assert 10 <= spread.low <= spread.median <= spread.high
    assert spread.median < 20


def test_a_long_call_is_made_five_times_and_more():
    calls = []
    time_call(lambda: calls.append(time.sleep(0.01)), torch.device("cpu"), 1e-6)
    # Once to warm up, twice to estimate.
    assert len(calls) == 3 + 5


def test_calls_take_turns():
    order: list[int] = []

    def call(index: int) -> None:
        order.append(index)
        time.sleep(0.002 * (1 + index))

    spreads = time_in_turns([lambda: call(0), lambda: call(1)], torch.device("cpu"), 0.03)
    assert spreads[0].median >= 2 and spreads[1].median >= 4
    changes = [i for i, j in pairwise(order) if i != j]
    # Once to warm up, together, then each to estimate, then in turns.
    assert changes == ([0, 1] * (2 + TURNS))[:-1]
    assert time_in_turns([], torch.device("cpu"), 0.03) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_graph_computes_again():
    x = torch.zeros(1, device="cuda")
    replay = record_graph(lambda: x.add_(1))
    before = x.item()
    replay()
    assert x.item() == before + 1
