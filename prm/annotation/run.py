"""Annotating: rows in, label records out, with a judge that is kept busy, and goes on from wherever it was killed."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from reasonrl.data_tools.files import PlacedRow
from reasonrl.errors import RunError, StageFailed
from reasonrl.prm.annotation.labelling import VERSION, Assembly, Source, line_of, marks_of, source_named
from reasonrl.prm.annotation.rows import Item, Reading, chunks, digest_of_rows
from reasonrl.prm.annotation.store import USAGE, Folder, Shards, VoteLog, sum_entries
from reasonrl.prm.judges.base import Judge, Judged, Solution, Task, build_judge
from reasonrl.prm.labels import Label
from reasonrl.recipe.annotate_stage import name_on_disk

PATIENCE = 20
"""When so many answers in a row (or twice as many as are under way at once, if that is more) have no labels, the judge
is not asked on."""


@dataclass(frozen=True)
class JudgeSpec:
    """A judge as a recipe names it; `weight` counts in a weighted consensus."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True)
class Summary:
    """What an annotation holds.

    Attributes:
        complete: all shards are there, those of other processes too.
        totals: counts and cost of the shards that are there (`store.sum_entries`).
        shards: of the input.
    """

    complete: bool
    totals: Mapping[str, Any]
    shards: int


@dataclass(frozen=True)
class Measure:
    """How the table of what is mined in wrong answers is made.

    Attributes:
        sizes: tokens of each step of a solution; None counts characters.
        truth: the true labels, DataError where nobody knows them; None leaves precision and recall out.
    """

    sizes: Callable[[Solution], Sequence[int]] | None = None
    truth: Callable[[Solution], Sequence[Label]] | None = None

    @property
    def unit(self) -> str:
        """What sizes count."""
        return "characters" if self.sizes is None else "tokens"


class Batch(Protocol):
    """Stands between an annotation and the endpoints of its judges."""

    def over(self, place: int, judge: Judge) -> Judge:
        """The judge that is asked in place of the one at this place."""
        ...


Report = Callable[[int, int | None, str], None]


def annotate(
    path: Path,
    rows: Callable[[], Iterable[PlacedRow]],
    reading: Callable[[], Reading],
    judges: Sequence[JudgeSpec],
    *,
    made_by: Mapping[str, Any] | None = None,
    rule: str = "all",
    invalid: str = "set_aside",
    measure: Measure | None = None,
    shard_size: int = 500,
    shards: Shards | None = None,
    retry_failed: bool = False,
    date: str | None = None,
    base_dir: Path | None = None,
    batch: Batch | None = None,
    report: Report = lambda done, total, note: None,
    at_safe_point: Callable[[], None] = lambda: None,
) -> Summary:
    """Label the steps of solutions into a folder; goes on from what is there.

    Args:
        path: the folder (`store` says what it holds).
        rows: gives the input anew at each call, always in the same order.
        reading: makes what turns rows into solutions.
        judges: whom to ask, one after the other.
        made_by: how rows become solutions, as plain values; labels made otherwise are not mixed with these.
        rule, invalid: as `Assembly`.
        measure: of what is mined in wrong answers.
        shard_size: rows a shard.
        shards: which of them this process takes; None takes all.
        retry_failed: ask again about what has no labels.
        date: of the labels; None is today. The first call's holds.
        base_dir: where a judge `file.py:name` is looked for.
        batch: a file that takes the questions of endpoint judges, or one with the replies to them.
        report: takes solutions done by the judge that is asked, all of them, and a note.
        at_safe_point: may raise to stop; everything kept stays.

    Raises:
        RunError: the folder holds labels made otherwise or of other rows, or another process writes the same shard.
        StageFailed: the judge gives no labels.
        EndpointSettingsError, BudgetSpent, Rejected, RewardError: of the judges; what is kept stays.
    """
    shards, measure, folder = shards or Shards(), measure or Measure(), Folder(path)
    count = sum(1 for _ in rows())
    number = math.ceil(count / shard_size)
    whole = sum(min(shard_size, count - n * shard_size) for n in range(number) if shards.takes(n))
    with _built(judges, folder, base_dir, batch) as built:
        sources = tuple(
            Source(_label(place, spec), judge.votes, judge.settings(), spec.weight)
            for place, (spec, judge) in enumerate(zip(judges, built, strict=True))
        )
        settings = {**dict(made_by or {}), **_settings(sources, rule, invalid, shard_size)}
        on = folder.settle(settings, date or datetime.now(UTC).date().isoformat())
        assembly = Assembly(sources, rule, on, invalid, measure.sizes, measure.truth)
        for place, judge in enumerate(built):
            one = _Pass(folder, assembly, place, shard_size, shards, retry_failed, report, at_safe_point)
            one.run(judge, rows(), reading(), whole)
    return _summary(folder, number, measure.unit)


