"""Drawing what a suite's record lacks: each sample is kept as it comes, judged soon after, and appended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from reasonrl.errors import RunError
from reasonrl.eval.answer_classes import answer_class
from reasonrl.eval.questions import Question
from reasonrl.eval.samples import CURRENT, ITEMS, JUDGED, Key, SampleStore, encode_object, verdicts_path
from reasonrl.eval.scoring import Answer, Beginner, Judgement, Scorer
from reasonrl.observe import write_atomically

if TYPE_CHECKING:
    from reasonrl.rollout.engine import Request, RolloutEngine, Sample, SamplingParams

JUDGE_SAMPLES = 256
"""So many samples wait for their verdict at most."""

JUDGE_SECONDS = 0.5
"""So long a sample waits at most, if another comes; its verdict is made in the pool meanwhile."""

OnProgress: TypeAlias = Callable[[int, int, float | None], None]
"""Called with (samples done, samples in all, share of right ones among the judged; None before the first)."""

Extra: TypeAlias = "Callable[[Sample], Any]"
"""Makes a further field of the record from a sample."""


class Drawing:
    """Draws what is missing, judges it and appends it; `found` grows with every judged sample.

    A sample that has arrived is on the disk before the next is taken from the engine, judged or not: a kill, or a
    reward that fails, costs none.

    Args:
        engine: draws the samples.
        judging: what scores a batch of answers, and what begins one early.
        questions: by problem id.
        store: the suite's record.
        total: samples that there will be.
        seed_parts: recipe seed, stage and suite.
        version: of the grader; None where it has none.
        keep_ids: whether judging needs the token ids.
        extra: further fields of the record, which are not held in memory.
        on_progress: told after every sample.
        at_safe_point: called when a sample is on the disk; may raise to stop.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        judging: tuple[Scorer, Beginner],
        questions: Mapping[str, Question],
        store: SampleStore,
        found: dict[Key, dict[str, Any]],
        *,
        total: int,
        seed_parts: tuple[int, str, str],
        version: int | None,
        keep_ids: bool,
        extra: Mapping[str, Extra] | None = None,
        on_progress: OnProgress | None = None,
        at_safe_point: Callable[[], None] | None = None,
    ) -> None:
        self.engine, self.questions, self.store, self.found = engine, questions, store, found
        self.scorer, self.begin = judging
        self.total, self.seed_parts, self.version, self.keep_ids = total, seed_parts, version, keep_ids
        self.extra = extra or {}
        self.on_progress, self.at_safe_point = on_progress, at_safe_point
        self.clear_judged = False
        """Whether nothing but what is judged need stay in the file of samples that have arrived."""
        self._waiting: list[dict[str, Any]] = []
        self._judged_at = time.monotonic()
        self._right = sum(bool(row["correct"]) for row in found.values())
        self._scored = sum(row["correct"] is not None for row in found.values())

    def judge_again(self, answers_before: Mapping[str, Any]) -> None:
        """Judges the stored samples of another grader version, and those whose problem has another answer now.

        Their lines stay as they are; the new verdicts go to `verdicts/current.jsonl`, and what changed to
        `regraded.json`.

        Args:
            answers_before: the answer by problem id with which the stored samples were judged.

        Raises:
            RunError: answers have changed, and the reward may read more than what is stored.
        """
        golds = {key: asked.record()["answer"] for key, asked in self.questions.items()}
        other = {key for key, answer in answers_before.items() if key in golds and golds[key] != answer}
        if self.version is None:
            if other & {key[0] for key in self.found}:
                raise RunError(
                    f"{self.store.directory}: the answers of {len(other)} problems have changed, such as"
                    f" {min(other)!r}, and its reward cannot judge stored samples again -> evaluate into another folder"
                )
            return
        stale = {key: row for key, row in self.found.items() if row.get("grader") != self.version or key[0] in other}
        if not stale:
            return
        changed = []
        before = {key: row["verdict"] for key, row in stale.items()}
        rows = list(stale.values())
        for start in range(0, len(rows), JUDGE_SAMPLES):
            for row in self._with_verdicts(rows[start : start + JUDGE_SAMPLES]):
                key = (row["id"], row["metric"], row["index"])
                self.found[key] = row
                if row["verdict"] != before[key]:
                    named = {name: row[name] for name in ("id", "metric", "index")}
                    changed.append({**named, "before": before[key], "now": row["verdict"]})
        self._right = sum(bool(row["correct"]) for row in self.found.values())
        self._scored = sum(row["correct"] is not None for row in self.found.values())
        self.store.judged_again({key: self.found[key] for key in stale}, {"name": CURRENT, "grader": self.version})
        record = {
            "grader": self.version,
            "judged_again": len(stale),
            "verdicts": str(verdicts_path(".", CURRENT)),
            "changed": changed,
        }
        path = self.store.directory / "regraded.json"
        write_atomically(path, encode_object(record))

    def judge_left_over(self) -> None:
        """Judges samples that had arrived when the process before this one ended."""
        for key, row in self.store.load_unjudged().items():
            if key not in self.found and key[0] in self.questions:
                self._waiting.append(row)
        self._judge()

    def draw(self, keys: Sequence[Key], params: SamplingParams) -> None:
        """Draws the samples of `keys` that are not there yet."""
        requests = [self._request(key) for key in keys if key not in self.found]
        if not requests:
            return
        self._judged_at = time.monotonic()
        for sample in self.engine.stream(requests, params):
            row = self._row(sample)
            self.store.arrive(row)
            self._waiting.append(row)
            self.begin(self._answer(row))
            if len(self._waiting) >= JUDGE_SAMPLES or time.monotonic() - self._judged_at > JUDGE_SECONDS:
                self._judge()
            self._report()
            if self.at_safe_point is not None:
                self.at_safe_point()
        self._judge()
        self._report()

    def _request(self, key: Key) -> Request:
        from reasonrl.rollout.engine import Request
        from reasonrl.rollout.seeds import sample_seed

        identity, metric, index = key
        asked = self.questions[identity]
        seed = sample_seed(*self.seed_parts, identity, index if metric == "sample" else metric)
        if not asked.ids:
            from reasonrl.rollout.endpoint_engine import ChatRequest

            return ChatRequest(json.dumps(key), (), seed, images=asked.images, messages=tuple(asked.messages))
        return Request(id=json.dumps(key), prompt_ids=asked.ids, seed=seed, images=asked.images)

    def _row(self, sample: Sample) -> dict[str, Any]:
        """What is known of a sample before its verdict."""
        identity, metric, index = json.loads(sample.request.id)
        row = {
            "id": identity,
            "metric": metric,
            "index": index,
            "prompt_hash": self.questions[identity].hash,
            # As text: JSON readers differ on unsigned 64-bit numbers.
            "seed": str(sample.request.seed),
            "text": sample.text,
            "finish_reason": sample.finish_reason,
            "length": sample.length,
            **{name: made(sample) for name, made in self.extra.items()},
        }
        return {**row, "token_ids": list(sample.token_ids)} if self.keep_ids else row

    def _answer(self, row: Mapping[str, Any]) -> Answer:
        asked = self.questions[row["id"]]
        return Answer(asked.row, asked.messages, row["text"], tuple(row.get("token_ids", ())), row["finish_reason"])

    def _with_verdicts(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """New rows with the fields that the grader fills."""
        judgements = self.scorer([self._answer(row) for row in rows])
        return [
            {
                **{name: value for name, value in row.items() if name not in (*JUDGED, ITEMS)},
                **verdict_fields(judgement, row["finish_reason"] == "stop", self.version),
            }
            for row, judgement in zip(rows, judgements, strict=True)
        ]

    def _judge(self) -> None:
        """Judges what waits and appends it."""
        rows, self._waiting = self._waiting, []
        for start in range(0, len(rows), JUDGE_SAMPLES):
            for row in self._with_verdicts(rows[start : start + JUDGE_SAMPLES]):
                row.pop("token_ids", None)
                self.store.append(row)
                for name in self.extra:
                    row.pop(name, None)
                self.found[row["id"], row["metric"], row["index"]] = row
                self._scored += row["correct"] is not None
                self._right += bool(row["correct"])
        if self.clear_judged:
            self.store.clear_arrived()
        self._judged_at = time.monotonic()

    def _report(self) -> None:
        if self.on_progress is not None:
            accuracy = self._right / self._scored if self._scored else None
            self.on_progress(len(self.found) + len(self._waiting), self.total, accuracy)


def verdict_fields(judgement: Judgement, ended: bool, version: int | None) -> dict[str, Any]:
    """The fields of a sample that a grader fills (`samples.JUDGED`).

    Args:
        judgement: the grader's.
        ended: whether the sample came to its end; one that did not is not correct.
        version: of the grader.
    """
    right = judgement.right
    return {
        "extracted": judgement.extracted,
        "class": answer_class(judgement.extracted, right),
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "right": right,
        "correct": None if right is None else right and ended,
        "score": judgement.score,
        "grader": version,
        **({} if judgement.items is None else {"items": judgement.items}),
    }
