"""How much a guided search has its process reward model read: only where there is a choice, against every new line.

Counts, not seconds: lines by the law of the reflective world, chosen by the truth about them (what a perfect model
would say), so that no model is needed and the figures are exact.

    python benchmarks/guided_search.py [--problems 300]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from reasonrl.data_tools.worlds import get_world
from reasonrl.data_tools.worlds.reflective import read_trace
from reasonrl.prm.search import Grown, SearchSettings, Wanted, search_with
from reasonrl.prm.search_worlds import LawWriter

ARGS = {"preset": "prm", "operators": 7}


class CountingWriter(LawWriter):
    """Also counts the characters of the distinct solutions that it hands out: what reading every new line costs."""

    read = 0

    def write(self, wanted: Sequence[Wanted]) -> list[Grown]:
        """The lines of the law."""
        grown = super().write(wanted)
        new = {(one.problem, result.chain.text) for one, result in zip(wanted, grown, strict=True)}
        self.read += sum(len(text) for _, text in new)
        return grown


def main() -> None:
    """Print a line for each number of candidates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=300)
    problems = get_world("reflective").rows(parser.parse_args().problems, split="test", operators=7)
    for candidates in (1, 2, 4, 8):
        settings = SearchSettings(candidates, 1, 24, 16, "\n")
        writer, read = CountingWriter(problems, settings, 0, ARGS), 0

        def score(solutions: Sequence[dict[str, Any]]) -> list[list[float]]:
            nonlocal read
            read += sum(len(one["text"]) for one in solutions)
            return [
                [0.0] * (len(one["steps"]) - 1) + [float(not read_trace(one["problem"], one["text"]).wrong_operations)]
                for one in solutions
            ]

        search_with(writer, score, problems, settings)
        print(f"{candidates} candidates: {read:>9,} of {writer.read:>9,} characters read, {read / writer.read:.2f}")


if __name__ == "__main__":
    main()
