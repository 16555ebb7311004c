"""Stage kind `episodes`: a pool of cached answers becomes the prompts of a training on synthesis."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import StageFailed
from reasonrl.pipeline.context import StageContext, StageResult

if TYPE_CHECKING:
    from reasonrl.pacore.pools import PoolProblem, PoolReport
    from reasonrl.recipe import EpisodesStage

EPISODES, FIGURES = "episodes.jsonl", "episodes.json"
VERSION = 1
"""Of the rows."""


def run(config: EpisodesStage, context: StageContext) -> StageResult:
    """Filters the pool, draws all episodes, and writes them in their order at once.

    Returns:
        Counts; `data` is the file of episodes.

    Raises:
        StageFailed: the filter leaves no problem.
        DataError, PacoreError: the pool cannot be read, or is too small for the draws.
    """
    from reasonrl.observe.metrics import write_atomically
    from reasonrl.observe.records import encode_record
    from reasonrl.pacore.episodes import Law, episode_row, schedule
    from reasonrl.pacore.pool_command import told
    from reasonrl.pacore.synthesis import SynthesisPrompt
    from reasonrl.rewards.pool import close_shared_pools

    context.report_progress(0, None, "problems", "reading the pool")
    try:
        problems, report = _problems(config, context)
    finally:
        close_shared_pools()
    context.say(told("pool", report))
    if not problems:
        raise StageFailed(f"stage {context.name!r}: no problem of the pool is left -> loosen keep, least or only_data")
    law, framed = Law.read(config.messages), SynthesisPrompt(config.prompt)
    steps, instances = config.steps or config.visits, config.prompts_per_step or len(problems)
    assert steps is not None, "the schema holds it"
    sizes: Counter[int] = Counter()
    lines = []
    for step, episode in schedule(problems, steps, instances, law, context.seed):
        sizes[len(episode.chosen)] += 1
        lines.append(encode_record(episode_row(step, episode, framed)))
    write_atomically(context.directory / EPISODES, b"".join(lines))
    figures = {
        "episodes": len(lines),
        "problems": len(problems),
        "passes": len(lines) / len(problems),
        "mean_messages": sum(size * count for size, count in sizes.items()) / len(lines),
        "pool_accuracy": sum(one.figures()["acc"] for one in problems) / len(problems),
        **{name: value for name, value in vars(report).items() if isinstance(value, int)},
    }
    write_atomically(context.directory / FIGURES, json.dumps({**figures, "bad": report.bad}, indent=2).encode())
    return StageResult(metrics=figures, data=context.directory / EPISODES)


def _problems(config: EpisodesStage, context: StageContext) -> tuple[list[PoolProblem], PoolReport]:
    from reasonrl.pacore.compaction import get_compaction
    from reasonrl.pacore.episodes import Law
    from reasonrl.pacore.pool_command import read_any_pool
    from reasonrl.pacore.pools import PoolFilter, PoolReport, by_verifier, graded

    report = PoolReport()
    compaction = get_compaction(config.compaction, context.base_directory)
    pool = graded(read_any_pool(_path(config.data, context), report, compaction), by_verifier(config.policy))
    least = Law.read(config.messages).high if config.least is None else config.least
    keep = "0 <= acc <= 1" if config.keep is None else config.keep
    chosen = PoolFilter(keep, config.column, least)
    named, columns = _only(config, context), _columns(config, context)
    found = []
    for one in pool:
        one = replace(one, columns={**columns.get(one.id, {}), **one.columns})
        if (named is None or one.id in named) and chosen.wants(one, report):
            found.append(one)
    return found, report


def _columns(config: EpisodesStage, context: StageContext) -> dict[str, dict[str, Any]]:
    """By id what `problems_data` knows of a problem beside what samples carry."""
    if config.problems_data is None:
        return {}
    from reasonrl.pacore.pools import SAMPLE_COLUMNS
    from reasonrl.pipeline.stages.common import load_source

    rows = load_source(config.problems_data, context, ("problem",)).rows
    left_out = {*SAMPLE_COLUMNS, "solution"}
    return {str(row["id"]): {key: value for key, value in row.items() if key not in left_out} for row in rows}


def _only(config: EpisodesStage, context: StageContext) -> set[str] | None:
    """Ids of the problems that `only_data` names."""
    if config.only_data is None:
        return None
    from reasonrl.data_tools.files import BadRow, read_paths

    found = set()
    for _, row in read_paths(_path(config.only_data, context), None, None, None):
        if not isinstance(row, BadRow):
            name = next((row[key] for key in ("pool_id", "problem_id", "id") if row.get(key) is not None), None)
            found.add(str(name))
    return found


def _path(source: Any, context: StageContext) -> Any:
    from reasonrl.recipe import Reference

    place = source if isinstance(source, Reference) else source.path
    path = context.data_of(place) if isinstance(place, Reference) else place
    return list(path) if isinstance(path, tuple) else path


def dry_run(config: EpisodesStage, context: StageContext) -> list[str]:
    """How many episodes would be drawn, of what."""
    from reasonrl.pacore.compaction import get_compaction
    from reasonrl.pacore.synthesis import SynthesisPrompt

    get_compaction(config.compaction, context.base_directory)
    SynthesisPrompt(config.prompt)
    size = (
        f"{config.visits} visits of every problem"
        if config.visits is not None
        else f"{config.steps:,} steps x {config.prompts_per_step:,} = "
        f"{(config.steps or 0) * (config.prompts_per_step or 0):,} episodes"
    )
    kept = "all problems"
    if config.keep is not None:
        conditions = {"": config.keep} if isinstance(config.keep, str) else config.keep
        kept = "problems with " + "; ".join(f"{name}: {text}" if name else text for name, text in conditions.items())
    there = context.is_available(config.data)
    lines = [f"{size}, |M| ~ U({config.messages}) messages without replacement; {kept}; seed {context.seed}"]
    if there:
        problems, report = _problems(config, context)
        lines.append(f"pool: {report.read} problems, {len(problems)} kept")
    return lines


def identity_extra(config: EpisodesStage) -> dict[str, Any]:
    """The rows' version, the synthesis prompt's text, and the verifier's version."""
    from reasonrl.pacore.synthesis import SynthesisPrompt
    from reasonrl.rewards.versions import rule_versions

    return {"rows": VERSION, "prompt": SynthesisPrompt(config.prompt).fingerprint, **rule_versions("math")}


def resume_point(directory: Path) -> str | None:
    """Nothing is kept of a half-done draw: it is made again, the same."""
    del directory
    return None
