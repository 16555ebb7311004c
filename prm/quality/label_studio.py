"""Label Studio: solutions as its tasks, people's annotations back as label records. Pure functions.

The forms are those of its documentation ("Label Studio Task Format"): a task is `{"data": …, "predictions": […]}`, an
export repeats it with `annotations`, each with `completed_by` and a `result` per control. JSON-MIN exports, where the
controls are columns of one flat row an annotation, are read too. Controls are named by the labelling configuration
`label_studio.xml` beside this file: `label_<k>` (right, wrong or unsure) and `why_<k>` for step k, counted from 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from reasonrl.errors import DataError
from reasonrl.prm.labels import Label
from reasonrl.prm.quality.sources import Labelled
from reasonrl.prm.steps import spans_of, steps_from_pieces, steps_from_spans, steps_text

CHOICES: dict[Label, str] = {1: "right", 0: "wrong", None: "unsure"}
_LABELS: dict[str, Label] = {word: label for label, word in CHOICES.items()}
_SHOWN = ("problem", "answer", "correct", "problem_id")


def labelling_config() -> str:
    """The XML for a project's labelling interface."""
    return files("reasonrl.prm.quality").joinpath("label_studio.xml").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Marks:
    """One person's labels of one task.

    Attributes:
        annotator: who, as the export says: an e-mail address or a number.
        labels: [K]; None is unsure or not labelled.
        reasons: [K] what was written; empty strings where nothing was.
        date: of the annotation, as the export writes it; empty if it does not.
        record: the task's solution as a record (id, problem, answer, text, steps, correct).
    """

    annotator: str
    labels: tuple[Label, ...]
    reasons: tuple[str, ...]
    date: str
    record: Mapping[str, Any]


def task_of(solution: Labelled, *, blind: bool = False) -> dict[str, Any]:
    """A solution as a task.

    Args:
        solution: with its labels, all None where it has none.
        blind: leave out the labels, reasons and notes that it has.
    """
    record = solution.record
    parts = steps_text(record["text"], steps_from_spans(record["steps"]))
    notes = notes_of(solution) if not blind else [""] * len(parts)
    answer, verdict = record.get("answer"), {True: "right", False: "wrong"}.get(record.get("correct"))  # type: ignore[arg-type]
    reference = "reference answer: " + ("not known" if answer is None else str(answer))
    data = {
        "solution_id": solution.id,  # JSON-MIN exports put the task's own number over a column `id`
        **{name: record[name] for name in _SHOWN if record.get(name) is not None},
        "problem": str(record.get("problem") or ""),
        "reference": reference + (f"; the final answer is {verdict}" if verdict else ""),
        "steps": [
            {"head": f"step {place} of {len(parts)}", "text": part, "shown": part.strip("\n"), "note": note}
            for place, (part, note) in enumerate(zip(parts, notes, strict=True), start=1)
        ],
        "mark": solution.mark(),
    }
    given = [(place, label) for place, label in enumerate(solution.labels) if label is not None]
    if blind or not given:
        return {"data": data}
    result = [
        {
            "id": f"label_{place}",
            "from_name": f"label_{place}",
            "to_name": f"step_{place}",
            "type": "choices",
            "value": {"choices": [CHOICES[label]]},
        }
        for place, label in given
    ]
    return {"data": data, "predictions": [{"model_version": _made_by(record), "result": result}]}


def notes_of(solution: Labelled) -> list[str]:
    """[K] what is shown beside each step: a record's `notes`, or else what its judge said of it."""
    record = solution.record
    notes = record.get("notes")
    if isinstance(notes, Sequence) and not isinstance(notes, str) and len(notes) == len(solution.labels):
        return [str(note or "") for note in notes]
    reasons = record.get("reasons")
    if not isinstance(reasons, Sequence) or isinstance(reasons, str) or len(reasons) != len(solution.labels):
        return [""] * len(solution.labels)
    return [str(reason or "") for reason in reasons]


def _made_by(record: Mapping[str, Any]) -> str:
    source = record.get("source")
    judge = source.get("judge") if isinstance(source, Mapping) else None
    return " and ".join(map(str, judge)) if isinstance(judge, list) else str(judge or "labels")


def marks_in(exported: Mapping[str, Any]) -> Iterator[Marks]:
    """The annotations of one task of an export; those that were skipped (`was_cancelled`) are left out.

    Raises:
        DataError: it is no task of ours, or its texts were changed.
    """
    if isinstance(exported.get("data"), Mapping):
        record = _record_of(exported["data"])
        for annotation in exported.get("annotations") or ():
            if not annotation.get("was_cancelled"):
                yield _marks(annotation, _controls(annotation.get("result") or ()), record)
        return
    record = _record_of(exported)  # JSON-MIN: one annotation, its controls beside the task's data
    yield _marks(exported, {name: _first(value) for name, value in exported.items()}, record)


def _record_of(data: Mapping[str, Any]) -> dict[str, Any]:
    steps, mark = data.get("steps"), data.get("mark")
    if isinstance(steps, str):  # some exports hold nested data as text
        steps = json.loads(steps)
    whole = isinstance(steps, list) and all(isinstance(step, Mapping) and step.get("text") for step in steps)
    if not steps or not whole or mark is None or data.get("solution_id") is None:
        raise DataError("not a task that reasonrl labels export has written")
    parts = [str(step["text"]) for step in steps]
    spans = spans_of(steps_from_pieces(parts))
    record = {"id": str(data["solution_id"]), **{name: data[name] for name in _SHOWN if name in data}}
    record |= {"text": "".join(parts), "steps": spans}
    if Labelled(record["id"], (), {}, record).mark() != mark:
        raise DataError("the task's texts are not those that were exported")
    return record


def _controls(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for result in results:
        value = result.get("value") or {}
        found[str(result.get("from_name"))] = _first(value.get("choices") or value.get("text"))
    return found


def _first(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "\n".join(str(one) for one in value)
    return "" if value is None else str(value)


def _marks(annotation: Mapping[str, Any], controls: Mapping[str, str], record: Mapping[str, Any]) -> Marks:
    who = annotation.get("completed_by", annotation.get("annotator"))
    if isinstance(who, Mapping):
        who = who.get("email") or who.get("username") or who.get("id")
    count = len(record["steps"])
    words = [controls.get(f"label_{place}", "") for place in range(count)]
    if unknown := [word for word in words if word and word not in _LABELS]:
        raise DataError(f"a label is {unknown[0]!r}, none of {', '.join(_LABELS)}")
    return Marks(
        "unknown" if who is None else str(who),
        tuple(_LABELS[word] if word else None for word in words),
        tuple(controls.get(f"why_{place}", "") for place in range(count)),
        str(annotation.get("updated_at") or annotation.get("created_at") or ""),
        record,
    )
