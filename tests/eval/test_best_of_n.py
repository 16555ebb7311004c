"""Best-of-N over step scores: against enumeration, and the published example's figures."""

from __future__ import annotations

import json
import math
import os
from itertools import combinations
from pathlib import Path
from statistics import fmean

import pytest

from reasonrl.errors import DataError
from reasonrl.eval.best_of_n import Candidate, best_of_n


def test_published_example() -> None:
    """100 MATH problems with 8 samples and a reward model's score each: pass@8 96, rm@8 94, weighted maj@8 94."""
    folder = os.environ.get("REASONRL_DATA")
    path = Path(folder or ".") / "qwen_bon_example" / "math_cot_100.jsonl"
    if folder is None or not path.exists():
        pytest.skip(f"no real data: {path} is not there (REASONRL_DATA)")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    problems = [
        [
            Candidate(pred, bool(right), [1 / (1 + math.exp(-logit)) for logit in logits])
            for pred, right, logits in zip(row["pred"], row["score"], row["pred_score"], strict=True)
        ]
        for row in rows
    ]
    found = {name: round(100 * fmean(values), 2) for name, values in best_of_n(problems, [1, 8]).items()}
    assert found == {
        "random": 91.0,
        "pass@1": 91.0,
        "maj@1": 91.0,
        "rm@1[last]": 91.0,
        "weighted_maj@1[last]": 91.0,
        "pass@8": 96.0,
        "maj@8": 92.5,
        "rm@8[last]": 94.0,
        "weighted_maj@8[last]": 94.0,
    }


def test_expectation_over_subsets_by_aggregation() -> None:
    steps = [[0.9, 0.4], [0.3, 0.6], [0.5, 0.5], [0.8, None]]
    right = [True, False, True, False]
    candidates = [Candidate(name, fine, one) for name, fine, one in zip("abcd", right, steps, strict=True)]
    found = best_of_n([candidates], [2], ["last", "min", "product", "mean"])
    scores = {
        "last": [0.4, 0.6, 0.5, -1],
        "min": [0.4, 0.3, 0.5, -1],
        "product": [0.36, 0.18, 0.25, -1],
        "mean": [0.65, 0.45, 0.5, -1],
    }
    for rule, values in scores.items():
        picks = [right[max(chosen, key=values.__getitem__)] for chosen in combinations(range(4), 2)]
        assert found[f"rm@2[{rule}]"] == [pytest.approx(fmean(picks))]
        assert found[f"weighted_maj@2[{rule}]"] == [pytest.approx(fmean(picks))]  # four different answers
    with pytest.raises(DataError, match="no problems"):
        best_of_n([], [1])
    with pytest.raises(ValueError, match="k=5 with n=4"):
        best_of_n([candidates], [5])
