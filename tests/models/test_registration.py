"""Importing the package registers its models, and costs no more than that."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import gatedvision


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    # The tests also run from a checkout that is not installed.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=200, env=environment)


def test_listed_names() -> None:
    assert gatedvision.list_models("vig_h_*") == ["vig_h_b", "vig_h_s", "vig_h_t"]
    assert "resnet18" not in gatedvision.list_models()
    assert gatedvision.list_models("vig_t*", pretrained=True) == ["vig_t.in1k"]


def test_import_leaves_training_libraries_alone() -> None:
    heavy = "{'mmengine', 'albumentations', 'cv2', 'sklearn', 'matplotlib', 'tensorboard'}"
    done = run_python(
        "-c", f"import sys, os, gatedvision; print({heavy} & set(sys.modules), os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    )
    assert done.stdout.strip() == "set() 1", done.stderr


def test_runner_registers_the_models(tmp_path: Path) -> None:
    script = tmp_path / "count.py"
    script.write_text("import sys, timm\nprint(sys.argv[1:], len(timm.list_models('vig_*')), __name__)\n")
    done = run_python("-m", "gatedvision.timm", str(script), "--model", "vig_t")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['--model', 'vig_t'] 6 __main__"


def test_runner_without_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gatedvision.timm", "no_such_script.py"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("gatedvision.timm", run_name="__main__")
    assert stop.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("gatedvision.timm: no script at 'no_such_script.py'")
