"""Where a row becomes a conversation, and a conversation becomes the text and the tokens that a model sees.

SFT, rollouts and evaluation all come through here, so that a model is trained, sampled and graded on byte-equal
prompts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from reasonrl.errors import DataError

Message = dict[str, Any]

# `{{name}}` is a literal `{name}`, `{name}` a field; every other brace (LaTeX: `\boxed{}`) is left alone.
_FIELD = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")
# The gold must not stand in the prompt; `\boxed{answer}` in an instruction would put it there.
_SECRET = frozenset({"answer", "solution"})


def as_messages(row: Mapping[str, Any], system_prompt: str | None = None, template: str | None = None) -> list[Message]:
    r"""The conversation that asks a row's problem.

    Args:
        row: a row of `load_rows`: `prompt` (messages) is used as it is, else `problem` is one user turn.
        system_prompt: put first; it replaces a system message of the row.
        template: text of the user turn with the row's columns as fields, such as `"{problem}\nPut the answer in
            \boxed{}."`; None asks the bare problem: no instruction is ever added. `{{name}}` writes a literal `{name}`.
            With a `prompt`, the template replaces the content of its last user turn.

    Returns:
        New messages `{"role", "content"}`.

    Raises:
        DataError: the row has neither problem nor prompt, or the template has no field, an unknown one, or one that
            shows the gold.
    """
    if row.get("prompt"):
        messages = [dict(message) for message in row["prompt"]]
    elif row.get("problem"):
        messages = [{"role": "user", "content": row["problem"]}]
    else:
        raise DataError(
            f"row {row.get('id', '?')}: it has neither `problem` nor `prompt`; its columns: {', '.join(row)} -> map"
            " them with `columns`"
        )
    if template is not None:
        turns = [place for place, message in enumerate(messages) if message["role"] == "user"]
        if not turns:
            raise DataError(f"row {row.get('id', '?')}: the template needs a user turn, and the prompt has none")
        messages[turns[-1]]["content"] = _fill(template, row)
    if system_prompt is not None:
        messages = [
            {"role": "system", "content": system_prompt},
            *(message for message in messages if message["role"] != "system"),
        ]
    return messages


def render_prompt(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> str:
    """The text that stands before the model's first token.

    With a chat template this is the template's text with the generation prompt (a last assistant turn is continued). A
    tokenizer without one (a base model) gets the contents of the messages, one blank line between them and one at the
    end.

    Args:
        tokenizer: a transformers tokenizer or processor.
        messages: `{"role", "content"}`, at least one.

    Raises:
        DataError: there are no messages, or a base model's tokenizer meets content that is not text.
    """
    if not messages:
        raise DataError("a prompt needs at least one message")
    if _has_template(tokenizer):
        continued = messages[-1]["role"] == "assistant"
        # Written out only when needed: some tokenizers' overrides do not know `continue_final_message`.
        options: dict[str, Any] = {"continue_final_message": True} if continued else {}
        text: str = tokenizer.apply_chat_template(
            [dict(m) for m in messages], tokenize=False, add_generation_prompt=not continued, **options
        )
        return text
    contents = [message["content"] for message in messages]
    if not all(isinstance(content, str) for content in contents):
        raise DataError(
            "the tokenizer has no chat template, so a prompt with parts other than text cannot be rendered -> use a"
            " chat model"
        )
    return "\n\n".join(contents) + "\n\n"


def prompt_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The token ids of `render_prompt`.

    A chat template writes its own special tokens, so none is added; without one, the tokenizer's beginning-of-sequence
    token is put first if the tokenizer puts it there by itself.

    Raises:
        DataError: as `render_prompt`, or the prompt has no token.
    """
    text = render_prompt(tokenizer, messages)
    ids = [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    if not _has_template(tokenizer):
        start = getattr(tokenizer, "bos_token_id", None)
        if start is not None and tokenizer(text)["input_ids"][:1] == [start] and ids[:1] != [start]:
            ids.insert(0, int(start))
    if not ids:
        raise DataError(f"the prompt {text!r} has no token")
    return ids


def _has_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def _fill(template: str, row: Mapping[str, Any]) -> str:
    filled = 0

    def value(match: re.Match[str]) -> str:
        nonlocal filled
        if match.group(1):
            return "{" + match.group(1) + "}"
        name = match.group(2)
        if name in _SECRET:
            raise DataError(
                f"template {template!r}: the field {{{name}}} would show the gold to the model -> write {{{{{name}}}}}"
                " for the literal text"
            )
        if row.get(name) is None:
            raise DataError(
                f"template {template!r}: row {row.get('id', '?')} has no column {name!r}; it has:"
                f" {', '.join(key for key in row if key not in _SECRET)} -> name one of them, or write {{{{{name}}}}}"
                " for the literal text"
            )
        filled += 1
        return str(row[name])

    text = _FIELD.sub(value, template)
    if not filled:
        raise DataError(
            f"template {template!r} has no field, so every prompt would be the same -> put {{problem}} in it"
        )
    return text
