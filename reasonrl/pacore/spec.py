"""A plan in plain values, as a command line, a server's settings and a run's record say it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonrl.pacore.compaction import get_compaction
from reasonrl.pacore.errors import PacoreError
from reasonrl.pacore.plan import Fit, FitRule, Plan, estimated_tokens
from reasonrl.pacore.synthesis import SynthesisPrompt


@dataclass(frozen=True)
class PlanSpec:
    """What `Plan` and `Fit` hold, with names in place of functions.

    Attributes:
        compaction: as `get_compaction` takes it.
        prompt: file of a synthesis prompt; None takes ours.
        tokenizer: `tokenizer.json`, or a folder with one, that counts tokens for `window`; None estimates.
    """

    rounds: tuple[int, ...] = (16,)
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None
    compaction: str = "after_think"
    prompt: str | None = None
    window: int | None = None
    reserve: int | None = None
    fit: FitRule = "longest"
    image_tokens: int = 1280
    tokenizer: str | None = None
    tolerate: float = 0.5
    budget: int | None = None

    def plan(self) -> Plan:
        """The plan.

        Raises:
            PacoreError: a value that cannot be, a file that is not there.
        """
        return Plan(
            rounds=self.rounds,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            compaction=get_compaction(self.compaction),
            prompt=SynthesisPrompt(self.prompt),
            fit=Fit(self.window, self.reserve, self.fit, _counter(self.tokenizer), self.image_tokens),
            tolerate=self.tolerate,
            budget=self.budget,
        )

    def settings(self) -> dict[str, Any]:
        """What makes answers mixable, as JSON values."""
        said = dataclasses.asdict(self) | {"prompt": SynthesisPrompt(self.prompt).fingerprint}
        return {**said, "rounds": list(self.rounds)}


def _counter(tokenizer: str | None) -> Callable[[str], int]:
    if tokenizer is None:
        return estimated_tokens
    from tokenizers import Tokenizer

    path = Path(tokenizer).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise PacoreError(f"tokenizer {tokenizer!r}: there is no {path} -> name a tokenizer.json or its folder")
    loaded = Tokenizer.from_file(str(path))
    return lambda text: len(loaded.encode(text, add_special_tokens=False).ids)
