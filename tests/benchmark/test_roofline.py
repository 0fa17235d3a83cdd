import pytest
import torch

from gatedvision.benchmark.roofline import Peaks, Work, find_floor, measure_peaks


@pytest.mark.parametrize(
    ("work", "floor"),
    [
        (Work(6_000_000_000, 1, 1), (2.0, "memory")),
        (Work(1, 704_000_000_000, 1), (2.0, "products")),
        (Work(3_000_000_000, 1, 67_000_000_000), (2.0, "depthwise")),
    ],
)
def test_the_slowest_part_is_the_floor(work, floor):
    found, bound = find_floor(work, Peaks(memory=3.0, products=352.0, depthwise=33.5))
    assert (found, bound) == (pytest.approx(floor[0]), floor[1])


def test_peaks_are_rates(monkeypatch):
    times = iter([2.0, 4.0])
    spread = type("Spread", (), {})

    def time_call(call, device, seconds):
        call()
        result = spread()
        result.median = next(times)
        return result

    monkeypatch.setattr("gatedvision.benchmark.roofline.time_call", time_call)
    peaks = measure_peaks(torch.device("cpu"), torch.bfloat16, 1.5)
    # 64 MiB read and written in 2 ms, a product of 512 rows in 4 ms.
    assert peaks == pytest.approx((2 * 2**26 / 2e-3 / 1e12, 512**3 / 4e-3 / 1e12, 1.5))
