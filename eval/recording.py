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


def record_samples(
    engine: RolloutEngine,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    n: int,
    params: SamplingParams,
    name: str,
    directory: str | Path,
    seed: int,
    stage: str,
    reward: Any = "math",
    greedy: bool = False,
    model: str = "",
    system_prompt: str | None = None,
    template: str | None = None,
    base_dir: str | Path | None = None,
    made_by: Mapping[str, Any] | None = None,
    extra: Mapping[str, Extra] | None = None,
    on_progress: OnProgress | None = None,
    at_safe_point: Callable[[], None] | None = None,
) -> Recorded:
    """Draws what `<directory>/<name>/` lacks of n samples a problem, judges it, and stores it (`samples.py`).

    Args:
        name: of the record's folder; with seed and stage it is part of the samples' seeds.
        extra: more fields of the record by name, each made of a sample; they are written and not held in memory.

    The others are those of `run.run_suite`, as are the errors.
    """
    judging = build_judging(reward, base_dir, rows)
    questions = prepare(tokenizer, rows, system_prompt, template)
    settings = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_tokens": params.max_tokens,
        "seed": seed,
        "stage": stage,
        "suite": name,
        "model": model,
        "reward": _described(reward),
        "system_prompt": system_prompt,
        "template": template,
        # `math` alone judges stored samples again; other rewards may read more than what is stored.
        **({} if grader_version(reward) is not None else reward_basis(reward, base_dir)),
        **(made_by or {}),
    }
    plan: list[Key] = [(key, "sample", index) for key in questions for index in range(n)]
    if greedy:
        plan += [(key, "greedy", 0) for key in questions]
    store = SampleStore(Path(directory) / name, settings)
    version = grader_version(reward)
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
            seed_parts=(seed, stage, name),
            version=version,
            keep_ids=version is None,
            extra=extra,
            on_progress=on_progress,
            at_safe_point=at_safe_point,
        )
        _draw(drawing, plan, params, clear=bool(extra) and not not_asked)
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
