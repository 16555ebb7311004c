"""Rows with pictures as prompts: token ids with every picture as often as it has tokens, and the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reasonrl.data_tools.pictures import open_picture, pictures_of, size_of, with_pictures
from reasonrl.data_tools.prompts import render_prompt
from reasonrl.errors import DataError, ModelError
from reasonrl.rollout.engine import Request
from reasonrl.rollout.image_reader import TOKEN_INPUTS, placeholder_text, reader_of
from reasonrl.rollout.images import image_digest, require_expanded

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Prompt:
    """What a model is asked: `ids`, and `images` (PIL) in the order of their places; none for a text."""

    ids: tuple[int, ...]
    images: tuple[Any, ...] = ()


class PicturePrompts:
    """Makes prompts of a vision-language model, of rows with pictures and without.

    Args:
        processor: the model's, with a chat template.

    Raises:
        ModelError: the processor has no chat template, so there is no place for pictures in a conversation.
    """

    def __init__(self, processor: Any) -> None:
        template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
        if not template:
            raise ModelError(
                "model: its processor has no chat template, so pictures have no place in a prompt -> use the instruct"
                " variant of the model"
            )
        self.processor, self.reader = processor, reader_of(processor)
        self._tokens: dict[tuple[int, int], int] = {}
        self._spliced: dict[tuple[tuple[int, int], ...], bool] = {}
        self._stand_ins: dict[tuple[int, int], list[int]] = {}

    def prompt(self, row: Mapping[str, Any]) -> Prompt:
        """A row's prompt: its `prompt` (messages) with its pictures in their places.

        Raises:
            DataError: a picture cannot be opened, or the places do not fit the pictures; it names the row.
        """
        owner = str(row.get("id", "?"))
        text, pictures = self._text(row, pictures_of(row))
        if not pictures:
            return Prompt(tuple(self._encode(text)))
        images = tuple(open_picture(picture, owner) for picture in pictures)
        digests = tuple(image_digest(image) for image in images)
        ids, _ = self.reader.prompt_ids(text, images, digests, self._options(text))
        return Prompt(ids, images)

    def prompt_ids(self, row: Mapping[str, Any]) -> list[int]:
        """The ids of a row's prompt alone: they hang on its pictures' sizes only, so no pixel is processed; raises
        DataError as `prompt`.
        """
        text, pictures = self._text(row, pictures_of(row))
        if not pictures:
            return self._encode(text)
        sizes = tuple(size_of(picture, str(row.get("id", "?"))) for picture in pictures)
        if sizes in self._spliced:
            return self._splice(text, sizes) if self._spliced[sizes] else self._by_processor(text, sizes)
        # Whether a processor writes each picture's tokens in its placeholder's place, is seen by the first prompt.
        ids = self._by_processor(text, sizes)
        self._spliced[sizes] = self._splice(text, sizes) == ids
        return ids

    def _by_processor(self, text: str, sizes: Sequence[tuple[int, int]]) -> list[int]:
        from PIL import Image

        blank = [Image.new("RGB", size) for size in sizes]
        made = self.processor(text=[text], images=[blank], **self._options(text))
        return [int(token) for token in made["input_ids"][0]]

    def _splice(self, text: str, sizes: Sequence[tuple[int, int]]) -> list[int]:
        mark = placeholder_text(self.processor, 1)
        parts = text.split(mark)
        ids = self._encode(text)
        sign = self.processor.tokenizer(mark, add_special_tokens=False)["input_ids"]
        if len(sign) != 1 or ids.count(sign[0]) != len(sizes) or len(parts) != len(sizes) + 1:
            return []
        found, left = [], list(sizes)
        for token in ids:
            found += self._stand_in(left.pop(0)) if token == sign[0] else [token]
        return found

    def _stand_in(self, size: tuple[int, int]) -> list[int]:
        if size not in self._stand_ins:
            from PIL import Image

            mark = placeholder_text(self.processor, 1)
            made = self.processor(text=[mark], images=[[Image.new("RGB", size)]], add_special_tokens=False)
            self._stand_ins[size] = [int(token) for token in made["input_ids"][0]]
        return self._stand_ins[size]

    def ordered(self, row: Mapping[str, Any]) -> list[Any]:
        """A row's pictures, unopened, in the order of their places; raises DataError as `prompt`."""
        return self._text(row, pictures_of(row))[1]

    def text(self, row: Mapping[str, Any]) -> str:
        """A row's prompt as text, each picture one placeholder; raises DataError as `prompt`."""
        return self._text(row, pictures_of(row))[0]

    def length(self, row: Mapping[str, Any]) -> int:
        """Tokens of a row's prompt, its pictures' included; only the head of each file is read.

        Raises:
            DataError: as `prompt`.
        """
        text, pictures = self._text(row, pictures_of(row))
        owner = str(row.get("id", "?"))
        return len(self._encode(text)) + sum(self._added(size_of(picture, owner)) for picture in pictures)

    def features(self, request: Request, owner: str = "?") -> dict[str, torch.Tensor]:
        """What a model takes for a request's images besides token ids; for `TOKEN_INPUTS`, of its prompt's tokens.

        Raises:
            ModelError: its image tokens are not as many as its images become; it names the row.
        """
        inputs = dict(self.reader.token_inputs(request.prompt_ids))
        if request.images:
            read = self.reader.read(request.images, tuple(image_digest(image) for image in request.images))
            try:
                require_expanded(request, read.tokens, self.processor.image_token_id)
            except ModelError as problem:
                raise ModelError(f"row {owner}: {problem}") from problem
            inputs |= read.inputs
        return inputs

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See that every row's pictures can be opened and have their places in its text.

        Raises:
            DataError: as `prompt`; it names the row.
        """
        for row in rows:
            pictures = pictures_of(row)
            self._text(row, pictures)
            for picture in pictures:
                size_of(picture, str(row.get("id", "?")))

    def _text(self, row: Mapping[str, Any], pictures: Sequence[Any]) -> tuple[str, list[Any]]:
        prompt = row["prompt"]
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        turns, ordered = with_pictures(messages, pictures, str(row.get("id", "?")))
        text = render_prompt(self.processor, turns)
        mark = placeholder_text(self.processor, 1)
        if text.count(mark) != len(pictures):
            raise DataError(
                f"row {row.get('id', '?')}: its prompt has {text.count(mark)} times {mark!r}, which stands for a"
                f" picture, but {len(pictures)} pictures -> give the pictures in `images`, or take it out of the text"
            )
        return text, ordered

    def _options(self, text: str) -> dict[str, Any]:
        # As `apply_chat_template(tokenize=True)`: a template that writes the first token itself needs no second one.
        start = getattr(self.processor.tokenizer, "bos_token", None)
        return {"add_special_tokens": False} if start and text.startswith(start) else {}

    def _encode(self, text: str) -> list[int]:
        return [int(token) for token in self.processor.tokenizer(text, **self._options(text))["input_ids"]]

    def _added(self, size: tuple[int, int]) -> int:
        """Tokens that a picture of this size has beyond its placeholder's own."""
        if size not in self._tokens:
            from PIL import Image

            mark = placeholder_text(self.processor, 1)
            made = self.processor(text=[mark], images=[[Image.new("RGB", size)]])["input_ids"][0]
            self._tokens[size] = len(made) - len(self.processor.tokenizer(mark)["input_ids"])
        return self._tokens[size]


