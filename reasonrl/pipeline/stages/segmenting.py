"""From what a recipe says under `segment:` to a function that cuts texts into steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError

if TYPE_CHECKING:
    from reasonrl.prm.steps import Step
    from reasonrl.recipe.annotate_stage import SegmentConfig


def segmenter_of(config: SegmentConfig) -> Callable[[str], list[Step]]:
    """Cuts a text into steps.

    Raises:
        ReasonRLError: what the method needs is not there.
    """
    from reasonrl.prm import segment

    if config.method == "lines":
        return segment.lines
    if config.method == "given":

        def refuse(text: str) -> Any:
            raise DataError("the row has no steps, and segment.method is given")

        return refuse
    words = segment.REFLECTION if config.reflection is None else config.reflection
    rules = segment.Rules(config.shortest, config.longest, words)
    if config.method == "sat":
        return segment.SaTSegmenter(config.model or "sat-3l-sm", rules, config.threshold)
    return lambda text: segment.segment(text, rules)
