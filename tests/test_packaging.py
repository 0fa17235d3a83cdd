"""What pip installs from here, and the promises that README and Makefile make to a fresh clone."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import gatedvision

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def wheel_files(archives) -> set[str]:
    (path,) = archives.glob("gatedvision-*-py3-none-any.whl")
    return set(zipfile.ZipFile(path).namelist())


@pytest.fixture(scope="module")
def source_files(archives) -> set[str]:
    (path,) = archives.glob("gatedvision-*.tar.gz")
    return {name.split("/", 1)[1] for name in tarfile.open(path).getnames() if "/" in name}


def package_files(package: Path) -> set[str]:
    files = (path for path in package.rglob("*") if path.suffix == ".py" or path.name == "py.typed")
    return {f"{package.name}/{path.relative_to(package).as_posix()}" for path in files}


@pytest.mark.parametrize("package", ["gatedvision", "kernels/gatedvision_kernels"])
def test_wheel_holds_every_module(wheel_files, package):
    expected = package_files(ROOT / package)
    assert f"{Path(package).name}/py.typed" in expected
    assert expected <= wheel_files


def test_wheel_holds_nothing_else(wheel_files):
    tops = {name.split("/")[0] for name in wheel_files}
    assert tops == {"gatedvision", "gatedvision_kernels", f"gatedvision-{gatedvision.__version__}.dist-info"}


def test_data_package_is_not_taken_for_a_data_folder(wheel_files):
    assert "gatedvision/data/__init__.py" in wheel_files


def test_wheel_states_version_licence_and_dependencies(archives, wheel_files):
    (name,) = (name for name in wheel_files if name.endswith("/METADATA"))
    (path,) = archives.glob("*.whl")
    metadata = zipfile.ZipFile(path).read(name).decode()
    assert f"\nVersion: {gatedvision.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    for requirement in ("torch>=2.6", "timm>=", "mmengine<1,>=0.10.7", "albumentations<2.1,>=2.0.8", "setuptools"):
        assert f"\nRequires-Dist: {requirement}" in metadata, requirement


@pytest.mark.parametrize(
    "name",
    [
        "LICENSE",
        "Makefile",
        "README.md",
        "configs/_base_/default_runtime.py",
        "configs/vig/vig_nano_digits.py",
        "kernels/gatedvision_kernels/py.typed",
        "tests/test_packaging.py",
        "tools/train.py",
    ],
)
def test_source_archive_can_run_the_demo_and_the_tests(source_files, name):
    assert name in source_files


def commands_of(document: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("document", ["README.md", "configs/vig/README.md", "configs/msvit/README.md"])
def test_files_in_documented_commands_exist(document):
    commands = commands_of(document)
    named = {word for command in commands for word in command.split() if word.startswith(("tools/", "configs/"))}
    assert named
    for name in named:
        assert (ROOT / name).is_file(), name


def test_documented_make_targets_exist():
    rules = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"^make ([a-z]+)", text, flags=re.MULTILINE)) | set(re.findall(r"`make ([a-z]+)`", text))
    assert {"demo", "test", "install"} <= targets <= set(rules)


def test_links_of_the_documents_lead_somewhere():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("configs/*/README.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_make_refuses_an_old_python_in_one_line(tmp_path):
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.18" && exit 0\nexit 1\n')
    old.chmod(0o755)
    command = ["make", "--no-print-directory", "install", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.returncode != 0
    assert "error: Python 3.10 or newer is needed" in result.stderr and "Python 3.9.18" in result.stderr


def test_importing_needs_no_configuration_from_outside(tmp_path):
    code = "import gatedvision, timm; assert timm.is_model('vig_s'); print(gatedvision.__version__)"
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": path}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == gatedvision.__version__, result.stderr