def check_reading(model: Any, prompts: PicturePrompts, rows: Sequence[Mapping[str, Any]], what: str = "model") -> None:
    """Let a model read one prompt of every number of pictures' tokens, four at most: its features must fit them.

    Args:
        model: the policy, or a critic.
        prompts: of the policy's processor.
        rows: with pictures.
        what: the key that names the model, for messages.

    Raises:
        ModelError: it does not; it names the row.
    """
    import torch

    seen: set[tuple[tuple[int, int], ...]] = set()
    for row in rows:
        sizes = tuple(size_of(picture, str(row.get("id", "?"))) for picture in pictures_of(row))
        if sizes in seen or len(seen) == 4:
            continue
        seen.add(sizes)
        prompt = prompts.prompt(row)
        inputs = prompts.features(Request(str(row.get("id", "?")), prompt.ids, 0, images=prompt.images))
        device = next(model.parameters()).device
        given = {name: (value[None] if name in TOKEN_INPUTS else value).to(device) for name, value in inputs.items()}
        try:
            with torch.no_grad():
                model(input_ids=torch.tensor([prompt.ids], device=device), **given)
        except (TypeError, ValueError, RuntimeError, IndexError) as problem:
            raise ModelError(
                f"{what}: a {type(model).__name__} cannot read row {row.get('id', '?')}, whose"
                f" {len(prompt.images)} pictures are {prompt.ids.count(prompts.processor.image_token_id)} tokens:"
                f" {problem} -> processor and model must belong together, and both be of a vision-language model"
            ) from problem