def _summary(folder: Folder, shards: int, unit: str) -> Summary:
    total = folder.conclude(shards, unit)
    entries = [entry for n in range(shards) if (entry := folder.entry(n)) is not None]
    return Summary(total is not None, total or sum_entries(entries), shards)


@contextmanager
def _built(
    judges: Sequence[JudgeSpec], folder: Folder, base_dir: Path | None, batch: Batch | None
) -> Iterator[list[Judge]]:
    """The judges, each within what is left of its budget; closed in the end."""
    with ExitStack() as stack:
        built: list[Judge] = []
        for place, spec in enumerate(judges):
            judge = build_judge(spec.name, _within_budget(spec, folder, _label(place, spec)), base_dir)
            stack.callback(judge.close)
            built.append(judge if batch is None else batch.over(place, judge))
        yield built


def _settings(sources: Sequence[Source], rule: str, invalid: str, shard_size: int) -> dict[str, Any]:
    """What makes the labels of two runs labels of one kind."""
    settings = {
        "judges": [dict(source.settings) for source in sources],
        "rule": rule,
        "shard_size": shard_size,
        "version": VERSION,
    }
    if rule == "weighted":
        settings["weights"] = [source.weight for source in sources]
    if rule.startswith("one:"):
        source_named([source.name for source in sources], rule[4:])
    return settings | ({"invalid": invalid} if invalid != "set_aside" else {})


def _label(place: int, spec: JudgeSpec) -> str:
    return name_on_disk(place, spec.name)


def _within_budget(spec: JudgeSpec, folder: Folder, source: str) -> dict[str, Any]:
    """The judge's arguments, with what earlier runs have used taken off the budget of its endpoint.

    Raises:
        RunError: nothing is left.
    """
    args = dict(spec.args)
    endpoint = args.get("endpoint")
    budget = endpoint.get("budget") if isinstance(endpoint, Mapping) else None
    if not isinstance(budget, Mapping):
        return args
    used = used_by(folder, source)
    spent = {
        "max_requests": used["asked"],
        "max_tokens": used["prompt_tokens"] + used["completion_tokens"],
        "max_cost": used["cost"],
    }
    left = {
        name: limit - spent[name] if limit is not None and name in spent else limit for name, limit in budget.items()
    }
    gone = [name for name, rest in left.items() if rest is not None and rest <= 0]
    if gone:
        raise RunError(
            f"judge {spec.name!r}: its budget is used up ({gone[0]} = {budget[gone[0]]:g}, used {spent[gone[0]]:g});"
            " the labels so far are kept -> raise the budget to go on"
        )
    args["endpoint"] = {**dict(endpoint or {}), "budget": left}
    return args


def used_by(folder: Folder, source: str) -> dict[str, float]:
    """Replies, tokens and money that a judge's answers in this folder have cost."""
    used: dict[str, float] = dict.fromkeys(USAGE, 0)
    for path in sorted(folder.votes_path(source, 0).parent.glob("*.jsonl")):
        for line in folder.votes(source, int(path.stem)):
            for name in USAGE:
                used[name] += line["usage"][name]
    return used


@dataclass
class _Open:
    """A shard that is worked on."""

    items: list[Item]
    marks: list[str]
    digest: str
    log: VoteLog
    waiting: int


