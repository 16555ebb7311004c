"""From rows to questions: the prompt of each problem, what tells two of them apart, and what is written of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasonrl.errors import DataError, RunError

_NAMED = ("problem", "level", "subject", "group")
_ELSEWHERE = ("id", "answer", "prompt", "image", "images", "columns", *_NAMED)


@dataclass(frozen=True)
class Question:
    """One problem as it is asked.

    Attributes:
        row: as it was read.
        messages: the conversation; with pictures, in parts with a place for each.
        text: the rendered prompt; of an endpoint, which renders by itself, the conversation as text.
        ids: the prompt's token ids; none for an endpoint.
        hash: SHA-256 of what the model is given: token ids or messages, and pictures.
        images: PIL images in the order of their places.
    """

    row: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    text: str
    ids: tuple[int, ...]
    hash: str
    images: tuple[Any, ...] = ()

    def record(self) -> dict[str, Any]:
        """The problem's line in `problems.jsonl`."""
        row = self.row
        answer = row.get("answer")
        others = {
            name: value
            for name, value in row.items()
            if name not in _ELSEWHERE and isinstance(value, (str, int, float, bool)) and _finite(value)
        }
        return {
            "id": str(row["id"]),
            "prompt": self.text,
            "prompt_hash": self.hash,
            "answer": answer if answer is None or isinstance(answer, str) else str(answer),
            "images": len(self.images),
            **{name: _plain(row[name]) for name in _NAMED if row.get(name) is not None},
            "columns": others,
        }


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or value - value == 0


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool)) and _finite(value) else str(value)


def prepare(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]], system_prompt: str | None = None, template: str | None = None
) -> dict[str, Question]:
    """Questions by id, in order.

    Args:
        tokenizer: renders and tokenises; of a vision-language model its processor; None for an endpoint, which is
            given the conversation.
        rows: problems with `id`, `problem` or `prompt`.
        system_prompt, template: how a row becomes a conversation.

    Raises:
        DataError: an id occurs twice, or a row has pictures and the model reads text only.
    """
    from reasonrl.data_tools import as_messages

    questions: dict[str, Question] = {}
    for row in rows:
        key = str(row["id"])
        if key in questions:
            raise DataError(f"the id {key!r} occurs twice; every problem needs its own -> remove or rename one")
        messages = as_messages(dict(row), system_prompt=system_prompt, template=template)
        if tokenizer is None:
            questions[key] = _for_endpoint(row, messages)
        elif hasattr(tokenizer, "image_processor"):
            questions[key] = _pictured(tokenizer, row, messages)
        else:
            questions[key] = _plain_text(tokenizer, row, messages)
    return questions


def _plain_text(tokenizer: Any, row: Mapping[str, Any], messages: list[dict[str, Any]]) -> Question:
    from reasonrl.data_tools import prompt_ids, render_prompt
    from reasonrl.data_tools.pictures import pictures_of

    if pictures_of(row):
        raise DataError(
            f"row {row['id']}: it has {len(pictures_of(row))} pictures, and the model reads text only -> evaluate a"
            " vision-language model, or drop the column"
        )
    ids = tuple(prompt_ids(tokenizer, messages))
    return Question(row, messages, render_prompt(tokenizer, messages), ids, _hash(ids))


def _pictured(processor: Any, row: Mapping[str, Any], messages: list[dict[str, Any]]) -> Question:
    """A problem for a model that reads images, with pictures or without."""
    from reasonrl.rollout.picture_prompts import PicturePrompts

    prompts, asked = PicturePrompts(processor), {**row, "prompt": messages}
    prompt = prompts.prompt(asked)
    return Question(
        row, messages, prompts.text(asked), prompt.ids, _hash(prompt.ids, prompt.images), tuple(prompt.images)
    )


def _for_endpoint(row: Mapping[str, Any], messages: list[dict[str, Any]]) -> Question:
    from reasonrl.data_tools.pictures import open_picture, pictures_of, with_pictures

    pictures = pictures_of(row)
    images: tuple[Any, ...] = ()
    if pictures:
        messages, pictures = with_pictures(messages, pictures, str(row["id"]))
        images = tuple(open_picture(picture, str(row["id"])) for picture in pictures)
    return Question(row, messages, conversation_text(messages), (), _hash(messages, images), images)


def conversation_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation to read: `role: content`, a picture as `<image>`; one turn of the user without its role."""

    def content(message: Mapping[str, Any]) -> str:
        found = message["content"]
        if isinstance(found, str):
            return found
        return "".join(str(part.get("text", "")) if part.get("type") == "text" else "<image>" for part in found)

    if len(messages) == 1 and messages[0]["role"] == "user":
        return content(messages[0])
    return "\n\n".join(f"{message['role']}: {content(message)}" for message in messages)


def _hash(asked: Any, images: Sequence[Any] = ()) -> str:
    from reasonrl.rollout.images import image_digest

    digest = hashlib.sha256(json.dumps(asked, sort_keys=not isinstance(asked, tuple)).encode())
    for image in images:
        digest.update(image_digest(image))
    return digest.hexdigest()


def suite_hash(questions: Mapping[str, Question]) -> str:
    """SHA-256 over ids and prompts in order."""
    return hashlib.sha256(json.dumps([[key, asked.hash] for key, asked in questions.items()]).encode()).hexdigest()


def require_same_prompts(questions: Mapping[str, Question], stored: Mapping[str, str], directory: Any) -> None:
    """Refuse to mix samples of other prompts.

    Args:
        questions: as they are asked now.
        stored: prompt hash of the samples on disk by problem id.
        directory: for the message.

    Raises:
        RunError: a problem's samples were drawn for another prompt.
    """
    changed = [key for key, asked in questions.items() if stored.get(key, asked.hash) != asked.hash]
    if changed:
        raise RunError(
            f"{directory} holds samples of other prompts: {len(changed)} problems, such as {changed[0]!r}, are asked"
            " otherwise now (text, pictures or chat template), and the samples must not be mixed -> evaluate into"
            " another folder, or restart the stage"
        )
