"""What is built and installed is what the repository says: files, versions, pins."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import balora

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    """Canonical name -> version of every line of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def needed(requirement: Requirement, seen: set[tuple[str, str]]) -> None:
    """Collect (package, extra) of a requirement and of all it requires on this platform."""
    for extra in ("", *requirement.extras):
        key = (canonicalize_name(requirement.name), extra)
        if key in seen:
            continue
        seen.add(key)
        for text in distribution(requirement.name).requires or []:
            inner = Requirement(text)
            if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                needed(inner, seen)


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == balora.__version__ == citation["version"]
    assert f"## [{balora.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_package_of_the_development_environment_is_pinned():
    seen: set[tuple[str, str]] = set()
    for text in [*PROJECT["dependencies"], "balora[train,trl,dev]"]:
        needed(Requirement(text), seen)
    names = {name for name, _ in seen} - {"balora"}
    assert len(names) > 50
    assert sorted(names - pins().keys()) == []


def test_what_is_installed_is_what_is_pinned():
    wrong = {}
    for name, version in pins().items():
        assert re.fullmatch(r"[0-9][0-9A-Za-z.]*", version), f"{name}=={version}"
        try:
            installed = distribution(name).version.partition("+")[
                0
            ]  # torch is 2.13.0+cpu where it has no GPU
        except PackageNotFoundError:
            continue  # a package that only other systems need
        if installed != version:
            wrong[name] = (installed, version)
    assert wrong == {}


def test_base_install_has_no_torch():
    names = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert not names & {"torch", "transformers", "peft", "accelerate", "datasets", "safetensors"}


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_package(tmp_path):
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        held = set(archive.namelist())
        entry_points = archive.read(f"balora-{balora.__version__}.dist-info/entry_points.txt").decode()
    source = ROOT / "src"
    files = {
        p.relative_to(source).as_posix()
        for p in source.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert any(name.endswith(".py") and "/store/migrations/" in name for name in files)
    assert files - held == set()
    assert "balora = balora.cli:main" in entry_points
