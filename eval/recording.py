"""From rows to a record of samples on disk: prompts made, what is missing drawn, judged and appended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.eval.drawing import Drawing, Extra, OnProgress
from reasonrl.eval.questions import Question, prepare, require_same_prompts
from reasonrl.eval.samples import Key, SampleStore
from reasonrl.eval.scoring import build_judging, grader_version, plain_spec, reward_basis

if TYPE_CHECKING:
    from reasonrl.rollout.engine import RolloutEngine, SamplingParams


@dataclass(frozen=True)
class Recorded:
    """What is on the disk now.

    Attributes:
        questions: the problems as they were asked, by id.
        samples: what was asked for, in order: problem by problem the samples, then the greedy ones.
        grader: version of the rules they were judged by; None where the reward has none.
    """

    questions: Mapping[str, Question]
    samples: list[dict[str, Any]]
    grader: int | None


@dataclass(frozen=True)
class SampleOrder:
    """What is to be drawn of rows and how it is judged: all that makes samples what they are.

    Attributes:
        n: samples a problem.
        params: how to draw them.
        directory: the stage's folder.
        name: of the record's folder in it; with seed and stage it is part of the samples' seeds.
        seed: the recipe's seed.
        stage: the stage's name.
        reward: `math` for verdicts, or any reward spec or function; right is then a score of at least 1.
        greedy: draw one more sample a problem at temperature 0.
        model: what is evaluated; samples of another model in the same folder are refused.
        system_prompt, template: how a row becomes a conversation.
        base_dir: what relative files in the reward spec are relative to.
        made_by: more of what makes samples mixable, such as the engine's name and the model's fingerprint.
    """

    n: int
    params: SamplingParams
    directory: str | Path
    name: str
    seed: int
    stage: str = "eval"
    reward: Any = "math"
    greedy: bool = False
    model: str = ""
    system_prompt: str | None = None
    template: str | None = None
    base_dir: str | Path | None = None
    made_by: Mapping[str, Any] | None = None

    @property
    def folder(self) -> Path:
        """Of the record."""
        return Path(self.directory) / self.name

    def decoding(self) -> dict[str, Any]:
        """How samples are drawn, as results tell it."""
        return {"n": self.n, **self._drawn()}

    def settings(self) -> dict[str, Any]:
        """What samples of one record have in common."""
        return {
            **self._drawn(),
            "seed": self.seed,
            "stage": self.stage,
            "suite": self.name,
            "model": self.model,
            "reward": _described(self.reward),
            "system_prompt": self.system_prompt,
            "template": self.template,
            # `math` alone judges stored samples again; other rewards may read more than what is stored.
            **({} if grader_version(self.reward) is not None else reward_basis(self.reward, self.base_dir)),
            **(self.made_by or {}),
        }

    def _drawn(self) -> dict[str, Any]:
        told = {name: getattr(self.params, name) for name in ("temperature", "top_p", "max_tokens")}
        return {**told, **({"stop_strings": list(self.params.stop_strings)} if self.params.stop_strings else {})}


def record_samples(
    engine: RolloutEngine,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    order: SampleOrder,
    *,
    extra: Mapping[str, Extra] | None = None,
    on_progress: OnProgress | None = None,
    at_safe_point: Callable[[], None] | None = None,
) -> Recorded:
    """Draws what the record lacks of n samples a problem, judges it, and stores it (`samples.py`).

    Args:
        extra: more fields of the record by name, each made of a sample; they are written and not held in memory.

    The others are those of `run.run_suite`, as are the errors.
    """
    judging = build_judging(order.reward, order.base_dir, rows)
    questions = prepare(tokenizer, rows, order.system_prompt, order.template)
    plan: list[Key] = [(key, "sample", index) for key in questions for index in range(order.n)]
    if order.greedy:
        plan += [(key, "greedy", 0) for key in questions]
    store = SampleStore(order.folder, order.settings())
    version = grader_version(order.reward)
    try:
        there = store.load(without=extra or ())
        unjudged = store.load_unjudged()
        stored = {**unjudged, **there}
        require_same_prompts(questions, {key[0]: row["prompt_hash"] for key, row in stored.items()}, store.directory)
        not_asked = {key: row for key, row in unjudged.items() if key not in there and key[0] not in questions}
        drawing = Drawing(
            engine,
            judging,
            questions,
            store,
            {key: row for key, row in there.items() if key[0] in questions},
            total=len(plan),
            seed_parts=(order.seed, order.stage, order.name),
            version=version,
            keep_ids=version is None,
            extra=extra,
            on_progress=on_progress,
            at_safe_point=at_safe_point,
        )
        _draw(drawing, plan, order.params, clear=bool(extra) and not not_asked)
        store.finish(not_asked.values())
    finally:
        store.close()
    return Recorded(questions, [drawing.found[key] for key in plan], version)


def _draw(drawing: Drawing, plan: Sequence[Key], params: SamplingParams, clear: bool) -> None:
    drawing.judge_again(drawing.store.answers())
    drawing.store.write_problems([asked.record() for asked in drawing.questions.values()])
    drawing.judge_left_over()
    drawing.clear_judged = clear
    drawing.draw([key for key in plan if key[1] == "sample"], params)
    drawing.draw([key for key in plan if key[1] == "greedy"], replace(params, temperature=0.0, top_p=1.0))


def _described(reward: Any) -> Any:
    """A reward spec as plain data for the settings file; a function as its name."""
    spec = plain_spec(reward)
    if callable(spec):
        return f"{spec.__module__}.{getattr(spec, '__qualname__', type(spec).__qualname__)}"
    return spec
