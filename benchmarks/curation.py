"""Curation of a million generated rows: wall time, rows a second, and the most memory that the process ever held.

python benchmarks/curation.py --rows 1000000
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reasonrl.data_tools.curate import curate, decontaminate, deduplicate, keep_when, mix, rules, stratify, take_in
from reasonrl.data_tools.curate.intake import Intake
from reasonrl.data_tools.loading import placed_rows

WORDS = [
    f"{stem}{end}" for stem in ("tri", "quad", "rect", "cir", "poly", "rho") for end in ("angle", "cle", "gon", "um")
]


def generated(count: int) -> Iterator[dict[str, Any]]:
    """Problems of 12 to 40 words; one in ten repeats an earlier one, half of these with a word changed."""
    generator, earlier = random.Random(0), ["What is 1+1?"] * 1000
    for number in range(count):
        if number % 10 == 9:
            words = earlier[generator.randrange(1000)].split()
            if number % 20 == 9:
                words[generator.randrange(len(words))] = "changed"
            text = " ".join(words)
        else:
            text = " ".join(
                f"{generator.choice(WORDS)} {generator.randrange(10**4)}" for _ in range(generator.randrange(6, 20))
            )
            earlier[generator.randrange(1000)] = text
        yield {
            "problem": text,
            "answer": str(number % 97),
            "solution": text[::-1] * 3,
            "level": number % 7,
            "pass_rate": (number % 17) / 16,
        }


def peak() -> float:
    """GiB that the process held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Writes the rows, curates them, prints figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder, source = Path(name), Path(name) / "rows.jsonl"
        with source.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in generated(rows))
        exam = [{"id": str(n), "problem": row["problem"]} for n, row in enumerate(generated(2000)) if n % 4 == 0]
        steps = [
            ("rules", rules({"problem": (20, 2000)}, {"problem": ["prove"]})),
            ("pass_rate", keep_when("0 < pass_rate < 1")),
            ("deduplicate", deduplicate(0.8)),
            ("decontaminate", decontaminate({"exam": exam})),
            ("stratify", stratify("level", weights={"0": 0.5, "6": 1.5})),
            ("mix", mix({"even": 1, "odd": 2}, repeats=2)),
        ]
        sources = {
            "even": Intake(placed_rows(source), keep="level < 4"),
            "odd": Intake(placed_rows(source), keep="level > 3"),
        }
        (folder / "out").mkdir()
        started = time.perf_counter()

        def told(line: str) -> None:
            print(f"{line[:100]}; {peak():.2f} GiB at most so far", flush=True)

        curate(folder / "out", lambda tally: take_in(sources, tally, folder / "out"), steps, say=told)
        seconds = time.perf_counter() - started
    print(f"{rows:,} rows: {seconds:.0f} s, {rows / seconds:,.0f} rows a second; at most {peak():.2f} GiB held")


if __name__ == "__main__":
    main()
