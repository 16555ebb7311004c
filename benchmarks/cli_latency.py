"""How long the command line takes to answer: `python benchmarks/cli_latency.py`; the aim is 0.6 s for each."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 0.6
RUNS = 7
COMMANDS = {
    "reasonrl --help": ["--help"],
    "reasonrl train bad.yaml": ["train", "bad.yaml"],
    "reasonrl train quickstart --print-config": ["train", "quickstart", "--print-config"],
}


def measure(arguments: list[str], folder: Path) -> tuple[list[float], float]:
    """Wall-clock seconds of RUNS fresh processes, after one that warms the disk cache, and the mean CPU seconds."""
    times = []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "reasonrl", *arguments], cwd=folder, capture_output=True, check=False)
        times.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return times[1:], busy / len(times)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bad.yaml").write_text("stages: {a: {kind: sft, max_stps: 3}}\n")
        for title, arguments in COMMANDS.items():
            times, busy = measure(arguments, folder)
            median = statistics.median(times)
            share = f"{median / LIMIT:.2f} of the {LIMIT} s allowed"
            print(f"{title:<42} median {median:.3f} s, worst {max(times):.3f} s, {share}; CPU {busy:.3f} s")


if __name__ == "__main__":
    main()
