import numpy as np
import pytest

from gatedvision.data import IntensityScaling


def draw(dtype=np.float32, low: float = -1000, high: float = 3000) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, (40, 50, 3)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float64])
def test_each_mode_is_what_it_says(dtype):
    values = draw(dtype, *((0, 255) if dtype == np.uint8 else (0, 3000)))
    low, high = np.percentile(values, (1, 90))
    scaled = IntensityScaling("percentile", (1, 90))(values)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, ((values - low) / (high - low)).clip(0, 1), atol=1e-6)
    scaled = IntensityScaling("min_max")(values)
    assert scaled.min() == 0 and scaled.max() == 1
    scaled = IntensityScaling("window", window=(50, 150))(values)
    np.testing.assert_allclose(scaled, ((values - 50.0) / 100).clip(0, 1), atol=1e-6)
    scaled = IntensityScaling("z_score")(values)
    assert abs(scaled.mean(dtype=np.float64)) < 1e-6 and scaled.std(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    assert IntensityScaling("z_score", window=(50, 150))(values).std() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(IntensityScaling("none")(values), values.astype(np.float32))


def test_a_few_bright_pixels_do_not_darken_the_rest():
    values = np.linspace(0, 10, 10_000).reshape(100, 100)
    values[0, :5] = 65535
    assert IntensityScaling()(values).mean() == pytest.approx(0.5, abs=0.01)
    assert IntensityScaling("min_max")(values).mean() < 0.01


@pytest.mark.parametrize("mode", ["percentile", "min_max", "z_score"])
def test_constant_images_become_zero_and_single_spots_stay_visible(mode):
    assert not IntensityScaling(mode)(np.full((30, 30), 7)).any()
    values = np.zeros((100, 100))
    values[3, 4] = 5
    assert IntensityScaling(mode)(values).argmax() == 304


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "max"}, "intensity mode must be one of percentile, .* got 'max'"),
        ({"percentiles": (90, 10)}, r"percentiles must rise within 0\.\.100, got \(90, 10\)"),
        ({"mode": "window"}, "needs window="),
        ({"mode": "window", "window": (5, 5)}, r"window must be two rising values, got \(5, 5\)"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        IntensityScaling(**options)


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="1 of 4 values are infinite or NaN"):
        IntensityScaling()(np.array([0, 1, np.nan, 2]))
    with pytest.raises(ValueError, match=r"of shape \(0, 3\) is empty"):
        IntensityScaling()(np.zeros((0, 3)))
