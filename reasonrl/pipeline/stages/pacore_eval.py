"""Stage kind `pacore_eval`: rounds of a model over cached answers, beside votes at equal tokens, in `results.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError
from reasonrl.pipeline.context import StageContext, StageResult

if TYPE_CHECKING:
    from reasonrl.eval.exams.rounds import Run
    from reasonrl.recipe import PacoreEvalStage
    from reasonrl.recipe.pacore_eval_stage import RoundsRun

VERSION = 1
"""Of the figures."""


def run(config: PacoreEvalStage, context: StageContext) -> StageResult:
    """Goes through all runs, and on from the answers on disk.

    Returns:
        The figures by `<suite>/<figure>`, and what each run gains over the vote at equal tokens; `data` is the
        `results.json`.
    """
    from reasonrl.eval.exams.record import flat_metrics, write_examined
    from reasonrl.eval.exams.rounds import examine_rounds, read_cache, rounds_text, run_all
    from reasonrl.eval.exams.rounds_plot import plot_rounds
    from reasonrl.pipeline.stages.common import load_source
    from reasonrl.rewards.pool import close_shared_pools

    rows = load_source(config.data, context, ("problem", "answer")).rows
    cache = read_cache(rows)
    folder = context.directory / config.suite
    answers: dict[str, Any] = {}
    engine, render = _engine(config, context)
    total = len(config.runs) * len(cache.answers)
    try:
        for place, (name, one) in enumerate(config.runs.items()):
            before = place * len(cache.answers)
            answers[name] = run_all(
                run_of(name, one, config, context),
                cache,
                engine,
                render,
                lambda said: _judged(config, said, context),
                folder,
                max_tokens=config.max_tokens,
                seed=context.seed,
                on_progress=lambda done, before=before, name=name: context.report_progress(  # type: ignore[misc]
                    before + done, total, "problems", name
                ),
            )
            context.raise_if_stopping()
    finally:
        if config.runs:
            engine.close()
        close_shared_pools()
    examined = examine_rounds(
        cache,
        answers,
        sizes=config.majority,
        pass_k=config.pass_k,
        equal_tokens=config.equal_tokens,
        draws=config.draws,
        seed=context.seed,
    )
    entry = write_examined(context.directory, config.suite, examined, seed=context.seed)
    text = rounds_text(entry)
    (context.directory / f"{config.suite}.md").write_text(text + "\n", encoding="utf-8")
    context.say(text)
    plot_rounds(entry, context.directory / f"{config.suite}.png")
    metrics = flat_metrics(config.suite, entry)
    for name, found in entry["differences"].items():
        ends = {end: found[key] for end, key in _ENDS if found[key] is not None}
        metrics |= {f"{config.suite}/{name} over the vote{end}": value for end, value in ends.items()}
    metrics |= {f"{config.suite}/{name} inputs wrong": one["emergent_count"] for name, one in entry["runs"].items()}
    return StageResult(metrics=metrics, data=context.directory / "results.json")


_ENDS = (("", "value"), ("_low", "low"), ("_high", "high"))


def run_of(name: str, one: RoundsRun, config: PacoreEvalStage, context: StageContext) -> Run:
    """A run as the examination takes it.

    Raises:
        PacoreError: rounds, a compaction or a prompt that cannot be.
        DataError: marks are to be erased, and the world of the compaction does not know how.
    """
    from reasonrl.data_tools.worlds import get_world
    from reasonrl.eval.exams.rounds import Run
    from reasonrl.pacore.compaction import get_compaction
    from reasonrl.pacore.plan import LEVELS, Plan
    from reasonrl.pacore.synthesis import SynthesisPrompt

    spec = one.compaction or config.compaction
    plan = Plan(
        rounds=LEVELS[one.rounds] if isinstance(one.rounds, str) else one.rounds,
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=config.max_tokens,
        compaction=get_compaction(spec, context.base_directory),
        prompt=SynthesisPrompt(config.prompt),
    )
    erase = None
    if one.control == "erased":
        erase = getattr(get_world(spec.removeprefix("world:")), "erased", None) if spec.startswith("world:") else None
        if erase is None:
            raise DataError(f"runs.{name}.control: erased, but {spec} has no marks -> world:worksheet has")
    return Run(name, plan, one.first == "cached", one.control, erase)


def _engine(config: PacoreEvalStage, context: StageContext) -> tuple[Any, Any]:
    from reasonrl.data_tools.prompts import prompt_ids
    from reasonrl.pipeline.stages.common import evaluation_engine, quiet_libraries

    if not config.runs:
        return None, None
    assert config.model is not None, "the recipe's checks"
    quiet_libraries()
    context.report_progress(0, None, "problems", "loading the model")
    engine, tokenizer = evaluation_engine(
        config.rollout, context.model_of(config.model), config.max_tokens, context.directory
    )
    return engine, lambda messages: prompt_ids(tokenizer, messages)


def _judged(config: PacoreEvalStage, said: Sequence[tuple[Any, str, str]], context: StageContext) -> Sequence[Any]:
    from reasonrl.data_tools.prompts import as_messages
    from reasonrl.eval.scoring import Answer, build_scorer

    answers = [Answer(row, as_messages(row), text, (), ended) for row, text, ended in said]
    return build_scorer(config.reward, context.base_directory, [row for row, _, _ in said])(answers)


def dry_run(config: PacoreEvalStage, context: StageContext) -> list[str]:
    """What would be asked, a line a run."""
    lines = [f"votes on {', '.join(map(str, config.majority)) or 'no'} cached answers; seed {context.seed}"]
    for name, one in config.runs.items():
        made = run_of(name, one, config, context)
        kept = f"; control: {made.control}" if made.control else ""
        first = "cached" if made.cached else "drawn by the model"
        lines.append(f"run {name}: rounds {list(made.plan.all_rounds)}, the first {first}{kept}")
    return lines


def identity_extra(config: PacoreEvalStage) -> dict[str, Any]:
    """Versions of the figures and of what judges, and the synthesis prompt's text."""
    from reasonrl.pacore.synthesis import SynthesisPrompt
    from reasonrl.rewards.versions import rule_versions

    return {"figures": VERSION, "prompt": SynthesisPrompt(config.prompt).fingerprint, **rule_versions(config.reward)}


def resume_point(directory: Path) -> str | None:
    """How many answers are there."""
    from reasonrl.eval.exams.rounds import ANSWERS

    there = sum(path.read_bytes().count(b"\n") for path in directory.glob(f"*/{ANSWERS}"))
    return f"{there:,} answers kept" if there else None
