"""Where two gradings of the same samples differ: which verdicts moved, what that does to the accuracy, examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonrl.eval.metrics import Interval, paired_difference, proportion_interval
from reasonrl.eval.named_metrics import groups_of
from reasonrl.eval.paired import fold_groups
from reasonrl.eval.regrade import require_current
from reasonrl.eval.results import accuracy_values
from reasonrl.eval.samples import OWN, key_of, read_problems, read_samples

MOST_EXAMPLES = 20
_TAIL = 160


@dataclass(frozen=True)
class VerdictDiff:
    """Two gradings of one suite.

    Attributes:
        suite: the suite.
        before, now: names of the gradings.
        samples: how many were compared.
        moves: (verdict before, verdict now) -> samples, where they differ; `right` and `not right` where one side has
            scores only.
        gained, lost: samples that were not right and now are, and the other way round.
        other_answers: samples with the same verdict from which another answer was read.
        accuracy_before, accuracy_now: over problems; None if nothing could be scored.
        difference: now minus before, paired by problem, over problems scored by both; None likewise.
        examples: samples whose verdict moved, some of each move.
    """

    suite: str
    before: str
    now: str
    samples: int
    moves: Mapping[tuple[str, str], int]
    gained: int
    lost: int
    other_answers: int
    accuracy_before: Interval | None
    accuracy_now: Interval | None
    difference: Interval | None
    examples: Sequence[Mapping[str, Any]]

    @property
    def moved(self) -> int:
        """Samples with another verdict."""
        return sum(self.moves.values())


def diff_suite(
    suite: str, directory: str | Path, before: str | None, now: str, most_examples: int = MOST_EXAMPLES
) -> VerdictDiff:
    """Compares two gradings of a suite's samples.

    Args:
        suite: for the report.
        directory: the suite's folder.
        before, now: names of re-grades; `own` or None for the verdicts made with the samples.
        most_examples: at most so many.

    Raises:
        RunError: there is no such re-grade, or it lacks samples.
    """
    before = before or OWN
    sides = {name: read_samples(directory, name) for name in (before, now)}
    for name, rows in sides.items():
        require_current(directory, name, rows)
    return diff_rows(suite, (before, now), (sides[before], sides[now]), read_problems(directory), most_examples)


def diff_rows(
    suite: str,
    names: tuple[str, str],
    sides: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]],
    problems: Mapping[str, Mapping[str, Any]],
    most_examples: int = MOST_EXAMPLES,
) -> VerdictDiff:
    """Compares two lists of the same sample records; arguments as the attributes of VerdictDiff."""
    ours = {key_of(row): row for row in sides[1]}
    moves: Counter[tuple[str, str]] = Counter()
    moved: dict[tuple[str, str], list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    gained = lost = other = 0
    for row in sides[0]:
        mine = ours[key_of(row)]
        gained += bool(mine["right"]) and not row["right"]
        lost += bool(row["right"]) and not mine["right"]
        move = _move(row, mine)
        if move[0] == move[1]:
            other += row["extracted"] != mine["extracted"]
            continue
        moves[move] += 1
        moved.setdefault(move, []).append((row, mine))
    values = [accuracy_values(rows) for rows in sides]
    both = [key for key in values[0] if key in values[1]]
    # Variants of one question are no further evidence, here as in every other table.
    groups = groups_of(problems)
    earlier, later = (fold_groups({key: side[key] for key in both}, groups) for side in values)
    difference = paired_difference(later, earlier) if both else None
    before, now = (
        proportion_interval(list(side.values()), groups=[groups.get(key, key) for key in side]) if side else None
        for side in values
    )
    return VerdictDiff(
        suite=suite,
        before=names[0],
        now=names[1],
        samples=len(sides[0]),
        moves=dict(moves.most_common()),
        gained=gained,
        lost=lost,
        other_answers=other,
        accuracy_before=before,
        accuracy_now=now,
        difference=difference,
        examples=[_example(row, mine, problems) for row, mine in _some_of_each(moved, moves, most_examples)],
    )


def _move(row: Mapping[str, Any], mine: Mapping[str, Any]) -> tuple[str, str]:
    """The two verdicts; where a reward has only a score, whether that is right takes the place of both."""
    said = (row["verdict"], mine["verdict"])
    if "scored" not in said:
        return said
    told = {True: "right", False: "not right", None: "unscored"}
    return told[row["right"]], told[mine["right"]]


def _some_of_each(
    moved: Mapping[tuple[str, str], Sequence[Any]], moves: Counter[tuple[str, str]], most: int
) -> list[Any]:
    """The first of each move, then the second of each, ...; the commonest moves first."""
    ordered = [moved[move] for move, _ in moves.most_common()]
    longest = max(map(len, ordered), default=0)
    return [group[turn] for turn in range(longest) for group in ordered if turn < len(group)][:most]


def _example(
    row: Mapping[str, Any], mine: Mapping[str, Any], problems: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "id": row["id"],
        "metric": row["metric"],
        "index": row["index"],
        "gold": problems.get(row["id"], {}).get("answer"),
        "before": {name: row.get(name) for name in ("verdict", "extracted", "reason")},
        "now": {name: mine.get(name) for name in ("verdict", "extracted", "reason")},
        "tail": row["text"][-_TAIL:],
    }


def diff_json(diff: VerdictDiff) -> dict[str, Any]:
    """A difference as plain data."""

    def plain(interval: Interval | None) -> dict[str, Any] | None:
        return None if interval is None else interval.as_dict()

    return {
        "suite": diff.suite,
        "before": diff.before,
        "now": diff.now,
        "samples": diff.samples,
        "moved": diff.moved,
        "moves": [{"before": old, "now": new, "samples": count} for (old, new), count in diff.moves.items()],
        "gained": diff.gained,
        "lost": diff.lost,
        "other_answers": diff.other_answers,
        "accuracy_before": plain(diff.accuracy_before),
        "accuracy_now": plain(diff.accuracy_now),
        "difference": plain(diff.difference),
        "examples": list(diff.examples),
    }


def diff_tables(diffs: Sequence[VerdictDiff]) -> list[dict[str, Any]]:
    """The tables of differences: over suites, the moves, the examples; title, header, body each."""
    from reasonrl.observe.report import interval_text

    def interval(found: Interval | None, sign: str = "") -> str:
        return "" if found is None else interval_text(found.as_dict(), sign)

    named = f"{diffs[0].before} -> {diffs[0].now}"
    tables = [
        {
            "title": f"Verdicts, {named}: percent with 95 % intervals over problems, the difference paired by problem",
            "header": [
                "suite",
                "samples",
                "moved",
                "now right",
                "no longer right",
                diffs[0].before,
                diffs[0].now,
                "difference",
            ],
            "body": [
                [
                    diff.suite,
                    *(f"{count:,}" for count in (diff.samples, diff.moved, diff.gained, diff.lost)),
                    *(interval(found) for found in (diff.accuracy_before, diff.accuracy_now)),
                    interval(diff.difference, "+"),
                ]
                for diff in diffs
            ],
        }
    ]
    moves = [[diff.suite, old, new, f"{count:,}"] for diff in diffs for (old, new), count in diff.moves.items()]
    if moves:
        tables.append({"title": "Moves", "header": ["suite", "before", "now", "samples"], "body": moves})
    examples = [
        [f"{diff.suite} {one['id']} {one['metric']} {one['index']}", str(one["gold"] or "")]
        + [
            f"{side['verdict']}: {side['extracted'] or '-'} ({side['reason'] or '-'})"
            for side in (one["before"], one["now"])
        ]
        for diff in diffs
        for one in diff.examples
    ]
    if examples:
        tables.append(
            {"title": "Examples", "header": ["sample", "gold", diffs[0].before, diffs[0].now], "body": examples}
        )
    return tables
