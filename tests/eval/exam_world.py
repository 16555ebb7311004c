"""Examinations of made-up scores: what a folder of them looks like without a model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from reasonrl.data_tools.worlds import get_world
from reasonrl.eval.exams.best_of import examine_best_of
from reasonrl.eval.exams.record import write_examined
from reasonrl.eval.exams.scores import Scored
from reasonrl.eval.exams.steps import examine_steps


def label_rows(n: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of the world `reflective` with their labels."""
    return get_world("reflective").rows(n, split="test", seed=seed)


def made_scores(rows: list[dict[str, Any]], skill: float, seed: int = 0) -> Scored:
    """Step scores that know the labels by `skill` (0 to 1), else nothing."""
    draw, scores = random.Random(f"{seed}/{skill}"), {}
    for row in rows:
        scores[row["id"]] = [skill * label + (1 - skill) * draw.random() for label in row["labels"]]
    return Scored(scores, {})


def samples(problems: int = 30, n: int = 8, seed: int = 0) -> list[dict[str, Any]]:
    """Sample rows: right ones with probability of their problem, wrong ones with one of three answers."""
    draw, rows = random.Random(seed), []
    for problem in range(problems):
        skill = draw.random()
        for index in range(n):
            right = draw.random() < skill
            answer = "7" if right else draw.choice("123")
            rows.append(
                {
                    "id": f"p{problem}#{index}",
                    "problem_id": f"p{problem}",
                    "problem": f"problem {problem}",
                    "answer": "7",
                    "text": f"step\nThe answer is {answer}.",
                    "correct": right,
                    "verdict": "correct" if right else "wrong",
                    "extracted": answer,
                }
            )
    return rows


def sample_scores(rows: list[dict[str, Any]], skill: float) -> Scored:
    """Scores of two steps a sample; the last knows the verdict by `skill`."""
    draw = random.Random(f"samples/{skill}")
    last = {row["id"]: skill * row["correct"] + (1 - skill) * draw.random() for row in rows}
    return Scored({key: [draw.random(), value] for key, value in last.items()}, {})


def no_judge(rows: Any) -> Any:
    """For rows that bring all that is needed."""
    assert not rows
    return []


def examined(folder: Path, skill: float) -> Path:
    """A folder with the suites `steps` and `best_of`, by a model of this skill."""
    rows, candidates = label_rows(), samples()
    write_examined(folder, "steps", examine_steps(rows, made_scores(rows, skill)))
    best = examine_best_of(
        candidates, sample_scores(candidates, skill), k=[1, 2, 4, 8], aggregations=["last", "min"], judge=no_judge
    )
    write_examined(folder, "best_of", best)
    return folder
