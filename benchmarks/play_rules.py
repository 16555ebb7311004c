"""What the rules of a play cost: microseconds of this process per 1,000 characters, by length.

    python benchmarks/play_rules.py

Each length is timed many times and the least time counts, which other work disturbed least. The bar is 30 microseconds
at every length; on short ones, what a response costs whatever its length stands out.
"""

from __future__ import annotations

import json
import time

from reasonrl.rewards.play import PlayReward

BAR = 30.0
TURNS = (
    "Ada: Let us start with the first factor, which is 2 times 3, so we have six here and carry on.",
    "Boris: I would rather check that with another route. The sum of both is 7, which agrees.",
    "Ada: Then the product stands, and what is left is the constant term; it gives 12.",
    "Environment: this one is settled, on to the next.",
)


def play_of(length: int) -> str:
    """A play of about this many characters that keeps all rules for two problems."""
    lines, size, scene = ["<play>"], 0, 0
    while size < length or scene < 2:
        scene += 1
        new = [f"[Scene {scene}: a study, problem {scene}]", *(f"{turn} ({scene})" for turn in TURNS)]
        lines += new
        size += sum(map(len, new)) + len(new)
    return "\n".join(lines) + "\n</play>\n<answer>\n1. \\boxed{12}\n2. \\boxed{7}\n</answer>"


def microseconds(text: str, rounds: int) -> float:
    """Least time of one verdict on all rules."""
    reward, best = PlayReward(), float("inf")
    for _ in range(rounds):
        start = time.process_time()
        kept = reward.kept(text, 2)
        best = min(best, time.process_time() - start)
    assert False not in kept.values(), kept
    return best * 1e6


def main() -> None:
    """Print a JSON object with the cost by length."""
    found = {}
    for length in (1_000, 2_000, 5_000, 20_000, 100_000, 1_000_000):
        text = play_of(length)
        found[len(text)] = round(1_000 * microseconds(text, max(5, 2_000_000 // length)) / len(text), 1)
    passed = all(cost <= BAR for cost in found.values())
    print(json.dumps({"microseconds_per_1000_characters": found, "bar": BAR, "passed": passed}, indent=1))


if __name__ == "__main__":
    main()
