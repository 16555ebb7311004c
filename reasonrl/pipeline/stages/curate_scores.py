"""Steps of curation that ask models: the loss under a light one, and a judge's votes; findings outlive kills."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.data_tools.curate import Ledger, RowFile, drop_by_loss, drop_by_votes
from reasonrl.data_tools.curate.rules import Step
from reasonrl.data_tools.overlap import problem_text

if TYPE_CHECKING:
    from reasonrl.pipeline.context import StageContext
    from reasonrl.recipe.curate_stage import JudgeStep, LossStep

AT_ONCE = 256
"""Rows that are put into batches together."""


def loss_step(step: LossStep, context: StageContext, path: Path) -> Step:
    """Rows by their mean loss a token of the solution; pictures are not read."""

    def score(rows: RowFile) -> Iterator[tuple[dict[str, Any], float | None]]:
        path.parent.mkdir(exist_ok=True)
        ledger, scorer = Ledger(path), None
        try:
            window: list[dict[str, Any]] = []
            for row in rows:
                window.append(row)
                if len(window) == AT_ONCE:
                    scorer = _scored(window, ledger, scorer, step, context)
                    yield from ((one, ledger.known.get(one["id"])) for one in window)
                    window = []
            _scored(window, ledger, scorer, step, context)
            yield from ((one, ledger.known.get(one["id"])) for one in window)
        finally:
            ledger.close()

    return drop_by_loss(score, top=step.top, over=step.over)


def _scored(window: list[dict[str, Any]], ledger: Ledger, scorer: Any, step: LossStep, context: StageContext) -> Any:
    """Scores what is not known yet; the scorer, loaded when it is needed first."""
    todo = [row for row in window if isinstance(row.get("solution"), str) and row["id"] not in ledger.known]
    if todo:
        scorer = scorer or _Scorer(context.model_of(step.model), step.max_length, step.tokens_per_microbatch)
        for row, loss in zip(todo, scorer.losses(todo), strict=True):
            ledger.put(row["id"], loss)
    return scorer


class _Scorer:
    """Mean negative log-likelihood of solutions under a model."""

    def __init__(self, name: str, max_length: int, budget: int) -> None:
        import torch

        from reasonrl.models import load_policy

        self.model, self.tokenizer = load_policy(name, dtype="auto")
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.max_length, self.budget = max_length, budget

    def losses(self, rows: list[dict[str, Any]]) -> list[float | None]:
        """In nats a token, of each row's solution; None where nothing of it fits."""
        made = [self._ids(row) for row in rows]
        found: list[float | None] = [None] * len(rows)
        batch: list[int] = []
        for place in sorted(range(len(rows)), key=lambda place: len(made[place][0])):
            if made[place][1] >= len(made[place][0]):
                continue
            if batch and (len(batch) + 1) * len(made[place][0]) > self.budget:
                self._batch(batch, made, found)
                batch = []
            batch.append(place)
        if batch:
            self._batch(batch, made, found)
        return found

    def _ids(self, row: Mapping[str, Any]) -> tuple[list[int], int]:
        from reasonrl.data_tools.prompts import as_messages, prompt_ids

        prompt = prompt_ids(self.tokenizer, as_messages({**row, "prompt": None, "problem": problem_text(row) or "?"}))
        solution = self.tokenizer(row["solution"], add_special_tokens=False)["input_ids"]
        return (prompt + solution)[: self.max_length], len(prompt)

    def _batch(self, places: list[int], made: list[tuple[list[int], int]], found: list[float | None]) -> None:
        import torch

        longest = max(len(made[place][0]) for place in places)
        ids = torch.zeros(len(places), longest, dtype=torch.long)
        mask, counted = torch.zeros_like(ids), torch.zeros(len(places), longest)
        for line, place in enumerate(places):
            tokens, start = made[place]
            ids[line, : len(tokens)] = torch.tensor(tokens)
            mask[line, : len(tokens)] = 1
            counted[line, start : len(tokens)] = 1
        device = self.model.device
        ids, mask, counted = ids.to(device), mask.to(device), counted.to(device)
        with torch.no_grad():
            logits = self.model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
            weight = counted[:, 1:]
            means = (losses * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        for line, place in enumerate(places):
            found[place] = round(float(means[line]), 6)


def judge_step(step: JudgeStep, path: Path) -> Step:
    """Rows by a judge's votes; a vote that was cast is not asked for again."""

    def votes(rows: RowFile) -> Iterator[tuple[dict[str, Any], list[bool] | str | None]]:
        from reasonrl.rewards.judges.rows import RowJudge

        path.parent.mkdir(exist_ok=True)
        ledger, failed = Ledger(path), dict[str, str]()
        settings = step.model_dump(include={"votes", "temperature", "max_tokens", "seed", "re_asks", "prompt"})
        judge = RowJudge(step.question, step.endpoint.settings(), **settings)
        names: dict[int, str] = {}
        cast: dict[int, dict[int, bool]] = {}

        def keep(place: int, vote: int, answer: Any) -> None:
            """In the endpoints' loop: what was paid for is on the disk before anything else is asked."""
            if answer.verdict is None:
                failed[names[place]] = answer.failure
                return
            mine = cast.setdefault(place, {})
            mine[vote] = bool(answer.verdict)
            if len(mine) == step.votes:
                ledger.put(names[place], [mine[one] for one in range(step.votes)])
                del cast[place]

        try:
            for _ in judge.ask(_questions(step, rows, ledger, names), keep):
                pass
            for row in rows:
                if not _asked(step, row):
                    yield row, None
                elif row["id"] in ledger.known:
                    yield row, ledger.known[row["id"]]
                else:
                    yield row, failed.get(row["id"], "no votes")
        finally:
            judge.close()
            ledger.close()

    return drop_by_votes(step.question, votes, step.agree)


def _asked(step: JudgeStep, row: Mapping[str, Any]) -> bool:
    return step.question != "relevance" or bool(row.get("images"))


def _questions(step: JudgeStep, rows: RowFile, ledger: Ledger, names: dict[int, str]) -> Iterator[Any]:
    from reasonrl.rewards.judges.rows import RowQuestion

    for place, row in enumerate(rows):
        if row["id"] in ledger.known or not _asked(step, row):
            continue
        names[place] = row["id"]
        pictures = tuple(_url(rows.home / one) for one in row.get("images") or ())
        yield RowQuestion(place, problem_text(row), str(row.get("answer") or ""), pictures)


def _url(picture: Path) -> str:
    kind = mimetypes.guess_type(picture.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"
