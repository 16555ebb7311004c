"""Our verifier against plain math-verify and TRL's accuracy reward: `python benchmarks/verifier.py --data FOLDER`.

FOLDER holds files of pairs (`*.jsonl` with gold, pred, equal). The three take turns on blocks of the same pairs, each
in a process of its own; speed is pairs a CPU second, so that a busy machine disturbs the ratios little. Then the pool:
two workers against one, hostile items among fair ones, the hostile pairs of `adversarial*.jsonl`. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # where the pool's workers find this file's grader
from verifier_systems import SYSTEMS, Outcome, System

from reasonrl.rewards.pool import RewardPool
from reasonrl.rewards.verdict import Verdict

BLOCK = 100
LIMIT = 2.0
STRICT_KINDS = ("percent added", "rounded to 2 decimals", "2-decimal approximation of a surd")
"""Kinds of `rewrites_*` that the default policy accepts by rule and `strict` refuses."""


def read(path: Path) -> list[dict[str, Any]]:
    """The pairs of a file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def table(*rows: tuple[Any, ...]) -> None:
    """A Markdown table; the first row is its head."""
    print("| " + " | ".join(map(str, rows[0])) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows[1:]:
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)


def by_turns(rows: list[dict[str, Any]], systems: dict[str, System]) -> tuple[dict[str, list[Outcome]], list[Any]]:
    """Every system's outcomes on all rows, and their CPU seconds block by block."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in systems}
    blocks = []
    for start in range(0, len(rows), BLOCK):
        spent = {}
        for name, system in systems.items():
            made = system.grade(rows[start : start + BLOCK])
            outcomes[name] += made
            spent[name] = sum(outcome.cpu for outcome in made)
        blocks.append(spent)
    return outcomes, blocks


def errors(rows: list[dict[str, Any]], equal: list[bool]) -> tuple[int, int]:
    """False positives and false negatives, over rows that are labelled."""
    pairs = [(row["equal"], said) for row, said in zip(rows, equal, strict=True) if row["equal"] is not None]
    return sum(said and not label for label, said in pairs), sum(label and not said for label, said in pairs)


def compare_systems(files: dict[str, list[dict[str, Any]]], misses: list[dict[str, Any]]) -> None:
    """Accuracy, speed and worst latency of the three on every file."""
    systems = {name: System(name) for name in SYSTEMS}
    print("## Against math-verify and TRL (one process each, pool and cache off)\n")
    print("FP of the pairs labelled different, FN of those labelled equal; pairs a CPU second; ratio: ours to theirs,")
    print("median over blocks of 100 with its quartiles; worst: the slowest pair, seconds.\n")
    head = ("file", "n", "FP, FN: " + ", ".join(SYSTEMS), "accuracy", "pairs/s", "x math-verify", "x TRL", "worst, s")
    lines = [head]
    for name, rows in files.items():
        outcomes, blocks = by_turns(rows, systems)
        wrong = {key: errors(rows, [one.equal for one in made]) for key, made in outcomes.items()}
        labelled = sum(row["equal"] is not None for row in rows)
        rates = {key: len(made) / sum(one.cpu for one in made) for key, made in outcomes.items()}
        lines.append(
            (
                name,
                len(rows),
                "; ".join(f"{fp}, {fn}" for fp, fn in wrong.values()),
                "; ".join(f"{100 * (1 - (fp + fn) / max(1, labelled)):.1f} %" for fp, fn in wrong.values()),
                "; ".join(f"{rate:,.0f}" for rate in rates.values()),
                ratio([block["math-verify"] / block["ours"] for block in blocks]),
                ratio([block["TRL"] / block["ours"] for block in blocks]),
                "; ".join(f"{max(one.wall for one in made):.2f}" for made in outcomes.values()),
            )
        )
        misses += [
            {"file": name, **row, "status": one.status, "reason": one.reason}
            for row, one in zip(rows, outcomes["ours"], strict=True)
            if row["equal"] is not None and one.equal != row["equal"]
        ]
        print(f"{name}: done", file=sys.stderr, flush=True)
    table(*lines)
    hung = ", ".join(f"{name} {system.hung}" for name, system in systems.items())
    print(f"Pairs on which the process had to be killed after 30 s or died by itself: {hung}.\n")
    for system in systems.values():
        system.close()


def ratio(values: list[float]) -> str:
    """The median, with quartiles where there are enough."""
    if len(values) < 4:
        return f"{statistics.median(values):.1f}"
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def strict_kinds(files: dict[str, list[dict[str, Any]]]) -> None:
    """What `strict` says of the kinds that the default policy accepts."""
    from reasonrl.rewards.math import verify

    counts: dict[str, Counter[str]] = {}
    for name, rows in files.items():
        for row in rows if name.startswith("rewrites") else ():
            kind = next((kind for kind in STRICT_KINDS if str(row.get("note")).startswith(kind)), None)
            if kind is not None:
                wrong = verify(row["gold"], row["pred"], "strict").correct != row["equal"]
                counts.setdefault(kind, Counter()).update(n=1, wrong=int(wrong))
    print("## The policy `strict` on the kinds that `default` accepts by rule\n")
    table(("kind", "n", "wrong"), *((kind, count["n"], count["wrong"]) for kind, count in counts.items()))


def two_workers(files: dict[str, list[dict[str, Any]]], rounds: int) -> None:
    """Pairs a second of wall time with one worker and with two, in turns."""
    print("## The pool: two workers against one (cache off, wall time; the caller needs a CPU too)\n")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} CPUs, load average {load} at the start.\n")
    lines: list[tuple[Any, ...]] = [("file", "1 worker, pairs/s", "2 workers", "ratio, best and median of rounds")]
    with RewardPool(1, cache_size=0) as one, RewardPool(2, cache_size=0) as two:
        for name in ("gsm8k_model_solutions", "rewrites_dev", "identity_dev"):
            rows = files.get(name, [])
            if not rows:
                continue
            # Spaces at the end make texts of their own of the copies: equal ones in work would be graded once.
            copies = -(-4000 // len(rows))
            pairs = [(row["gold"], row["pred"] + " " * copy) for copy in range(copies) for row in rows]
            one.map(pairs)
            two.map(pairs)
            rates = [(len(pairs) / seconds(one, pairs), len(pairs) / seconds(two, pairs)) for _ in range(rounds)]
            best = max(rate for _, rate in rates) / max(rate for rate, _ in rates)
            middle = statistics.median(second / first for first, second in rates)
            single, double = (statistics.median(column) for column in zip(*rates, strict=True))
            lines.append((name, f"{single:,.0f}", f"{double:,.0f}", f"{best:.2f}, {middle:.2f}"))
    table(*lines)


def seconds(pool: RewardPool, pairs: list[tuple[str, str]]) -> float:
    """Wall seconds of one map."""
    start = time.perf_counter()
    pool.map(pairs)
    return time.perf_counter() - start


def grade_or_hang(gold: str, response: str, policy: str) -> Verdict:
    """Our verifier, but for a text that hangs it in C code, deaf to signals: the pool must end it from outside."""
    from reasonrl.rewards.math import verify

    if response.startswith("HANG"):
        3 ** (10**9 + len(response))
    return verify(gold, response, policy)


def hostile_among_fair(files: dict[str, list[dict[str, Any]]]) -> None:
    """What two items that hang add to the wall time of 400."""
    rows = next((files[name] for name in ("rewrites_dev", *files) if name in files), [])
    copies = 1 + 400 // max(1, len(rows))
    fair = [(row["gold"], row["pred"] + " " * copy) for copy in range(copies) for row in rows][:400]
    mixed = list(fair)
    mixed[100], mixed[250] = (fair[100][0], "HANG"), (fair[250][0], "HANG more")
    print("## Two items of 400 that hang in C code\n")
    lines: list[tuple[Any, ...]] = [("workers", "400 fair, s", "with 2 that hang, s", "added", "bar", "others right")]
    for workers in (1, 2):
        with RewardPool(workers, LIMIT, cache_size=0, grader="verifier:grade_or_hang") as pool:
            pool.map(fair)
            start = time.perf_counter()
            expected = pool.map(fair)
            quick = time.perf_counter() - start
            start = time.perf_counter()
            verdicts = pool.map(mixed)
            slow = time.perf_counter() - start
        same = [i for i in range(400) if mixed[i] == fair[i]]
        right = sum(verdicts[i].score == expected[i].score for i in same)
        bar = 2 * LIMIT / workers + 1
        lines.append((workers, f"{quick:.2f}", f"{slow:.2f}", f"{slow - quick:.2f}", f"{bar:.1f}", f"{right} of 398"))
    table(*lines)


def adversarial(files: dict[str, list[dict[str, Any]]]) -> None:
    """Every hostile pair through the pool, mixed with fair ones."""
    rows = [row for name, rows in files.items() if name.startswith("adversarial") for row in rows]
    if not rows:
        return
    fair = [(str(i), rf"\boxed{{{i + i % 2}}}") for i in range(10 * len(rows))]
    with RewardPool(2, LIMIT, cache_size=0) as pool:
        futures = []
        for place, pair in enumerate(fair):
            if place % 10 == 5:
                row = rows[place // 10]
                futures.append((row, pool.submit(row["gold"], row["pred"])))
            futures.append((place, pool.submit(*pair)))
        done = [(what, future.result()) for what, future in futures]
        counters = pool.counters()
    hostile = [(what, verdict) for what, verdict in done if isinstance(what, dict)]
    right = sum(verdict.correct == (what % 2 == 0) for what, verdict in done if isinstance(what, int))
    fp, fn = errors([row for row, _ in hostile], [verdict.correct for _, verdict in hostile])
    print(f"## {len(rows)} adversarial pairs through the pool, among {len(fair)} fair ones (2 workers)\n")
    statuses = ", ".join(f"{status} {count}" for status, count in counters.statuses.items() if count)
    table(
        ("what", "measured", "bar"),
        ("longest of the hostile items, s", f"{max(verdict.seconds for _, verdict in hostile):.2f}", "2.5"),
        ("most memory of a worker, MiB", f"{counters.peak_worker_mb:.0f}", "2048"),
        ("fair items right", f"{right} of {len(fair)}", "all"),
        ("false positives, false negatives of the labelled", f"{fp}, {fn}", ""),
        ("killed workers, crashed workers", f"{counters.kills}, {counters.crashes}", ""),
        ("statuses of all", statuses, ""),
    )
    slow = sorted(hostile, key=lambda pair: -pair[1].seconds)[:8]
    table(
        ("slowest", "seconds", "status", "reason"),
        *((f"{row.get('cat')} {row.get('id')}", f"{v.seconds:.3f}", v.status, v.reason[:80]) for row, v in slow),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with files of pairs")
    parser.add_argument("--misses", type=Path, help="write every miss of ours and why, as JSON lines")
    parser.add_argument(
        "--only", default="", help="names of files or parts (systems, strict, workers, hostile, adversarial)"
    )
    parser.add_argument("--limit", type=int, help="at most so many pairs a file")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the comparison of workers")
    arguments = parser.parse_args()
    wanted = set(arguments.only.replace(",", " ").split())
    files = {path.stem: read(path)[: arguments.limit] for path in sorted(arguments.data.glob("*.jsonl"))}
    if not files:
        print(f"{arguments.data} holds no *.jsonl")
        return
    named = {name: rows for name, rows in files.items() if not wanted & files.keys() or name in wanted}
    parts = wanted - files.keys()
    misses: list[dict[str, Any]] = []
    if not parts or "systems" in parts:
        compare_systems(named, misses)
        print(f"Misses of ours: {len(misses)}" + (f", in {arguments.misses.name}" if arguments.misses else "") + ".\n")
    for name, part in (("strict", strict_kinds), ("hostile", hostile_among_fair), ("adversarial", adversarial)):
        if not parts or name in parts:
            part(named)
    if not parts or "workers" in parts:
        two_workers(named, arguments.rounds)
    if arguments.misses:
        arguments.misses.write_text("".join(json.dumps(miss, ensure_ascii=False) + "\n" for miss in misses))


if __name__ == "__main__":
    main()
