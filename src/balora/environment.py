"""What a run ran on: versions, machine, commit. Recorded with every run, so that it can be repeated."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "balora",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "trl",
    "datasets",
    "numpy",
    "scipy",
)


def describe() -> dict[str, str]:
    """Versions of Python and the packages that decide the numbers, the processor, and the commit of the work folder."""
    found = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["processor"] = f"{_processor()} ({os.cpu_count()} cores)"
    if commit := git_commit():
        found["git_commit"] = commit
    return found


def git_commit() -> str | None:
    """The work folder's commit, with ``-dirty`` where files differ from it; None outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
