"""Five seconds of the fuzz run that `benchmarks/fuzz_verifier.py` does for half an hour."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz_verifier.py"


@pytest.mark.parametrize("seed", [1, 2])
def test_random_bytes_and_mutated_latex_break_nothing(seed: int) -> None:
    command = [sys.executable, str(SCRIPT), "--minutes", "0.08", "--every", "1", "--seed", str(seed), "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    items = re.search(rf"^([\d,]+) items from seed {seed}: ", done.stdout, re.MULTILINE)
    assert items and int(items[1].replace(",", "")) > 100, done.stdout
    assert "zombies 0; processes left behind 0; faults 0 []" in done.stdout
    assert done.stdout.endswith("held\n"), done.stdout
