import pytest
from PIL import Image

from gatedvision.benchmark.plot import draw_models
from gatedvision.benchmark.report import Report
from gatedvision.benchmark.timing import Spread


@pytest.mark.parametrize(("memory", "floor", "lines"), [(None, None, 1), (2.0, None, 2), (2.0, 0.5, 3)])
def test_a_column_a_mode_and_a_line_a_quantity(memory, floor, lines, tmp_path):
    rows = [
        {
            "model": model,
            "mode": mode,
            "form": form,
            "size": size,
            "batch": 8,
            # What did not fit has no figures.
            "images/s (20–80 %)": Spread(1e5 / size, 1.0, 1e6) if size < 1024 else None,
            "peak memory (GiB)": memory if size < 1024 else None,
            "floor ms": floor and floor * size,
        }
        for model in ("vig_t", "deit")
        for mode in ("inference", "training")
        for form in ("eager", "default")
        for size in (224, 512, 1024)
    ]
    path = tmp_path / "new" / "models.png"
    draw_models(Report("bf16", rows), path)
    with Image.open(path) as picture:
        # 6.5 by 4.5 inches each.
        assert picture.size == (2 * 780, lines * 540)
