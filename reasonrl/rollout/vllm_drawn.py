"""Samples of one stream of vLLM, put together from what each step of it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reasonrl.rollout.stop_strings import StopStrings


@dataclass
class Drawn:
    """A sample so far.

    Attributes:
        token_ids, logprobs: what came.
        finish_reason: vLLM's, or `stop` where a text is complete; empty before.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = ""


class Growing:
    """Samples by their request's name. vLLM works without a tokenizer here: texts that end a sample are found by us.

    Args:
        tokenizer, texts: as for `StopStrings`. Without texts vLLM tells a sample once, when it has ended.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self.stops = StopStrings(tokenizer, texts)
        self._open: dict[str, Drawn] = {}

    def take(self, name: str, output: Any) -> Drawn | None:
        """The whole sample, if this output of vLLM ends it; what comes behind the end of a text is left out."""
        said = output.outputs[0]
        drawn = self._open.setdefault(name, Drawn())
        drawn.token_ids += said.token_ids
        drawn.logprobs += said.logprobs.logprobs
        end = self.stops.end(drawn.token_ids, len(said.token_ids))
        if end is not None:
            drawn = Drawn(drawn.token_ids[:end], drawn.logprobs[:end], "stop")
        elif output.finished:
            drawn.finish_reason = str(said.finish_reason)
        else:
            return None
        del self._open[name]
        return drawn
