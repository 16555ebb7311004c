"""How often 95 % intervals of accuracy hold the truth: `python benchmarks/interval_coverage.py --runs 4000`.

Simulated evaluations: difficulties from Beta(c m, c (1 - m)) for concentrations c of 0.5, 2 and 8 and mean accuracies m
from 0.05 to 0.95; 30 or 500 questions; 1, 4 or 16 samples each. The truth is m: other questions of this kind. Ours is
`proportion_interval`; beside it the plain normal interval with the error clustered by question, and the binomial one
that takes every sample for an independent answer. Prints Markdown: for each design the lowest and highest coverage over
m from 0.2 to 0.8 and the concentrations, and the lowest at 0.05 and 0.95.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence

import numpy

from reasonrl.eval.metrics import proportion_interval

CONCENTRATIONS = (0.5, 2.0, 8.0)
MIDDLE, ENDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (0.05, 0.95)
ARMS = ("ours", "normal, clustered", "binomial over samples")


def covered(means: numpy.ndarray, samples: int, truth: float) -> tuple[bool, bool, bool]:
    """Whether each arm's interval of one simulated evaluation holds the truth; `means` has shape (questions,)."""
    interval = proportion_interval(means.tolist())
    value, questions = interval.value, means.size
    assert interval.low is not None and interval.high is not None and interval.se is not None
    naive = math.sqrt(value * (1 - value) / (questions * samples))
    return (
        interval.low <= truth <= interval.high,
        abs(value - truth) <= 1.96 * interval.se,
        abs(value - truth) <= 1.96 * naive,
    )


def coverage(questions: int, samples: int, truth: float, concentration: float, runs: int) -> numpy.ndarray:
    """Share of runs whose interval holds the truth, by arm."""
    generator = numpy.random.default_rng([questions, samples, int(100 * truth), int(10 * concentration)])
    hits = numpy.zeros(len(ARMS))
    for _ in range(runs):
        difficulty = generator.beta(concentration * truth, concentration * (1 - truth), questions)
        hits += covered(generator.binomial(samples, difficulty) / samples, samples, truth)
    return hits / runs


def lines(sizes: Sequence[int], runs: int) -> Iterator[str]:
    """The table, line by line as it is measured."""
    head = ["questions", "samples", *(f"{arm}: 0.2 to 0.8" for arm in ARMS), *(f"{arm}: 0.05, 0.95" for arm in ARMS)]
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for questions in sizes:
        for samples in (1, 4, 16):
            # With one sample a question an answer is right with chance m, however difficulties spread.
            spreads = CONCENTRATIONS if samples > 1 else (2.0,)
            middle = numpy.array([coverage(questions, samples, m, c, runs) for m in MIDDLE for c in spreads])
            ends = numpy.array([coverage(questions, samples, m, c, runs) for m in ENDS for c in spreads])
            cells = [
                f"{100 * low:.1f} to {100 * high:.1f}" for low, high in zip(middle.min(0), middle.max(0), strict=True)
            ]
            cells += [f"{100 * low:.1f}" for low in ends.min(0)]
            yield f"| {questions} | {samples} | " + " | ".join(cells) + " |"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=4000, help="simulated evaluations a setting")
    parser.add_argument("--questions", type=int, nargs="+", default=[30, 500])
    given = parser.parse_args()
    for line in lines(given.questions, given.runs):
        print(line, flush=True)


if __name__ == "__main__":
    main()
