import time

import cv2
import numpy as np
import pytest

from gatedvision.inpainting.windows import Plan


def filled_once(hole: np.ndarray, max_size: int) -> Plan:
    """The plan for a hole, of which each pixel is filled by one step and no other pixel by any."""
    plan = Plan(hole, max_size)
    count = np.zeros(hole.shape, dtype=int)
    for step in plan.steps:
        count[step.window.slices] += plan.pixels_to_fill(step)
        if step.factor == 1:
            assert max(step.window.size) <= max_size
        # Sides are multiples of 8 unless they are the image's own.
        assert all(side % 8 == 0 or side == whole for side, whole in zip(step.window.size, hole.shape, strict=True))
    assert (count == hole).all()
    return plan


@pytest.mark.parametrize("max_size", [64, 100, 256, 512])
def test_every_hole_pixel_is_filled_once(max_size):
    generator = np.random.default_rng(max_size)
    for _ in range(25):
        height, width = generator.integers(1, 600, 2)
        noise = cv2.blur(generator.random((height, width)), (9, 9)).reshape(height, width)
        hole = noise > np.quantile(noise, generator.random())
        if not hole.all():
            filled_once(hole, max_size)


def test_a_hole_in_a_large_photo_takes_a_window_of_its_own():
    hole = np.zeros((3000, 4000), dtype=bool)
    hole[1000:1200, 2000:2200] = True
    [step] = filled_once(hole, 512).steps
    assert step.factor == 1 and step.window == (872, 1872, 1328, 2328)  # 128 pixels around it
    hole[1150:1160, 2150:2700] = True
    assert len(filled_once(hole, 512).steps) > 1


def test_the_margin_grows_with_the_hole_where_there_is_room():
    hole = np.zeros((2000, 2000), dtype=bool)
    hole[800:1200, 800:1200] = True
    assert filled_once(hole, 1024).steps[0].window == (600, 600, 1400, 1400)
    # Cut short rather than shown reduced.
    assert filled_once(hole, 720).steps[0].window == (640, 640, 1360, 1360)


def test_a_scratch_across_the_photo_is_filled_tile_by_tile():
    hole = np.zeros((2000, 2000), dtype=np.uint8)
    cv2.line(hole, (10, 30), (1900, 1950), 1, 12)
    steps = filled_once(hole > 0, 512).steps
    assert len(steps) > 8 and all(step.factor == 1 for step in steps)
    assert sum(np.prod(step.window.size) for step in steps) < 0.8 * hole.size


def test_wide_holes_are_reduced_to_half_the_size():
    hole = np.zeros((2000, 2000), dtype=bool)
    hole[500:1500, 500:1500] = True
    [step] = filled_once(hole, 512).steps
    assert step.factor == pytest.approx(0.256) and step.window.size == (2000, 2000)
    # At the border a hole has known pixels on one side only.
    hole[:] = False
    hole[:200] = True
    [step] = filled_once(hole, 512).steps
    assert step.factor == pytest.approx(0.64)
    assert all(step.factor == 1 for step in Plan(hole, 512, may_reduce=False).steps)


def test_neighbouring_specks_share_windows():
    hole = np.zeros((1500, 1500), dtype=bool)
    positions = np.random.default_rng(0).integers(0, 1500, (3000, 2))
    hole[positions[:, 0], positions[:, 1]] = True
    start = time.perf_counter()
    steps = filled_once(hole, 512).steps
    assert time.perf_counter() - start < 5
    assert len(steps) < 80


def test_distant_specks_do_not():
    hole = np.zeros((1500, 1500), dtype=bool)
    hole[[100, 100], [100, 1400]] = True
    assert len(filled_once(hole, 512).steps) == 2
