"""Coordinated rounds as an examination: what a model makes of cached answers, against votes at equal tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError
from reasonrl.eval.answer_classes import answer_class
from reasonrl.eval.compared import EMERGENT
from reasonrl.eval.exams.record import Examined, Unit
from reasonrl.eval.metrics import paired_difference
from reasonrl.observe.records import RecordWriter, iter_records
from reasonrl.pacore.baselines import Baseline, Solo, any_right, at_count, at_tokens, majority
from reasonrl.pacore.over_engine import run_rounds_on_engine
from reasonrl.pacore.plan import Plan
from reasonrl.pacore.pools import SAMPLE_COLUMNS
from reasonrl.pacore.rounds import Answer, Call, Rounds

if TYPE_CHECKING:
    from reasonrl.rollout.engine import RolloutEngine

ANSWERS = "answers.jsonl"
Row = Mapping[str, Any]
Judge = Callable[[Sequence[tuple[Row, str, str]]], Sequence[Any]]
"""Gives `reasonrl.eval.scoring.Judgement` of (the problem's row, text, how it ended)."""


@dataclass(frozen=True)
class Cached:
    """One plain answer of a pool."""

    text: str
    right: bool
    answer: str | None
    tokens: int
    prompt_tokens: int
    finish_reason: str


@dataclass(frozen=True)
class Run:
    """One way of going through rounds.

    Attributes:
        name: in tables.
        plan: what is asked.
        cached: the first round's answers are the first ones of the cache; else the engine draws them too.
        control: None, `none`, `foreign`, `erased` or `reversed`: what becomes of the first round's messages.
        erase: takes marks off a message, for `erased`.
    """

    name: str
    plan: Plan
    cached: bool = True
    control: str | None = None
    erase: Callable[[str], str] | None = None


@dataclass(frozen=True)
class Cache:
    """Plain answers by problem, in their order, and a row of each problem."""

    answers: Mapping[str, Sequence[Cached]]
    rows: Mapping[str, Row]
    unverified: int = 0

    def conversation(self, name: str) -> list[dict[str, Any]]:
        """What the problem asks."""
        row = self.rows[name]
        return [dict(turn) for turn in row.get("prompt") or ()] or [{"role": "user", "content": row["problem"]}]


def read_cache(rows: Sequence[Row]) -> Cache:
    """The cache that sample rows of a rollout stage are.

    Raises:
        DataError: a row is no such sample, or there is none.
    """
    answers: dict[str, list[Cached]] = {}
    first: dict[str, Row] = {}
    unverified = 0
    for row in sorted(rows, key=lambda row: row.get("index") or 0):
        if "text" not in row or "problem_id" not in row:
            raise DataError("rounds: a row has no text or no problem_id -> data: ${stage:NAME} of kind rollout")
        name = str(row["problem_id"])
        first.setdefault(name, _problem(name, row))
        if row["correct"] is None:
            unverified += 1
            continue
        cut = row.get("finish_reason") == "length"
        right = bool(row["correct"]) and not cut
        answer = None if cut else answer_class(row.get("extracted"), right)
        ids = row.get("prompt_ids")
        size = 0 if ids is None else len(ids)
        answers.setdefault(name, []).append(
            Cached(row["text"], right, answer, int(row["length"] or 0), size, str(row.get("finish_reason")))
        )
    if not answers:
        raise DataError("rounds: there are no verified samples -> look at the stage that drew them")
    order = [str(row["problem_id"]) for row in rows]
    return Cache({name: answers[name] for name in dict.fromkeys(order) if name in answers}, first, unverified)


def _problem(name: str, row: Row) -> dict[str, Any]:
    """What of a sample's row is its problem's."""
    ours = {key: row[key] for key in ("problem", "answer", "prompt") if row.get(key) is not None}
    return {**{key: value for key, value in row.items() if key not in SAMPLE_COLUMNS}, **ours, "id": name}


def run_all(
    run: Run,
    cache: Cache,
    engine: RolloutEngine,
    render: Callable[[Sequence[Row]], Sequence[int]],
    judge: Judge,
    folder: Path,
    *,
    max_tokens: int,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, dict[str, Any]]:
    """Goes through a run's rounds for all problems that `<folder>/answers.jsonl` does not hold yet.

    Returns:
        By problem: `text`, `right` (None where it could not be scored), `inputs_right` (of the answers that the last
        call was shown), `inputs`, `tokens`, `prompt_tokens`, `shown`, `finish_reason`.
    """
    path = folder / ANSWERS
    found = {line["id"]: line for line in iter_records(path) if line["run"] == run.name}
    todo = [name for name in cache.answers if name not in found]
    on_progress(len(found))
    if not todo:
        return found
    seen: dict[str, dict[int, list[tuple[str, str]]]] = {name: {} for name in todo}
    rounds = {name: _begun(run, name, cache, seed, seen) for name in todo}

    def sampled(name: str, call: Call, answer: Answer) -> None:
        seen[name].setdefault(call.round, []).append((answer.text, answer.finish_reason or "stop"))

    run_rounds_on_engine(rounds, engine, render, max_tokens=max_tokens, on_sample=sampled)
    writer = RecordWriter(path)
    try:
        for line in _judged(run, rounds, seen, cache, judge):
            found[line["id"]] = line
            writer.write(line)
    finally:
        writer.close()
    on_progress(len(found))
    return {name: found[name] for name in cache.answers if name in found}


def _judged(
    run: Run,
    rounds: Mapping[str, Rounds],
    seen: Mapping[str, Mapping[int, Sequence[tuple[str, str]]]],
    cache: Cache,
    judge: Judge,
) -> Iterator[dict[str, Any]]:
    """A line a problem, its last answer judged, and those that the last call was shown."""
    last = len(run.plan.rounds)
    verdicts = judge([(cache.rows[name], *seen[name][last][0]) for name in rounds])
    replaced = last == 1 and run.control in ("none", "foreign")  # then the first round's answers were not shown
    inputs = {name: [] if replaced else seen[name].get(last - 1, []) for name in rounds}
    flat = [(cache.rows[name], *said) for name in rounds for said in inputs[name]]
    judged = iter(judge(flat) if flat else ())
    for (name, one), verdict in zip(rounds.items(), verdicts, strict=True):
        outcome = one.outcome
        assert outcome is not None, "the engine has gone to the end"
        rights = [_right(next(judged), ended) for _, ended in inputs[name]]
        yield {
            "run": run.name,
            "id": name,
            "text": outcome.last.text,
            "messages": list(one.messages),
            "right": _right(verdict, outcome.last.finish_reason or "stop"),
            "inputs_right": sum(right is True for right in rights),
            "inputs": len(rights),
            "shown": outcome.rounds[-1].shown,
            "tokens": outcome.completion_tokens,
            "prompt_tokens": outcome.prompt_tokens,
            "finish_reason": outcome.last.finish_reason,
        }


def _right(judgement: Any, ended: str) -> bool | None:
    return None if judgement.right is None else bool(judgement.right) and ended != "length"


def _begun(run: Run, name: str, cache: Cache, seed: int, seen: dict[str, dict[int, list[tuple[str, str]]]]) -> Rounds:
    """The rounds of one problem, the first of them closed where its answers are cached."""
    rounds = Rounds(cache.conversation(name), run.plan, f"{run.name}/{seed}/{name}")
    if not run.cached:
        return rounds
    first = _first(run, name, cache)
    rounds.close([Answer(one.text, None, one.finish_reason, one.prompt_tokens, one.tokens) for one in first])
    seen[name][0] = [(one.text, one.finish_reason) for one in first]
    if run.control is not None:
        rounds.show(_controlled(run, name, cache, rounds))
    return rounds


def _first(run: Run, name: str, cache: Cache) -> Sequence[Cached]:
    wanted = run.plan.rounds[0]
    if len(cache.answers[name]) < wanted:
        raise DataError(
            f"rounds: {run.name} begins with {wanted} answers, and problem {name!r} has {len(cache.answers[name])}"
            " verified ones -> draw more, or ask for fewer"
        )
    return cache.answers[name][:wanted]


def _controlled(run: Run, name: str, cache: Cache, rounds: Rounds) -> list[str]:
    if run.control == "none":
        return []
    if run.control == "reversed":
        return rounds.messages[::-1]
    if run.control == "erased":
        assert run.erase is not None, "asked for with what erases"
        return [run.erase(message) for message in rounds.messages]
    names = list(cache.answers)
    other = names[(names.index(name) + 1) % len(names)]
    made = [run.plan.compaction(one.text, None).text for one in _first(run, other, cache)]
    return [text for text in made if text]


@dataclass(frozen=True)
class Point:
    """One way of spending tokens: mean tokens over problems, and the figure's name."""

    figure: str
    tokens: float
    prompt_tokens: float | None = None


@dataclass
class _Book:
    """Figures by problem, and what they cost."""

    values: dict[str, dict[str, float]] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)

    def add(self, figure: str, found: Baseline) -> None:
        self.values[figure] = dict(found.values)
        self.points.append(Point(figure, fmean(found.tokens.values())))


