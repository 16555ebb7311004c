"""Logged samples as a policy is trained on them: read row by row, checked, and held as arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy

from reasonrl.algorithms.bcpg import LoggedMethod, logged_advantages
from reasonrl.data_tools.files import BadRow, PlacedRow
from reasonrl.errors import DataError
from reasonrl.prm.mining import Mined, mined_tokens, step_labels_of_tokens
from reasonrl.prm.steps import partition_fault, steps_from_spans
from reasonrl.prm.token_steps import steps_of_tokens, token_spans

Array = numpy.ndarray
Labels = Sequence[int | None]
#: Says a row's labels in the place of its own.
Oracle = Callable[[Mapping[str, Any]], Labels]

#: Log-probabilities may exceed zero by rounding.
ROUNDING = 1e-3


@dataclass(frozen=True)
class LoggedSample:
    """One response to train on.

    Attributes:
        id: of its row.
        group: what it answers.
        prompt_ids, completion_ids: (P,), (T,) token ids.
        reward: its outcome.
        wrong: whether its final answer is.
        truncated: whether it was cut off.
        labels: (T,) int8 of a wrong answer's tokens: 1 and 0 by their step, -1 where there is no label; None without
            labels.
        mined: (T,) bool, the tokens weighted by beta; None for none.
    """

    id: str
    group: str
    prompt_ids: Array
    completion_ids: Array
    reward: float
    wrong: bool
    truncated: bool
    labels: Array | None = None
    mined: Array | None = None

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True)
class Reading:
    """How rows are read.

    Attributes:
        mined: which tokens of wrong answers are weighted (`reasonrl.prm.mining`).
        damaged: `refuse` raises at the first row with a fault, `set_aside` counts it.
        logprobs: whether every row must hold the sampler's log-probabilities: `required` or `optional`.
        truncated: `keep` trains on cut-off responses, all tokens of which then weigh 1; `leave_out` does not.
        max_length: longest prompt and response together; longer ones are set aside, for a part of a response has
            another log-ratio. None keeps all.
        seed: of what is random.
        vocabulary: ids below it are known to the model.
        oracle: gives the labels for `mined = oracle`.
    """

    mined: Mined = "labels"
    damaged: Literal["refuse", "set_aside"] = "refuse"
    logprobs: Literal["required", "optional"] = "required"
    truncated: Literal["keep", "leave_out"] = "keep"
    max_length: int | None = None
    seed: int = 0
    vocabulary: int | None = None
    oracle: Oracle | None = None


@dataclass
class LoggedData:
    """What was read.

    Attributes:
        samples: to train on.
        advantages: of each.
        set_aside: rows with a fault, by fault.
        first_fault: of them in words.
        counts: what else there is to know: prompts, wrong answers, tokens, …
    """

    samples: list[LoggedSample] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    set_aside: Counter[str] = field(default_factory=Counter)
    first_fault: str | None = None
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def mean_length(self) -> float | None:
        """Mean tokens of a wrong answer, or of all where none is wrong; None without samples."""
        lengths = [len(one.completion_ids) for one in self.samples if one.wrong]
        lengths = lengths or [len(one.completion_ids) for one in self.samples]
        return sum(lengths) / len(lengths) if lengths else None

    @property
    def mined_share(self) -> float:
        """Share of the wrong answers' tokens that are weighted by beta."""
        wrong = [one for one in self.samples if one.wrong]
        tokens = sum(len(one.completion_ids) for one in wrong)
        return sum(int(one.mined.sum()) for one in wrong if one.mined is not None) / tokens if tokens else 0.0

    @property
    def report(self) -> str:
        """One line for the user."""
        c = self.counts
        text = (
            f"{len(self.samples):,} samples of {c['prompts']:,} problems, {c['samples_wrong']:,} wrong,"
            f" {c['tokens']:,} tokens; {100 * self.mined_share:.1f} % of the wrong answers' tokens are weighted"
        )
        for name, words in _REPORTED.items():
            if c[name]:
                text += f"; {c[name]:,} {words}"
        if self.set_aside:
            text += f"; {sum(self.set_aside.values()):,} rows set aside, the first: {self.first_fault}"
        return text


_REPORTED = {
    "samples_truncated": "cut off",
    "wrong_unlabelled": "wrong answers without labels (their tokens weigh 1)",
    "steps_unlabelled": "steps of wrong answers without a label (their tokens weigh 1)",
    "prompts_alike": "problems whose answers all earned the same (nothing to learn from but the constraint)",
    "left_out_truncated": "cut-off samples left out",
    "left_out_long": "samples left out, longer than max_length",
    "logprobs_missing": "without the sampler's log-probabilities",
}


