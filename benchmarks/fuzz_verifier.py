"""Random bytes and mutated LaTeX through the pool: `python benchmarks/fuzz_verifier.py --data FOLDER --minutes 30`.

Every text is drawn from the seed. Prints a line a report: items, items a second, resident memory of this process, most
memory of a worker, killed and crashed workers, zombies; then what must hold: this process lives, its memory is flat
within 50 MB after the first tenth of the run, no zombie is left, and no verdict is a `fault`.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import psutil

from reasonrl.rewards.pool import RewardPool
from reasonrl.rewards.verdict import Verdict

FLAT_MB = 50
IN_FLIGHT = 500
LONGEST = 20_000
SHOWN = 5
COMMANDS = r"""\frac{ \boxed{ \sqrt[ \sqrt{ \left( \right) \begin{pmatrix} \end{pmatrix} \binom{10^9}{5} \int_0^1
\infty \cup \sum_{k=1}^{ \{ \} \text{ \overline{ \le \pm \cdot \% ^\circ \\ \ <think> </think> <answer> </answer> ####
{ } ( ) [ ] ^ ^{ _ ! $ $$ & / = , ; . 9 10 0 x - + e i ½ √ ² − ٣"""
PIECES = (*COMMANDS.split(), "The answer is ", " ", "\n", "\x00", "\u202e", "\ud800")
SEEDS = (
    ("1/2", r"\boxed{\frac{1}{2}}"),
    ("(1,2)", r"so $(1, 2)$."),
    ("x^2-1", r"\boxed{(x-1)(x+1)}"),
    ("12", "#### 12"),
)


def bytes_of_chance(draw: random.Random) -> str:
    """Random bytes, as text in one of three ways."""
    data = draw.randbytes(draw.choice((1, 3, 10, 40, 200, 2000)))
    return data.decode(*draw.choice((("latin-1",), ("utf-8", "replace"), ("utf-8", "surrogateescape"))))


def mutated(draw: random.Random, text: str, other: str) -> str:
    """A text with some pieces put in, taken out, doubled, nested or taken from another."""
    for _ in range(draw.choice((1, 1, 2, 3, 6, 20))):
        start = draw.randint(0, len(text))
        end = min(len(text), start + draw.choice((0, 1, 2, 5, 20)))
        kind = draw.randrange(7)
        if kind == 0:
            text = text[:start] + draw.choice(PIECES) + text[start:]
        elif kind == 1:
            text = text[:start] + text[end:]
        elif kind == 2:
            text = text[:end] + text[start:end] * draw.choice((1, 2, 10)) + text[end:]
        elif kind == 3:
            text = text[:start] + draw.choice(PIECES) * draw.choice((2, 10, 100, 1000)) + text[start:]
        elif kind == 4:
            depth = draw.choice((1, 2, 10, 200))
            text = text[:start] + "{" * depth + text[start:end] + "}" * depth + text[end:]
        elif kind == 5:
            cut = draw.randint(0, len(other))
            text = text[:start] + other[cut : cut + 30] + text[end:]
        else:
            text = text[:start] + bytes_of_chance(draw)[:20] + text[end:]
        text = text[:LONGEST]
    return text


def questions(seed: int, pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Endlessly (gold, response, policy)."""
    draw = random.Random(seed)
    while True:
        gold, response = draw.choice(pairs)
        kind = draw.random()
        if kind < 0.2:
            response = bytes_of_chance(draw)
        elif kind < 0.3:
            gold, response = bytes_of_chance(draw), bytes_of_chance(draw)
        else:
            response = mutated(draw, response, draw.choice(pairs)[1])
            if kind < 0.5:
                gold = mutated(draw, gold, response)
        yield gold, response, draw.choice(("strict", "default", "lenient"))


def resident_mb() -> float:
    """Resident memory of this process, MiB."""
    return psutil.Process().memory_info().rss / 2**20


def zombies() -> int:
    """Zombies below this process."""
    below = psutil.Process().children(recursive=True)
    return sum(process.status() == psutil.STATUS_ZOMBIE for process in below if process.is_running())


def fuzz(pairs: list[tuple[str, str]], minutes: float, seed: int, workers: int, every: float) -> bool:
    """Runs, prints, and tells whether all held."""
    waiting: deque[tuple[tuple[str, str, str], Future[Verdict]]] = deque()
    slowest: list[tuple[float, str, tuple[str, str, str]]] = []
    statuses: Counter[str] = Counter()
    faults: list[str] = []
    memory: list[tuple[float, float]] = []
    source = questions(seed, pairs)
    start = reported = time.monotonic()
    items = items_reported = most_zombies = 0
    # A small cache, so that it is full early: what grows after that would be a leak.
    with RewardPool(workers, cache_size=2_000) as pool:
        while time.monotonic() - start < 60 * minutes or waiting:
            if time.monotonic() - start < 60 * minutes:
                asked = next(source)
                waiting.append((asked, pool.submit(*asked)))
            if len(waiting) >= IN_FLIGHT or time.monotonic() - start >= 60 * minutes:
                asked, future = waiting.popleft()
                verdict = future.result()
                statuses[verdict.status] += 1
                items += 1
                slowest = sorted([*slowest, (verdict.seconds, verdict.status, asked)], reverse=True)[:SHOWN]
                if verdict.status == "fault":
                    faults.append(verdict.reason)
            now = time.monotonic()
            if now - reported >= every:
                memory.append((now - start, resident_mb()))
                most_zombies = max(most_zombies, zombies())
                counters = pool.counters()
                rate = (items - items_reported) / (now - reported)
                print(
                    f"{now - start:6.0f} s: {items:9,} items, {rate:6,.0f}/s, this process {memory[-1][1]:6.1f} MiB,"
                    f" workers at most {counters.peak_worker_mb:6.1f} MiB, killed {counters.kills},"
                    f" crashed {counters.crashes}, recycled {counters.recycled}, zombies {most_zombies},"
                    f" longest {counters.seconds_max:.2f} s",
                    flush=True,
                )
                reported, items_reported = now, items
        counters = pool.counters()
    left = psutil.Process().children(recursive=True)
    settled = [size for at, size in memory if at >= 6 * minutes] or [resident_mb()]
    spread = max(settled) - min(settled)
    print(f"\n{items:,} items from seed {seed}: {dict(statuses)}")
    print(f"this process: {min(settled):.1f} to {max(settled):.1f} MiB, spread {spread:.1f} of {FLAT_MB} allowed")
    print(
        f"killed {counters.kills}, crashed {counters.crashes}, retried {counters.retries},"
        f" longest {counters.seconds_max:.2f} s, p99 {counters.seconds_p99:.4f} s"
    )
    print(f"zombies {most_zombies}; processes left behind {len(left)}; faults {len(faults)} {sorted(set(faults))[:5]}")
    for seconds, status, (gold, response, policy) in slowest:
        print(f"{seconds:.2f} s, {status}, {policy}: gold {gold!r:.150}, response {response!r:.150}")
    return spread <= FLAT_MB and most_zombies == 0 and not left and not faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="folder with files of pairs to mutate; without it a few")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two reports")
    arguments = parser.parse_args()
    pairs = list(SEEDS)
    for path in sorted(arguments.data.glob("*.jsonl")) if arguments.data else ():
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        pairs += [(row["gold"], row["pred"][-2000:]) for row in rows]
    held = fuzz(pairs, arguments.minutes, arguments.seed, arguments.workers, arguments.every)
    print("held" if held else "DID NOT HOLD")


if __name__ == "__main__":
    main()