def examine_rounds(
    cache: Cache,
    answers: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    sizes: Sequence[int] = (),
    pass_k: Sequence[int] = (),
    equal_tokens: bool = True,
    draws: int = 64,
    seed: int = 0,
) -> Examined:
    """The figures of runs beside those of plain sampling.

    Figures: `solo`; `maj@k` and `pass@k` on the cache; each run by its name; `maj=NAME`, the vote on as many cached
    answers as that run has generated tokens for the problem; `emergent NAME`, right answers where every answer that the
    last call was shown is wrong (arXiv 2601.05593, figure 5), over those problems alone.

    Args:
        cache: plain answers.
        answers: of each run by problem, as of `run_all`.
        sizes, pass_k: of votes and of pass@k.
        equal_tokens: whether votes at each run's tokens are counted.
        draws: orders of the cache that are averaged.
        seed: of these orders.

    Raises:
        DataError: a problem has too few answers.
    """
    pools = {name: [Solo(one.answer, one.right, one.tokens) for one in found] for name, found in cache.answers.items()}
    fewest = min(map(len, pools.values()))
    if max((*sizes, *pass_k, 1)) > fewest:
        raise DataError(f"rounds: k goes up to {max((*sizes, *pass_k))}, and a problem has {fewest} verified answers")
    book = _Book()
    mean = {name: fmean(one.right for one in pool) for name, pool in pools.items()}
    tokens = {name: fmean(one.tokens for one in pool) for name, pool in pools.items()}
    book.add("solo", Baseline(mean, tokens, dict.fromkeys(mean, 1.0)))
    for k in sorted(set(sizes)):
        book.add(f"maj@{k}", at_count(pools, k, majority, draws=draws, seed=seed))
    for k in sorted(set(pass_k)):
        book.add(f"pass@{k}", at_count(pools, k, any_right, draws=draws, seed=seed))
    about: dict[str, Any] = {"unverified": cache.unverified, "differences": {}, "runs": {}}
    warnings = [f"{cache.unverified} cached samples could not be verified"] if cache.unverified else []
    for run, found in answers.items():
        _add_run(book, run, found, pools if equal_tokens else None, draws, seed, about)
    about["points"] = [vars(point) for point in book.points]
    units = [
        Unit(name, {figure: values[name] for figure, values in book.values.items() if name in values}) for name in pools
    ]
    headline = ["solo", *(f"maj@{k}" for k in sorted(set(sizes))[-1:]), *answers]
    return Examined(units, "problems", {}, headline, about, warnings)


