"""What tests of evaluation share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def qwen_example() -> list[dict[str, list[object]]]:
    """100 MATH problems, 8 samples each with answer, rule verdict and reward model's scores (Qwen2.5-Math's)."""
    folder = os.environ.get("REASONRL_DATA")
    if folder is None:
        pytest.skip("REASONRL_DATA does not name the folder of real data")
    path = Path(folder) / "qwen_bon_example" / "math_cot_100.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
