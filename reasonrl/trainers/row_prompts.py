"""Rows of a data set as prompts of a trainer: text through the caller's renderer, pictures through the processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import ProcessorMixin

from reasonrl.data_tools.pictures import COLUMNS, pictures_of
from reasonrl.errors import ModelError
from reasonrl.rollout.engine import Request, Sample
from reasonrl.rollout.picture_prompts import PicturePrompts, Prompt, check_reading
from reasonrl.trainers.batch import Anchor

PromptRenderer = Callable[[Any], Sequence[int]]


class RowPrompts:
    """Prompts of rows.

    Args:
        prompt_ids: turns a `prompt` of text into token ids.
        processing_class: the policy's tokenizer, or its processor: then it reads all rows.
    """

    def __init__(self, prompt_ids: PromptRenderer, processing_class: Any) -> None:
        self._prompt_ids = prompt_ids
        self.processor = processing_class if isinstance(processing_class, ProcessorMixin) else None
        self.tokenizer: Any = processing_class if self.processor is None else self.processor.tokenizer
        self.pictures = PicturePrompts(self.processor) if self.processor is not None else None
        self._pictured: dict[str, Any] | None = None

    def complete(self, processing_class: Any) -> None:
        """Take the tokenizer that the trainer found by itself where none was given."""
        if self.tokenizer is None:
            self.tokenizer = getattr(processing_class, "tokenizer", processing_class)

    def check(self, model: Any, critic: Any, datasets: Sequence[Any]) -> None:
        """See that policy and critic can read what the rows hold, before anything is drawn.

        Raises:
            ModelError: rows have pictures, and one of the models reads text only; or its image features do not fit
                the tokens that stand for them.
            DataError: a picture cannot be opened, or its place in the text is missing.
        """
        for rows in datasets:
            pictured = _rows_with_pictures(rows)
            if self.pictures is None and pictured:
                row = pictured[0]
                raise ModelError(
                    f"ppo: row {row.get('id', '?')} has {len(pictures_of(row))} pictures, and the model reads text only"
                    " -> train a vision-language model (with its processor as processing_class), or drop the column"
                )
            if self.pictures is None or not pictured:
                continue
            self._pictured = self._pictured or pictured[0]
            self.pictures.check(pictured)
            for one, key in ((model, "model"), (critic, "critic_model")):
                if isinstance(one, str) or one is None:
                    continue
                check_reading(one, self.pictures, pictured, key)

    def render(self, rows: Sequence[dict[str, Any]]) -> list[Prompt]:
        """Each row's prompt; the samples of a row stand together, so it is rendered once."""
        prompts: list[Prompt] = []
        for place, row in enumerate(rows):
            before = rows[place - 1] if place else None
            again = before is not None and all(row.get(key) == before.get(key) for key in ("id", "prompt", *COLUMNS))
            prompts.append(prompts[-1] if again else self._prompt(row))
        return prompts

    def _prompt(self, row: dict[str, Any]) -> Prompt:
        if self.pictures is not None:
            return self.pictures.prompt(row)
        return Prompt(tuple(self._prompt_ids(row["prompt"])))

    def features(
        self, rows: Sequence[dict[str, Any]], samples: Sequence[Sample]
    ) -> list[dict[str, torch.Tensor]] | None:
        """What the models take for each sample's pictures besides token ids; None where no row has any.

        Raises:
            ModelError: a sample's image tokens do not fit its images; it names the row.
        """
        if self.pictures is None or self._pictured is None:
            return None
        return [
            self.pictures.features(sample.request, str(row.get("id", "?")))
            for row, sample in zip(rows, samples, strict=True)
        ]

    def end_step(self) -> None:
        """Lets go of processed pictures that this step had no use for."""
        if self.pictures is not None:
            self.pictures.reader.end_step()

    def anchor(self) -> Anchor | None:
        """The first row with a picture, to be read along where samples have none; None without such rows."""
        if self.pictures is None or self._pictured is None:
            return None
        prompt = self.pictures.prompt(self._pictured)
        request = Request("anchor", prompt.ids, 0, images=prompt.images)
        return Anchor(torch.tensor(prompt.ids), self.pictures.features(request, str(self._pictured.get("id", "?"))))

    def decode(self, ids: Sequence[int]) -> str:
        """A prompt's tokens as text; a picture is one placeholder, however many tokens it has."""
        if self.processor is not None:
            image = self.processor.image_token_id
            ids = [token for place, token in enumerate(ids) if token != image or not place or ids[place - 1] != image]
        return str(self.tokenizer.decode(ids))


def _rows_with_pictures(rows: Any) -> list[dict[str, Any]]:
    if not any(name in (rows.column_names or ()) for name in COLUMNS):
        return []
    return [row for row in rows if pictures_of(row)]
