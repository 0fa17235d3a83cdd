import time

import pytest
import torch

from gatedvision.benchmark.timing import record_graph, time_call


def test_median_of_a_known_time():
    spread = time_call(lambda: time.sleep(0.01), torch.device("cpu"), 0.1)
    assert 10 <= spread.low <= spread.median <= spread.high
    assert spread.median < 20


def test_a_long_call_is_made_five_times_and_more():
    calls = []
    time_call(lambda: calls.append(time.sleep(0.01)), torch.device("cpu"), 1e-6)
    # Once to warm up, twice to estimate.
    assert len(calls) == 3 + 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_graph_computes_again():
    x = torch.zeros(1, device="cuda")
    replay = record_graph(lambda: x.add_(1))
    before = x.item()
    replay()
    assert x.item() == before + 1