def _add_run(
    book: _Book,
    run: str,
    found: Mapping[str, Mapping[str, Any]],
    pools: Mapping[str, Sequence[Solo]] | None,
    draws: int,
    seed: int,
    about: dict[str, Any],
) -> None:
    told = {name: row for name, row in found.items() if row["right"] is not None}
    if not told:
        about["runs"][run] = {"emergent_count": 0, "unscored": len(found)}
        return
    right = {name: float(row["right"]) for name, row in told.items()}
    book.values[run] = right
    book.points.append(
        Point(run, fmean(row["tokens"] for row in told.values()), fmean(row["prompt_tokens"] for row in told.values()))
    )
    emergent = {name: right[name] for name, row in told.items() if row["inputs"] and not row["inputs_right"]}
    if emergent:
        book.values[f"{EMERGENT}{run}"] = emergent
    about["runs"][run] = {
        "emergent_count": len(emergent),
        "shown": fmean(row["shown"] for row in told.values()),
        "cut_off": sum(row["finish_reason"] == "length" for row in told.values()),
        "unscored": len(found) - len(told),
    }
    if pools is None:
        return
    budgets = {name: float(row["tokens"]) for name, row in told.items()}
    equal = at_tokens({name: pools[name] for name in told}, budgets, majority, draws=draws, seed=seed)
    book.add(f"maj={run}", equal)
    about["runs"][run]["exhausted"] = equal.exhausted
    about["differences"][run] = paired_difference(right, equal.values, seed=seed).as_dict()


def rounds_text(entry: Mapping[str, Any]) -> str:
    """Tokens of every figure, and what runs gain over votes at equal tokens, for a terminal and a table."""
    lines = ["| | percent | tokens | prompt tokens | over the vote at equal tokens |", "|---|---|---|---|---|"]
    for point in entry["points"]:
        if point["figure"].startswith("maj="):
            continue
        found = entry["differences"].get(point["figure"])
        cells = [
            point["figure"],
            _points(entry["metrics"][point["figure"]]),
            f"{point['tokens']:.1f}",
            "" if point["prompt_tokens"] is None else f"{point['prompt_tokens']:.1f}",
            "" if found is None else _points(found, "+"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for run, about in entry["runs"].items():
        if f"{EMERGENT}{run}" in entry["metrics"]:
            share, count = _points(entry["metrics"][f"{EMERGENT}{run}"]), about["emergent_count"]
            lines.append(f"| {run}: right where all inputs are wrong | {share} | | | {count} problems |")
    return "\n".join(lines)


def _points(interval: Mapping[str, Any], sign: str = "") -> str:
    value = f"{100 * interval['value']:{sign}.1f}"
    if interval["low"] is None:
        return value
    return f"{value} [{100 * interval['low']:{sign}.1f}, {100 * interval['high']:{sign}.1f}]"