def read_logged(
    rows: Iterable[PlacedRow],
    tokenizer: Any,
    method: LoggedMethod,
    reading: Reading,
    *,
    positive_weight: float = 0.1,
) -> LoggedData:
    """Read and check sample rows, with or without step labels.

    A row has `id`, `problem_id` (or `problem`), `prompt_ids`, `completion_ids`, `logprobs_sampled`, `correct`,
    `finish_reason`, and may have `reward`, `length`; wrong answers `text`, `steps` and `labels`. A group's mean takes
    in every row whose reward is known, also those that are not trained on.

    Raises:
        DataError: a row with a fault (unless they are set aside), no row that can be used, or no labelled wrong answer
            where labels are asked for.
    """
    data = LoggedData()
    rewards: list[float] = []
    groups: list[str] = []
    kept: list[int] = []
    seen: set[str] = set()
    for place, row in rows:
        data.counts["rows"] += 1
        try:
            if isinstance(row, BadRow):
                raise DataError(f"{place}: {row.reason}")
            if (own := str(row.get("id", place))) in seen:
                raise DataError(f"{place}: the id {own!r} stands on a row before -> give every sample its own")
            seen.add(own)
            known = _outcome(row, place)
            rewards.append(known[1])
            groups.append(known[0])
            sample = _sample(row, place, known, tokenizer, reading, data.counts)
        except DataError as error:
            if reading.damaged == "refuse":
                raise DataError(f"{error}; damaged: set_aside leaves such rows out and counts them") from error
            data.set_aside[_kind(str(error))] += 1
            data.first_fault = data.first_fault or str(error)
            continue
        if sample is not None:
            kept.append(len(rewards) - 1)
            data.samples.append(sample)
    if not data.samples:
        raise DataError(f"bcpg: none of {data.counts['rows']} rows can be used; the first: {data.first_fault}")
    advantages = logged_advantages(rewards, groups, method, positive_weight=positive_weight)
    data.advantages = [advantages[place] for place in kept]
    _count(data, rewards, groups)
    if reading.mined != "none" and data.counts["wrong_unlabelled"] and not data.counts["wrong_labelled"]:
        raise DataError(
            f"bcpg: mined: {reading.mined}, but none of {data.counts['samples_wrong']} wrong answers has step labels ->"
            " data of an annotate stage, or mined: none"
        )
    return data


def _count(data: LoggedData, rewards: Sequence[float], groups: Sequence[str]) -> None:
    by_group: dict[str, set[float]] = {}
    for group, reward in zip(groups, rewards, strict=True):
        by_group.setdefault(group, set()).add(reward)
    used = {sample.group for sample in data.samples}
    data.counts["prompts"] = len(used)
    data.counts["prompts_alike"] = sum(len(by_group[group]) == 1 for group in used)
    data.counts["samples"] = len(data.samples)
    for one in data.samples:
        data.counts["tokens"] += len(one.completion_ids)
        data.counts["samples_wrong"] += one.wrong
        data.counts["samples_truncated"] += one.truncated


def _outcome(row: Mapping[str, Any], place: str) -> tuple[str, float, bool]:
    """Group, reward and whether the answer is right; raises DataError where they are not known."""
    name = _name(row, place)
    group = row.get("problem_id")
    group = row.get("problem") if group is None else group
    if group is None:
        raise DataError(f"{name}: it has neither problem_id nor problem -> say which samples answer the same problem")
    correct = row.get("correct")
    if not isinstance(correct, (bool, numpy.bool_)):
        raise DataError(f"{name}: correct is {correct!r}, so its verdict is unknown -> true or false")
    reward = row.get("reward")
    if reward is None:
        reward = float(correct)
    if isinstance(reward, bool) or not isinstance(reward, (int, float)) or not numpy.isfinite(reward):
        raise DataError(f"{name}: reward is {reward!r} -> a finite number, or null for 1 and 0 by correct")
    if not correct and row.get("finish_reason") == "length":
        # What was cut off has not answered, whatever a reward found in it.
        reward = min(float(reward), 0.0)
    return str(group), float(reward), bool(correct)


