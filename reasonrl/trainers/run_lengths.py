"""Length-aware dispatch in a training run: what the trainer tells the guide, and the guide's part of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from reasonrl.errors import ModelError
from reasonrl.rollout.engine import Request, Sample
from reasonrl.rollout.length_guide import LengthGuide, Seen
from reasonrl.rollout.lengths import PromptKey

LENGTHS_FILE = "lengths.json"


class RunLengths:
    """The guide of a run; equal on all ranks, since each is taught by the samples of all.

    Args:
        on: whether there is anything to do; otherwise requests stay as they are, and nothing is learnt or written.
        decode: prompt tokens to text.
    """

    def __init__(self, on: bool, decode: Callable[[Sequence[int]], str]) -> None:
        self.on, self.guide = on, LengthGuide()
        self._decode = decode

    def expect(self, requests: Sequence[Request], rows: Sequence[dict[str, Any]]) -> list[Request]:
        """This rank's requests, one a row, with their expected lengths where these can be trusted."""
        if not self.on or not self.guide.enabled:
            return list(requests)
        return self.guide.expect(requests, self._prompts(rows, [request.prompt_ids for request in requests]))

    def observe(self, rows: Sequence[dict[str, Any]], samples: Sequence[Sample]) -> dict[str, float]:
        """Learn from a step's samples, one a row of this rank, and give the step's metrics. A collective call."""
        if not self.on:
            return {}
        prompts = self._prompts(rows, [sample.request.prompt_ids for sample in samples])
        mine = [
            Seen(prompt, len(sample.token_ids), sample.stamp) for prompt, sample in zip(prompts, samples, strict=True)
        ]
        self.guide.observe(gather_object(mine))
        return self.guide.metrics()

    def save(self, checkpoint: Path) -> None:
        """Write what was learnt into a checkpoint."""
        if self.on:
            (checkpoint / LENGTHS_FILE).write_text(json.dumps(self.guide.state()), encoding="utf-8")

    def restore(self, checkpoint: Path) -> None:
        """Take over what a checkpoint has learnt; one that was written without lengths leaves the guide new.

        Raises:
            ModelError: the file is of another version, or not whole.
        """
        file = checkpoint / LENGTHS_FILE
        if not self.on or not file.exists():
            return
        try:
            self.guide = LengthGuide.from_state(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as problem:
            raise ModelError(
                f"rollout.length_aware: {file} cannot be taken over: {problem} -> remove the file; lengths are then"
                " learnt anew"
            ) from problem

    def _prompts(self, rows: Sequence[dict[str, Any]], prompts: Sequence[tuple[int, ...]]) -> list[PromptKey]:
        texts = {prompt: self._decode(prompt) for prompt in dict.fromkeys(prompts)}
        return [
            PromptKey(str(row["id"]), texts[prompt], len(prompt)) for row, prompt in zip(rows, prompts, strict=True)
        ]