class _Pass:
    """One judge over the whole input."""

    def __init__(
        self,
        folder: Folder,
        assembly: Assembly,
        place: int,
        size: int,
        shards: Shards,
        retry: bool,
        report: Report,
        at_safe_point: Callable[[], None],
    ) -> None:
        self.folder, self.assembly, self.size, self.shards, self.retry = folder, assembly, size, shards, retry
        self.source = assembly.sources[place]
        self.last = place == len(assembly.sources) - 1
        self.report, self.at_safe_point = report, at_safe_point
        self.open: dict[int, _Open] = {}
        self.done = self.steps = self.failures = self.in_a_row = self.answered = 0
        self.answers: Callable[[Task], bool] | None = None
        self.cost = 0.0
        self.began = time.monotonic()

    def run(self, judge: Judge, rows: Iterable[PlacedRow], reading: Reading, whole: int) -> None:
        """Ask about all that is missing, and seal the shards if this is the last judge."""
        self.answers = getattr(judge, "answers", None)
        patience = max(PATIENCE, 2 * judge.at_once) if self.answers is None else math.inf
        try:
            with closing(judge.judge(self._tasks(rows, reading, whole), self._keep)) as answers:
                for judged in answers:
                    self._count(judged, patience)
                    work = self.open[judged.task.place // self.size]
                    work.waiting -= 1
                    if not work.waiting:
                        self._finish(judged.task.place // self.size)
                    self.report(self.done, whole, self._note())
                    self.at_safe_point()
        finally:
            self._let_go()
        self.report(self.done, whole, self._note())

    def _let_go(self) -> None:
        """Close the shards that are open."""
        while self.open:
            self.open.popitem()[1].log.close()

    def _keep(self, judged: Judged) -> None:
        shard, place = divmod(judged.task.place, self.size)
        work = self.open[shard]
        work.log.add(line_of(judged, place, work.marks[place]))

    def _count(self, judged: Judged, patience: float) -> None:
        self.answered += 1
        self.cost += judged.usage.cost
        if judged.task.vote == self.source.votes - 1:
            self.done += 1
        if judged.labels is not None:
            self.steps += len(judged.labels)
            self.in_a_row = 0
            return
        self.failures += 1
        self.in_a_row += 1
        if self.in_a_row >= patience:
            raise StageFailed(
                f"judge {self.source.name}: {self.in_a_row} answers in a row had no labels; the last: {judged.failure}"
                " -> mend the judge, then ask about them again with --retry-failed; what is labelled is kept"
            )

    def _note(self) -> str:
        seconds = time.monotonic() - self.began
        rate = f", {self.answered / seconds:.1f} answers/s" if self.answered and seconds > 1 else ""
        cost = f", cost {self.cost:.2f}" if self.cost else ""
        failed = f", {self.failures:,} failed" if self.failures else ""
        return f"{self.source.name}: {self.steps:,} steps{rate}{cost}{failed}"

    def _tasks(self, rows: Iterable[PlacedRow], reading: Reading, whole: int) -> Iterator[Task]:
        for shard, chunk in enumerate(chunks(rows, self.size)):
            if self.answers is not None:  # nobody waits for more answers to the shards before
                self._let_go()
            if not self.shards.takes(shard):
                reading.pass_over(chunk)
                continue
            digest = digest_of_rows(chunk)
            if self._complete(shard, chunk, digest):
                reading.pass_over(chunk)
                self.done += len(chunk)
                continue
            items = reading.items(chunk)
            tasks = self._missing(shard, items, digest)
            asked = {task.place for task in tasks if task.vote == self.source.votes - 1}
            self.done += len(items) - len(asked)
            self.report(self.done, whole, self._note())
            self.at_safe_point()
            if not tasks:
                self._finish(shard)
            yield from tasks

    def _complete(self, shard: int, chunk: Sequence[PlacedRow], digest: str) -> bool:
        """Whether a shard needs nothing; one that is to be worked on again is opened."""
        entry = self.folder.entry(shard)
        if entry is None:
            return False
        if entry["input"] == digest and not (self.retry and entry["retryable"]):
            return True
        if entry["input"] != digest and len(chunk) <= entry["rows"]:
            raise RunError(
                f"{self.folder.path}: the input's rows {shard * self.size + 1} to {shard * self.size + len(chunk)} are"
                " not those that were labelled -> take another folder, or start anew"
            )
        self.folder.reopen(shard)
        return False

    def _missing(self, shard: int, items: list[Item], digest: str) -> list[Task]:
        """The questions that have no answer yet; the shard is open after that."""
        log = VoteLog(self.folder.votes_path(self.source.name, shard))
        marks = marks_of(items)
        self.open[shard] = _Open(items, marks, digest, log, 0)
        there: dict[tuple[int, int], bool] = {}
        answers = Counter[tuple[int, int]]()
        for line in self.folder.votes(self.source.name, shard):
            if line["place"] >= len(items) or line["hash"] != marks[line["place"]]:
                raise RunError(
                    f"{self.folder.path}: the input's row {shard * self.size + line['place'] + 1} is not the one that"
                    f" was labelled (id {line['id']!r}) -> take another folder, or start anew"
                )
            there[line["place"], line["vote"]] = "labels" in line
            answers[line["place"], line["vote"]] += 1
        tasks = [
            Task(item, vote, shard * self.size + place, answers[place, vote])
            for place, item in enumerate(items)
            if isinstance(item, Solution)
            for vote in range(self.source.votes)
            if (place, vote) not in there or (self.retry and not there[place, vote])
        ]
        if self.answers is not None:  # what has failed and is not answered now stays as it is
            tasks = [t for t in tasks if (t.place % self.size, t.vote) not in there or self.answers(t)]
        self.open[shard].waiting = len(tasks)
        return tasks

    def _finish(self, shard: int) -> None:
        work = self.open.pop(shard)
        work.log.close()
        if not self.last:
            return
        lines = [self.folder.votes(source.name, shard) for source in self.assembly.sources]
        labelled, failed, entry = self.assembly.assemble(work.items, lines)
        self.folder.seal(shard, labelled, failed, {**entry, "input": work.digest})
