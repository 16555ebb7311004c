"""A step's pool of prompts: drawn and scored before the batch is chosen, refilled, drawn again with hints.

Which prompts a step takes is decided by their scores alone, by every rank in the same way, and how far the stream of
prompts has been used stands in the checkpoint: a resumed run goes on with the prompts that the unbroken one takes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object

from reasonrl.algorithms.groups import group_figures, varies
from reasonrl.errors import ModelError
from reasonrl.rollout.engine import Sample
from reasonrl.trainers._trl import Collected, Scored
from reasonrl.trainers.batch import RolloutBatch, total_scores
from reasonrl.trainers.completion_rows import column_of, completion_rows
from reasonrl.trainers.hints import Hints
from reasonrl.trainers.step_metrics import Seen

if TYPE_CHECKING:
    from reasonrl.trainers.ppo import PPOTrainer

FILE = "prompts.json"


@dataclass(frozen=True)
class Group:
    """The samples of one prompt, as every rank knows them.

    Attributes:
        row: index into the data set.
        first: place of its first sample among all that the step draws; the others follow.
        hinted: whether the prompt holds a hint.
        scores: one a sample, NaN where there is none.
        right: one a sample: verdict `correct`, and with `reward_requires_stop` ended by itself; a score above 0 where
            there is no verdict.
    """

    row: int
    first: int
    hinted: bool
    scores: tuple[float, ...]
    right: tuple[bool, ...]

    @property
    def places(self) -> range:
        """The places of its samples."""
        return range(self.first, self.first + len(self.scores))


@dataclass(frozen=True)
class Held:
    """One drawn and scored sample: its row, its raw rewards, and the columns that rewards logged of it."""

    row: dict[str, Any]
    sample: Sample
    rewards: tuple[float, ...]
    columns: dict[str, Any]


class PromptPool:
    """Fills a step's batch from the stream of prompts (DAPO, arXiv 2503.14476, section 3.2), and gives hints.

    A round draws as many prompts as groups are missing. With hints, groups without a right sample are drawn once more
    with the hint, which takes their place. With dynamic sampling, groups whose scores do not vary are dropped, and
    further rounds follow, `dynamic_sampling_max_rounds` at most. What is then still missing is filled with dropped
    groups that weigh nothing: shapes stay, and losses are those of the kept groups alone.

    Args:
        trainer: whose prompts, engine and rewards these are.
    """

    def __init__(self, trainer: PPOTrainer) -> None:
        args = trainer.args
        self.trainer, self.args, self.cursor = trainer, args, 0
        self.hints = None
        if args.hint_column is not None:
            self.hints = Hints(args.hint_column, args.hint_fraction, args.hint_template)
            self.hints.check(trainer.train_dataset.column_names)
        if args.dynamic_sampling and trainer.only_token_rewards:
            raise ModelError(
                "ppo: dynamic_sampling compares the scores of a prompt's samples, and there are rewards of tokens only,"
                " which are no scores -> add a reward of whole samples, or dynamic_sampling: false"
            )

    # --- one step ---

    def fill(self, step: int) -> list[dict[str, Any]]:
        """Draw and score until the batch of a step is full or the rounds are used up. A collective call.

        Returns:
            This rank's rows, one a sample.
        """
        self._start(step)
        wanted = self.args.prompts_per_step
        missing, self.rounds = wanted, 0
        while True:
            self._round(missing)
            self.kept = [group for group in self._groups if self._counts(group)]
            missing = wanted - len(self.kept)
            if missing <= 0 or self.rounds == self.args.dynamic_sampling_max_rounds:
                break
            self.rounds += 1
        idle = [group for group in self._groups if not self._counts(group)]
        # Places grow along the stream, but for hinted groups, which take the place of others.
        order = {group.first: turn for turn, group in enumerate(self._groups)}
        self._chosen = sorted([*self.kept, *idle[: max(0, missing)]], key=lambda group: order[group.first])
        places = [place for group in self._chosen for place in group.places]
        self._share = len(places) // self._ranks
        self._mine = self._exchange(places)
        return [held.row for held in self._mine]

    def samples(self) -> list[Sample]:
        """The chosen samples of this rank."""
        return [held.sample for held in self._mine]

    def scored(self) -> Scored:
        """Their rewards."""
        device = self.trainer.accelerator.device
        rewards = torch.tensor([held.rewards for held in self._mine], dtype=torch.float32, device=device)
        return Scored(rewards, _columns(self._mine), self._means(), self._seconds)

    def leave_out(self, batch: RolloutBatch) -> None:
        """Take the tokens of dropped groups out of a batch made of the chosen samples."""
        for row, group in enumerate(self._groups_of_mine()):
            if not self._counts(group):
                batch.mask[row] = 0

    def metrics(self) -> dict[str, float]:
        """What became of the step's prompts; equal on all ranks."""
        found: dict[str, float] = {}
        if self.args.num_generations > 1:
            scores = [score for group in self._unhinted for score in group.scores]
            found |= group_figures(scores, self.args.num_generations, self.args.positive_above)
        if self.args.dynamic_sampling:
            found |= {
                "dynamic_sampling/rounds": self.rounds,
                "dynamic_sampling/dropped_groups": len(self._groups) - len(self.kept),
                "dynamic_sampling/kept_fraction": len(self.kept) / len(self._groups),
                "dynamic_sampling/missing_groups": max(0, self.args.prompts_per_step - len(self.kept)),
            }
        if self.hints is not None:
            given = [group for group in self._groups if group.hinted]
            found |= {
                "hints/groups": len(given),
                "hints/solved_groups": sum(any(group.right) for group in given),
                "hinted_fraction": sum(group.hinted for group in self.kept) / max(1, len(self.kept)),
            }
        return found

    def seen(self) -> Seen:
        """This rank's part of everything that was drawn without a hint: what reward, accuracy and lengths are of."""
        held = [self._held[place] for place in sorted(self._held) if not self._held[place].row["hinted"]]
        return self._seen(held)

    def completions(self, step: int, chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows of this rank's chosen samples, marked, and those of the samples it drew that were not chosen.

        Args:
            step: counted from 1.
            chosen: rows of the chosen samples.
        """
        groups = self._groups_of_mine()
        rows = [
            {**row, "hinted": group.hinted, "dropped": not self._counts(group)}
            for row, group in zip(chosen, groups, strict=True)
        ]
        taken = {place for group in self._chosen for place in group.places}
        others = [self._held[place] for place in sorted(self._held) if place not in taken]
        if not others:
            return rows
        seen = self._seen(others)
        rows_of = [held.row for held in others]
        collected = Collected(rows_of, list(seen.samples), {}, torch.empty(0), _columns(others), {}, 0.0)
        decode = self.trainer.prompts.decode
        left = completion_rows(step, collected, seen.scores.tolist(), [None] * len(others), decode)
        marks = [{"hinted": held.row["hinted"], "dropped": True} for held in others]
        return [*rows, *({**row, **mark} for row, mark in zip(left, marks, strict=True))]

    # --- checkpoints ---

    def save(self, checkpoint: Path) -> None:
        """Write how many prompts of the stream have been used."""
        (checkpoint / FILE).write_text(json.dumps({"used": self.cursor}), encoding="utf-8")

    def restore(self, checkpoint: Path, step: int) -> None:
        """Go on behind the prompts that a checkpoint has used; one without a record used `prompts_per_step` a step."""
        file = checkpoint / FILE
        told = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.cursor = int(told.get("used", step * self.args.prompts_per_step))

    # --- rounds ---

    def _start(self, step: int) -> None:
        self._number = step
        self._groups: list[Group] = []
        self._unhinted: list[Group] = []
        self._held: dict[int, Held] = {}
        self._places = 0
        self._seconds = 0.0
        self._scalars: list[tuple[dict[str, float], int]] = []

    @property
    def _rank(self) -> int:
        return self.trainer.accelerator.process_index

    @property
    def _ranks(self) -> int:
        return self.trainer.accelerator.num_processes

    def _counts(self, group: Group) -> bool:
        return not self.args.dynamic_sampling or varies(group.scores)

    def _round(self, prompts: int) -> None:
        indices = self.trainer.prompt_stream(len(self.trainer.train_dataset)).places(self.cursor, prompts)
        self.cursor += prompts
        groups = self._draw([(index, False) for index in indices])
        self._unhinted += groups
        if self.hints is not None:
            failed = [place for place, group in enumerate(groups) if self._wants_hint(group)]
            again = self._draw([(groups[place].row, True) for place in failed]) if failed else []
            for place, group in zip(failed, again, strict=True):
                groups[place] = group
        self._groups += groups

    def _wants_hint(self, group: Group) -> bool:
        assert self.hints is not None
        scored = any(score == score for score in group.scores)
        return scored and not any(group.right) and bool(self.hints.text(self.trainer.train_dataset[group.row]))

    def _draw(self, prompts: Sequence[tuple[int, bool]]) -> list[Group]:
        """Draw and score the samples of some prompts (data set index, hinted or not), spread evenly over the ranks."""
        size, first = self.args.num_generations, self._places
        count = len(prompts) * size
        self._places += count
        share = -(-count // self._ranks)
        start = share * self._rank
        # Calls of rewards want equal shares: the last ranks fill up with the last sample, which counts once.
        places = [min(place, count - 1) for place in range(start, start + share)]
        rows = [self._row(*prompts[place // size]) for place in places]
        samples = self.trainer.draw_rows(self._number, rows, [first + place for place in places])
        scored = self.trainer.score(rows, samples)
        self._seconds += scored.seconds
        if not rows[0]["hinted"]:
            self._scalars.append((scored.metrics, len(rows)))
        held = _hold(rows, samples, scored)
        turns = enumerate(zip(places, held, strict=True), start)
        mine = {first + place: one for turn, (place, one) in turns if turn == place}
        self._held |= mine
        seen = self._seen(list(mine.values()))
        told = zip(mine, seen.scores.tolist(), self._right(seen), strict=True)
        known = {place: (score, right) for place, score, right in gather_object(list(told))}
        return [
            Group(
                row,
                begin,
                hinted,
                tuple(known[place][0] for place in range(begin, begin + size)),
                tuple(known[place][1] for place in range(begin, begin + size)),
            )
            for (row, hinted), begin in zip(prompts, range(first, first + count, size), strict=True)
        ]

    def _row(self, index: int, hinted: bool) -> dict[str, Any]:
        row = self.trainer.train_dataset[index]
        if hinted:
            assert self.hints is not None
            row = self.hints.hinted(row) or row
        return {**row, "hinted": hinted}

    def _right(self, seen: Seen) -> list[bool]:
        needs = self.args.reward_requires_stop
        scores, ended = seen.scores.tolist(), seen.finished.tolist()
        verdicts = seen.verdicts or [None] * len(scores)
        return [
            score > 0 if verdict is None else verdict == "correct" and (stopped or not needs)
            for score, verdict, stopped in zip(scores, verdicts, ended, strict=True)
        ]

    def _seen(self, held: Sequence[Held]) -> Seen:
        width = len(self.trainer.reward_funcs)
        rewards = torch.tensor([one.rewards for one in held], dtype=torch.float32).reshape(len(held), width)
        finished = torch.tensor([one.sample.finish_reason == "stop" for one in held], dtype=torch.bool)
        scores = total_scores(rewards, self.trainer.reward_weights.cpu())
        if self.args.reward_requires_stop:
            scores = torch.where(finished | scores.isnan(), scores, torch.zeros_like(scores))
        verdicts = [one.columns.get("verdict") for one in held]
        return Seen(
            rows=[one.row for one in held],
            samples=[one.sample for one in held],
            scores=scores,
            finished=finished,
            verdicts=verdicts if any(verdict is not None for verdict in verdicts) else None,
            scalars=self._means(),
        )

    def _means(self) -> dict[str, float]:
        """Scalars that rewards logged, over the rounds; those of hinted samples are not among them."""
        logged: dict[str, tuple[float, float]] = {}
        for scalars, count in self._scalars:
            for name, value in scalars.items():
                total, weight = logged.get(name, (0.0, 0.0))
                logged[name] = (total + count * value, weight + count)
        return {name: total / weight for name, (total, weight) in logged.items()}

    # --- the chosen samples ---

    def _groups_of_mine(self) -> list[Group]:
        everyone = [group for group in self._chosen for _ in group.places]
        return everyone[self._rank * self._share : (self._rank + 1) * self._share]

    def _exchange(self, places: Sequence[int]) -> list[Held]:
        """This rank's share of the chosen samples, in their order, whichever rank drew them."""
        mine = places[self._rank * self._share : (self._rank + 1) * self._share]
        if self._ranks == 1:
            return [self._held[place] for place in mine]
        drawn = [(place, _pack(self._held[place])) for place in places if place in self._held]
        everyone = dict(gather_object(drawn))
        groups = dict(zip(places, (group for group in self._chosen for _ in group.places), strict=True))
        return [self._held.get(place) or self._unpack(place, groups[place], everyone[place]) for place in mine]

    def _unpack(self, place: int, group: Group, packed: dict[str, Any]) -> Held:
        # Row and request follow from the place; pictures need not travel.
        row = self._row(group.row, group.hinted)
        request = self.trainer.order_of(self._number, [row], [place]).requests[0]
        return Held(row, Sample(request=request, **packed["sample"]), packed["rewards"], packed["columns"])


def _pack(held: Held) -> dict[str, Any]:
    sample = {name: value for name, value in vars(held.sample).items() if name != "request"}
    return {"sample": sample, "rewards": held.rewards, "columns": held.columns}


def _hold(rows: Sequence[dict[str, Any]], samples: Sequence[Sample], scored: Scored) -> list[Held]:
    columns = {name: column_of(scored.extra, name, len(rows)) for name in scored.extra}
    return [
        Held(row, sample, tuple(rewards), {name: values[place] for name, values in columns.items()})
        for place, (row, sample, rewards) in enumerate(zip(rows, samples, scored.rewards.tolist(), strict=True))
    ]


def _columns(held: Sequence[Held]) -> dict[str, list[Any]]:
    """Columns that rewards logged; None where one was logged for other samples only."""
    names = dict.fromkeys(name for one in held for name in one.columns)
    return {name: [one.columns.get(name) for one in held] for name in names}
