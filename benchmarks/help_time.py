"""Wall time of `balora --help` in fresh processes, beside that of a bare interpreter.

    python benchmarks/help_time.py [RUNS]

The aim is well under half a second. It is measured here and not asserted in a test: it depends on the machine.
"""

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds(command: list[str]) -> float:
    """Wall time of one run, its output discarded."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print one line a command."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    balora = shutil.which("balora", path=Path(sys.executable).parent)
    if balora is None:
        sys.exit(f"there is no balora beside {sys.executable}: install it there first")
    for command in ([sys.executable, "-c", "pass"], [balora, "--help"]):
        seconds(command)  # fills the caches of byte code and of the file system
        times = [seconds(command) for _ in range(runs)]
        name = " ".join([Path(command[0]).name, *command[1:]])
        print(
            f"{name}: best {min(times):.3f} s, median {statistics.median(times):.3f} s, worst {max(times):.3f} s"
        )


if __name__ == "__main__":
    main()
