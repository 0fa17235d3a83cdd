import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
# The config imports its dataset and hooks by name.
sys.path.insert(0, str(HERE))

from gatedvision.engine import Runner  # noqa: E402
from gatedvision.engine.launch import load_config  # noqa: E402

CONFIG = HERE / "tiny_config.py"
_run_numbers = itertools.count()


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in a fixed order, however many cores there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def build_run() -> Callable[..., Any]:
    """Build a run of the tiny config; options replace settings by dotted name."""

    def build(
        work_dir: Path, resume: bool = False, hooks: tuple[Any, ...] = (), amp: str | None = None, **options: Any
    ) -> Any:
        cfg = load_config(CONFIG, work_dir, amp, options.pop("options", {}) | options)
        # Runs of the same second would share their history otherwise.
        cfg.experiment_name = f"run{next(_run_numbers)}"
        cfg.resume = resume
        cfg.custom_hooks = [*cfg.custom_hooks, *hooks]
        return Runner.from_cfg(cfg)

    return build
