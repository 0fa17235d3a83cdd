import itertools
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
# The tiny run belongs to the tests of the engine.
sys.path.insert(0, str(ROOT / "tests" / "engine"))
_run_numbers = itertools.count()


@pytest.fixture
def run_tool(monkeypatch, capfd) -> Callable[..., tuple[int, str, str]]:
    """Run a script of tools/ in this process, with --cfg-options last; returns exit code, stdout and stderr."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        options = [] if "--cfg-options" in arguments else ["--cfg-options"]
        # Runs of one name would share their logs and history within a process.
        options.append(f"experiment_name=run{next(_run_numbers)}")
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments), *options])
        threads, path = torch.get_num_threads(), sys.path[:]
        capfd.readouterr()
        code = 0
        try:
            runpy.run_path(str(ROOT / "tools" / f"{name}.py"), run_name="__main__")
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 0
        finally:
            sys.path[:] = path
            torch.set_num_threads(threads)
        output = capfd.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture
def fails_with(run_tool) -> Callable[..., None]:
    """Expect exit code 2 and one line on stderr that holds a text."""

    def check(expected: str, name: str, *arguments: object) -> None:
        code, _, errors = run_tool(name, *arguments)
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert code == 2, errors
        assert len(lines) == 1, errors
        assert expected in lines[0]
        assert "Traceback" not in errors

    return check