def _sample(
    row: Mapping[str, Any],
    place: str,
    outcome: tuple[str, float, bool],
    tokenizer: Any,
    reading: Reading,
    counts: Counter[str],
) -> LoggedSample | None:
    """None: not trained on, and counted."""
    name = _name(row, place)
    if row.get("images"):
        raise DataError(f"{name}: it has images, which logged samples are not trained on yet -> leave it out")
    prompt = _ids(row, "prompt_ids", name, reading.vocabulary)
    completion = _ids(row, "completion_ids", name, reading.vocabulary)
    if row.get("length") is not None and row["length"] != len(completion):
        raise DataError(f"{name}: length is {row['length']}, but completion_ids has {len(completion)}")
    counts["logprobs_missing"] += not _logprobs(row, len(completion), name, reading)
    truncated = row.get("finish_reason") == "length"
    wrong = not outcome[2]
    labels = mined = None
    if wrong and not truncated and reading.mined != "none":
        labels, mined = _labels(row, completion, name, tokenizer, reading, counts)
    if truncated and reading.truncated == "leave_out":
        counts["left_out_truncated"] += 1
        return None
    if reading.max_length is not None and len(prompt) + len(completion) > reading.max_length:
        counts["left_out_long"] += 1
        return None
    counts["wrong_labelled"] += labels is not None
    counts["wrong_unlabelled"] += wrong and not truncated and labels is None
    return LoggedSample(
        str(row.get("id", place)), outcome[0], prompt, completion, outcome[1], wrong, truncated, labels, mined
    )


def _ids(row: Mapping[str, Any], key: str, name: str, vocabulary: int | None) -> Array:
    given = row.get(key)
    try:
        ids = numpy.asarray([] if given is None else given)
    except ValueError:
        ids = numpy.empty(0)
    if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu":
        raise DataError(f"{name}: {key} is {str(given)[:60]} -> the token ids that were sampled, at least one")
    if ids.min() < 0 or (vocabulary is not None and ids.max() >= vocabulary):
        odd = int(ids.min() if ids.min() < 0 else ids.max())
        raise DataError(f"{name}: {key} holds {odd}, which the model does not know -> use the sampler's tokenizer")
    return ids.astype(numpy.int32)


def _logprobs(row: Mapping[str, Any], tokens: int, name: str, reading: Reading) -> bool:
    """Whether the row has them; raises DataError for bad ones, and for none where they are required."""
    given = row.get("logprobs_sampled")
    if given is None:
        if reading.logprobs == "required":
            raise DataError(f"{name}: it has no logprobs_sampled -> sample again, or logprobs: optional")
        return False
    if len(given) != tokens:
        raise DataError(f"{name}: logprobs_sampled has {len(given)} numbers for {tokens} tokens")
    try:
        values = numpy.asarray(given, dtype=numpy.float64)
    except (TypeError, ValueError):
        values = numpy.array([numpy.nan])
    bad = ~numpy.isfinite(values) | (values > ROUNDING)
    if bad.any():
        at = int(bad.argmax())
        raise DataError(f"{name}: logprobs_sampled[{at}] is {given[at]!r}, which is no log-probability")
    return True


def _labels(
    row: Mapping[str, Any], ids: Array, name: str, tokenizer: Any, reading: Reading, counts: Counter[str]
) -> tuple[Array | None, Array | None]:
    """(T,) labels of a wrong answer's tokens and those that are mined; both None where it has no labels."""
    spans, text = row.get("steps"), row.get("text")
    if spans is None:
        return None, None
    if not isinstance(text, str):
        raise DataError(f"{name}: text is {text!r}, but it has steps of it")
    try:
        steps = steps_from_spans(spans)
        fault = partition_fault(text, steps)
        labels = row.get("labels") if reading.oracle is None else reading.oracle(row)
        found = steps_of_tokens(steps, token_spans(tokenizer, ids.tolist(), text))
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    if fault is not None:
        raise DataError(f"{name}: {fault}, so its steps do not partition the text -> segment it again")
    if labels is None:
        return None, None
    if len(labels) != len(steps) or any(label not in (0, 1, None) for label in labels):
        raise DataError(f"{name}: labels are {str(labels)[:60]} for {len(steps)} steps -> one of 1, 0, null for each")
    counts["steps_unlabelled"] += sum(label is None for label in labels)
    of_token = numpy.array([-1 if step is None else step for step in found], dtype=numpy.int32)
    mined = mined_tokens(reading.mined, of_token, labels, seed=f"{reading.seed}/{row.get('id')}")
    return step_labels_of_tokens(of_token, labels), mined


def _name(row: Mapping[str, Any], place: str) -> str:
    return f"{place} (id {row['id']!r})" if row.get("id") is not None else place


def _kind(message: str) -> str:
    """A message without the row it names, so that like faults are counted together."""
    return message.split(": ", 1)[-1].split(" -> ")[0].split(" is ")[0]
