"""Samples of logs made elsewhere, put into a record as if they had been drawn here: what they lack is made."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reasonrl.data_tools.files import PlacedRow
from reasonrl.data_tools.loading import content_hash
from reasonrl.data_tools.prompts import as_messages, prompt_ids
from reasonrl.errors import DataError
from reasonrl.eval.drawing import JUDGE_SAMPLES, verdict_fields
from reasonrl.eval.rollouts.collecting import SAMPLES_FOLDER, Collected, conversation, finish, ids_array
from reasonrl.eval.rollouts.logs import Damaged, Logged, read_logs
from reasonrl.eval.rollouts.tokens import IDS, LOGPROBS, packed
from reasonrl.eval.samples import CURRENT, Key, SampleStore
from reasonrl.eval.scoring import Answer, Judgement, build_judging, grader_version, plain_spec, reward_basis
from reasonrl.observe.records import encode_record

SET_ASIDE = "set_aside.jsonl"


def import_logs(
    rows: Iterable[PlacedRow],
    *,
    directory: str | Path,
    columns: Mapping[str, str] | None = None,
    reward: Any = "math",
    verify: str = "missing",
    damaged: str = "set_aside",
    keep: str | None = None,
    texts: Callable[[], Any] | None = None,
    system_prompt: str | None = None,
    template: str | None = None,
    base_dir: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    on_progress: Callable[[int], None] | None = None,
    at_safe_point: Callable[[], None] | None = None,
) -> Collected:
    """Reads logs into `<directory>/samples/`, judges what has no verdict, and writes the same product as `collect`.

    Samples of equal problem, prompt and answer are one problem's, unless the logs have a `problem_id`. An import that
    was killed goes on: samples that are judged are not judged again.

    Args:
        rows: of the logs, always in the same order.
        columns: our name -> theirs.
        verify: `missing` judges samples without a verdict or reward, `all` every one, `none` leaves them unscored.
        damaged: `set_aside` counts samples that cannot be used and lists them in `set_aside.jsonl`; `refuse` raises.
        texts: gives the tokenizer that makes token ids where the logs have none; None leaves them without.
        system_prompt, template: how the problems were asked, for the prompts' token ids.
        on_progress: told how many samples were read.

    The others are those of `collect`.

    Raises:
        DataError: no sample can be used, one cannot and `damaged` is `refuse`, or `keep` leaves no problem.
        RunError: the folder holds an import made with other settings.
    """
    folder = Path(directory)
    settings = {
        "logs": True,
        "columns": dict(columns or {}),
        "reward": plain_spec(reward) if not callable(reward) else getattr(reward, "__qualname__", repr(reward)),
        "verify": verify,
        "system_prompt": system_prompt,
        "template": template,
        **({} if grader_version(reward) is not None else reward_basis(reward, base_dir)),
    }
    store = SampleStore(folder / SAMPLES_FOLDER, settings)
    version = grader_version(reward)
    try:
        importer = _Import(store, reward, verify, version, base_dir, system_prompt, template)
        aside = _Aside(folder / SET_ASIDE, refuse=damaged == "refuse")
        with aside:
            for count, item in enumerate(read_logs(rows, columns or {}), start=1):
                found = importer.take(item) if isinstance(item, Logged) else item
                if found is not None:
                    aside.add(found)
                if on_progress is not None:
                    on_progress(count)
                if at_safe_point is not None:
                    at_safe_point()
            importer.judge()
        if not importer.counts["samples"]:
            raise DataError(f"no sample of the logs can be used: {aside.words() or 'they are empty'}")
        importer.settle()
    finally:
        store.close()
    tokenizer = texts() if texts is not None else None
    if tokenizer is not None:
        importer.make_prompts(tokenizer)
    told = {**(about or {}), "grader": version, "imported": {**importer.counts, "set_aside": dict(aside.counts)}}
    return finish(folder, importer.problems, keep=keep, texts=tokenizer, about=told)


class _Aside:
    """Samples that cannot be used, a line each."""

    def __init__(self, path: Path, refuse: bool) -> None:
        self.path, self.refuse = path, refuse
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> _Aside:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self.counts:
            self.path.unlink()

    def add(self, found: Damaged) -> None:
        if self.refuse:
            name = "" if found.id is None else f", id {found.id!r}"
            raise DataError(
                f"{found.place}{name}: {found.reason} -> mend the row, or count such rows with damaged: set_aside"
            )
        self.counts[found.kind] += 1
        self._file.write(encode_record({"place": found.place, "id": found.id, "reason": found.reason}))

    def words(self) -> str:
        return "; ".join(f"{count} x {kind}" for kind, count in self.counts.most_common())


class _Import:
    """What has been read so far.

    Attributes:
        problems: by id, in the order in which they were met.
        counts: samples by where their verdict comes from.
    """

    def __init__(
        self,
        store: SampleStore,
        reward: Any,
        verify: str,
        version: int | None,
        base_dir: str | Path | None,
        system_prompt: str | None,
        template: str | None,
    ) -> None:
        self.store, self.verify, self.version = store, verify, version
        self.scorer, self.begin = build_judging(reward, base_dir)
        self.needs_answer = plain_spec(reward) == "math"
        self.system_prompt, self.template = system_prompt, template
        self.there = store.load(without=(IDS, LOGPROBS, "text", "columns"))
        self.problems: dict[str, dict[str, Any]] = {}
        self.counts: Counter[str] = Counter()
        self._asked: dict[str, list[dict[str, Any]]] = {}
        self._met: dict[str, set[int]] = {}
        self._waiting: list[tuple[dict[str, Any], Answer]] = []
        self._again: list[tuple[dict[str, Any], Answer]] = []
        self._judged_again: dict[Key, dict[str, Any]] = {}

    def take(self, sample: Logged) -> Damaged | None:
        """Puts a sample into the record, or says why not."""
        row = dict(sample.row)
        name = sample.problem_id or content_hash(row)
        reason = self._problem(name, row, sample)
        judged = self.verify == "all" or (
            self.verify == "missing" and "correct" not in sample.values and "reward" not in sample.values
        )
        if not reason and judged and self.needs_answer and row.get("answer") is None:
            reason = "answer: there is none to check the response against"
        met = self._met.setdefault(name, set())
        index = sample.values.get("index", len(met) if len(met) not in met else max(met) + 1)
        if not reason and index in met:
            reason = f"index: sample {index} of problem {name!r} stands twice"
        if reason:
            return Damaged(sample.place, str(row["id"]) if row.get("id") is not None else None, reason)
        met.add(index)
        self.counts["samples"] += 1
        self.counts["judged" if judged else "with_verdict" if _told(sample) else "without_verdict"] += 1
        self._put(sample, name, index, row, judged)
        return None

    def judge(self) -> None:
        """Judges what waits."""
        for waiting, store in ((self._waiting, self.store.append), (self._again, self._keep_again)):
            answers = [answer for _, answer in waiting]
            judgements = self.scorer(answers) if answers else []
            for (stored, _), judgement in zip(waiting, judgements, strict=True):
                ended = stored["finish_reason"] != "length"
                store({**stored, **verdict_fields(judgement, ended, self.version)})
        self._waiting, self._again = [], []

    def settle(self) -> None:
        """Writes the problems, and the verdicts of samples that an older grader had judged."""
        self.store.write_problems(
            [
                {
                    **{key: value for key, value in problem.items() if not isinstance(value, np.ndarray)},
                    "id": name,
                    "prompt_hash": _hash(self._asked[name]),
                }
                for name, problem in self.problems.items()
            ]
        )
        if self._judged_again:
            self.store.judged_again(self._judged_again, {"name": CURRENT, "grader": self.version})
        self.store.finish()

    def make_prompts(self, tokenizer: Any) -> None:
        """Token ids of the prompts that have none."""
        for name, problem in self.problems.items():
            if problem["prompt_ids"] is None:
                problem["prompt_ids"] = ids_array(prompt_ids(tokenizer, self._asked[name]))

    def _problem(self, name: str, row: Mapping[str, Any], sample: Logged) -> str:
        """Notes a problem; why the sample is not one of its own, if so."""
        answer = None if row.get("answer") is None else str(row["answer"])
        ids = sample.values.get("prompt_ids")
        known = self.problems.get(name)
        if known is None:
            messages = as_messages(row, self.system_prompt, self.template)
            self._asked[name] = messages
            self.problems[name] = {
                "problem_id": name,
                "problem": row.get("problem") or str(messages[-1]["content"]),
                "answer": answer,
                "prompt": conversation(row, messages),
                "prompt_ids": None if ids is None else ids_array(ids),
            }
            return ""
        if known["answer"] != answer:
            return f"answer: is {answer!r}, and another sample of problem {name!r} has {known['answer']!r}"
        if ids is not None and known["prompt_ids"] is not None and ids != known["prompt_ids"].tolist():
            return f"prompt_ids: differ from those of another sample of problem {name!r}"
        if ids is not None and known["prompt_ids"] is None:
            known["prompt_ids"] = ids_array(ids)
        return ""

    def _put(self, sample: Logged, name: str, index: int, row: Mapping[str, Any], judged: bool) -> None:
        key: Key = (name, "sample", index)
        known = self.there.get(key)
        stale = known is not None and known["grader"] not in (None, self.version)
        if known is not None and not stale:
            return
        values = sample.values
        source = {} if row.get("id") is None else {"source_id": str(row["id"])}
        stored = {
            "id": name,
            "metric": "sample",
            "index": index,
            "prompt_hash": _hash(self._asked[name]),
            "seed": values.get("seed", ""),
            "text": sample.text,
            "finish_reason": values.get("finish_reason", "unknown"),
            "length": values.get("length", len(values[IDS]) if IDS in values else None),
            IDS: packed(IDS, values.get(IDS)),
            LOGPROBS: packed(LOGPROBS, values.get(LOGPROBS)),
            "columns": {**source, **sample.columns},
        }
        if not judged:
            self.store.append({**stored, **_given(values)})
            return
        answer = Answer(
            {**sample.columns, **row, "id": name},
            self._asked[name],
            sample.text,
            tuple(values.get(IDS, ())),
            stored["finish_reason"],
        )
        self.begin(answer)
        (self._again if stale else self._waiting).append((stored, answer))
        if len(self._waiting) + len(self._again) >= JUDGE_SAMPLES:
            self.judge()

    def _keep_again(self, stored: dict[str, Any]) -> None:
        self._judged_again[stored["id"], "sample", stored["index"]] = stored


def _told(sample: Logged) -> bool:
    return "correct" in sample.values or "reward" in sample.values


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a verdict, as the log has it."""
    reward = values.get("reward")
    right = values.get("correct", None if reward is None else reward >= 1)
    score = reward if reward is not None else None if right is None else float(right)
    verdict = "unscored" if right is None else "correct" if right else "wrong"
    return verdict_fields(Judgement(right, score, verdict, None, "as the log has it"), True, None)


def _hash(messages: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(messages, sort_keys=True, default=str).encode()).hexdigest()
