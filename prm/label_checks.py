"""What is wrong with a record of labels: the faults that judges make, in words that can be given back to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reasonrl.errors import DataError
from reasonrl.prm.steps import partition_fault, steps_from_spans

KINDS = ("right", "error", "propagation", "cessation")
"""What a step does: nothing wrong, an error of its own, building on an open error, ending the last open error."""

LABEL_OF_KIND = {"right": 1, "error": 0, "propagation": 0, "cessation": 1}


def validate(record: Mapping[str, Any]) -> list[str]:
    """Every fault of a label record; an empty list if there is none.

    Looked at are: the steps partition the text; `labels` (0, 1 or null), `soft` (0 to 1 or null), `reasons` and `kinds`
    have one entry a step; the last step's label is the verdict `correct`; and where `kinds` are given (one of `KINDS`
    or null a step), each fits its label and the errors that stand open: no cessation and no propagation without an
    open error, no step that is plainly right while one is open.

    Steps are numbered from 1 in the messages, as judges see them.
    """
    return [*_faults(record)]


def _faults(record: Mapping[str, Any]) -> Iterator[str]:
    labels = record.get("labels")
    if not isinstance(labels, Sequence) or isinstance(labels, str):
        yield f"labels is {labels!r}, but must be a list with 0, 1 or null for every step"
        return
    steps = record.get("steps")
    count = len(labels)
    if isinstance(steps, Sequence) and not isinstance(steps, str):
        count = len(steps)
        yield from _steps_faults(record.get("text"), steps)
    elif steps is not None:
        yield f"steps is {steps!r}, but must be a list of [start, end]"
    for name in ("labels", "soft", "reasons", "kinds"):
        column = record.get(name)
        if column is None and name != "labels":
            continue
        if not isinstance(column, Sequence) or isinstance(column, str):
            yield f"{name} is {column!r}, but must be a list with one entry a step"
        else:
            if len(column) != count:
                yield f"{name} has {len(column)} entries, but the solution has {count} steps"
            yield from _column_faults(name, column)
    yield from _verdict_faults(record, labels, count)
    kinds = record.get("kinds")
    if isinstance(kinds, Sequence) and not isinstance(kinds, str) and len(kinds) == len(labels):
        yield from _kinds_faults(labels, kinds, record.get("correct"))


def sequence_faults(labels: Sequence[Any], kinds: Sequence[Any], correct: bool | None) -> Iterator[str]:
    """The part of `validate` about what follows what: the last label against the verdict, each kind against its label
    and the errors that stand open.

    Args:
        labels: [K] 0, 1 or None.
        kinds: [K] of `KINDS` or None; empty if there are none.
        correct: the final answer; None where nobody has checked.
    """
    yield from _verdict_faults({"correct": correct}, labels, len(labels))
    if kinds:
        yield from _kinds_faults(labels, kinds, correct)


def _steps_faults(text: Any, steps: Sequence[Any]) -> Iterator[str]:
    try:
        spans = steps_from_spans(steps)
    except DataError as error:
        yield str(error)
        return
    if not isinstance(text, str):
        yield f"text is {text!r}, but must be the solution whose steps these are"
        return
    fault = partition_fault(text, spans)
    if fault:
        yield f"steps: {fault}"


def _column_faults(name: str, column: Sequence[Any]) -> Iterator[str]:
    for k, value in enumerate(column):
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name == "labels" and not (number and value in (0, 1)):
            yield f"step {k + 1}: the label is {value!r}, allowed are 0, 1 and null"
        elif name == "soft" and not (number and 0 <= value <= 1):
            yield f"step {k + 1}: the soft label is {value!r}, allowed are 0 to 1 and null"
        elif name == "reasons" and not isinstance(value, str):
            yield f"step {k + 1}: the reason is {value!r}, but must be text"
        elif name == "kinds" and value not in KINDS:
            yield f"step {k + 1}: the kind is {value!r}, allowed are {', '.join(KINDS)}"


def _verdict_faults(record: Mapping[str, Any], labels: Sequence[Any], count: int) -> Iterator[str]:
    verdict = record.get("correct")
    if verdict is None or not labels or len(labels) != count or labels[-1] is None:
        return
    if labels[-1] in (0, 1) and int(labels[-1]) != int(bool(verdict)):
        yield (
            f"step {count} is the last and labelled {labels[-1]}, but the final answer is"
            f" {'right, so it must be 1' if verdict else 'wrong, so it must be 0'}"
        )


def _kinds_faults(labels: Sequence[Any], kinds: Sequence[Any], verdict: Any) -> Iterator[str]:
    """Kinds against labels and against the errors that they leave open. The last step follows the final answer where
    there is a verdict on it, so it is held to its label only.
    """
    opened: int | None = None
    for k, (label, kind) in enumerate(zip(labels, kinds, strict=True)):
        if kind not in LABEL_OF_KIND:
            continue
        if label is not None and label != LABEL_OF_KIND[kind]:
            yield f"step {k + 1} is labelled {label}, but its kind {kind!r} makes it {LABEL_OF_KIND[kind]}"
        if k == len(kinds) - 1 and verdict is not None:
            return
        if opened is None and kind in ("cessation", "propagation"):
            yield f"step {k + 1} is a {kind}, but no error is open before it"
        if opened is not None and kind == "right":
            yield (
                f"step {k + 1} is called right, but the error of step {opened + 1} is open: it either repairs it"
                " (cessation) or builds on it (propagation)"
            )
        if kind == "cessation":
            opened = None
        elif LABEL_OF_KIND[kind] == 0 and opened is None:
            opened = k
