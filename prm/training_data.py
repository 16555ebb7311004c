"""Label records as what a process reward model is trained on or measured by; what cannot be used is set aside and
counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reasonrl.data_tools.prompts import as_messages
from reasonrl.errors import DataError
from reasonrl.prm.encoding import Encoded, Encoder, Messages
from reasonrl.prm.labels import first_error_labels, first_error_zero, last_only, validate

LABEL_RULES = ("all", "first_error", "first_error_zero", "last_only")

Targets = tuple[float | None, ...]


@dataclass(frozen=True)
class PreparedSolutions:
    """Encoded solutions and their targets, index by index.

    Attributes:
        encoded: the solutions.
        targets: of every step, a probability or None.
        cut: solutions longer than `max_length`, which were cut there.
        steps_cut: steps that ended beyond it.
        set_aside: records that could not be used, by reason.
        first_fault: the first of them in words; None if there is none.
    """

    encoded: list[Encoded]
    targets: list[Targets]
    cut: int
    steps_cut: int
    set_aside: Counter[str]
    first_fault: str | None

    @property
    def counts(self) -> dict[str, int]:
        """For the result of a stage."""
        known = [y for row in self.targets for y in row if y is not None]
        return {
            "solutions": len(self.encoded),
            "labels": len(known),
            "labels_right": sum(y >= 0.5 for y in known),
            "solutions_cut": self.cut,
            "steps_cut": self.steps_cut,
            "solutions_set_aside": sum(self.set_aside.values()),
        }

    @property
    def report(self) -> str:
        """One line for the user."""
        counts = self.counts
        share = f"{100 * counts['labels_right'] / counts['labels']:.1f} % right" if counts["labels"] else "none"
        text = (
            f"{counts['solutions']} solutions, {counts['labels']} step labels ({share}), {self.cut} solutions cut with"
            f" {self.steps_cut} steps beyond"
        )
        if not self.set_aside:
            return text
        return f"{text}; {counts['solutions_set_aside']} set aside, the first: {self.first_fault}"


def targets_of(record: Mapping[str, Any], labels: str = "hard", label_rule: str = "all") -> Targets:
    """What is trained on of a record's labels: `hard` its `labels`, `soft` its `soft`, by one of `LABEL_RULES`.

    Raises:
        DataError: an unknown name, a record without such labels, or a rule that soft labels do not have.
    """
    if labels not in ("hard", "soft") or label_rule not in LABEL_RULES:
        raise DataError(
            f"prm: labels = {labels!r}, label_rule = {label_rule!r}, allowed are hard, soft; {', '.join(LABEL_RULES)}"
        )
    name = "labels" if labels == "hard" else "soft"
    given = record.get(name)
    if not isinstance(given, (list, tuple)):
        raise DataError(f"solution {record.get('id', '?')}: it has no {name} -> annotate it, or use labels: the other")
    if label_rule == "all":
        return tuple(given)
    if label_rule == "last_only":
        return tuple(last_only(given))
    if labels == "soft":
        raise DataError(f"prm: label_rule = {label_rule!r}, but soft labels have no first error -> label_rule: all")
    return tuple(first_error_labels(given) if label_rule == "first_error" else first_error_zero(given))


def prepare_solutions(
    records: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    max_length: int | None = None,
    labels: str = "hard",
    label_rule: str = "all",
    messages: Messages = as_messages,
) -> PreparedSolutions:
    """Encode label records, whose `text` may also stand in `solution`.

    Records with a fault (`reasonrl.prm.labels.validate`), without steps or without the wanted labels are set aside.

    Raises:
        DataError: none can be used; the first fault is named.
    """
    encoder = Encoder(tokenizer, max_length, messages)
    encoded: list[Encoded] = []
    targets: list[Targets] = []
    aside: Counter[str] = Counter()
    first: str | None = None
    for record in records:
        if record.get("text") is None:
            record = {**record, "text": record.get("solution")}
        try:
            wanted = targets_of(record, labels, label_rule)
            one = encoder(record)
            # A soft label set may come without hard ones; then there is only its length to look at.
            hard = record["labels"] if record.get("labels") is not None else [None] * len(wanted)
            faults = validate({**record, "labels": hard})
            if faults:
                raise DataError(f"solution {record.get('id', '?')}: {faults[0]}")
        except DataError as error:
            aside[_kind(str(error))] += 1
            first = first or str(error)
            continue
        encoded.append(one)
        targets.append(wanted)
    if not encoded:
        raise DataError(f"prm: no solution can be used; the first: {first or 'there are none'}")
    beyond = sum(end is None for one in encoded for end in one.ends)
    return PreparedSolutions(encoded, targets, sum(one.cut for one in encoded), beyond, aside, first)


def _kind(message: str) -> str:
    """A message without the record it names, so that like faults are counted together."""
    return message.split(": ", 1)[-1].split(" -> ")[0]
