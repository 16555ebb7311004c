"""The work of `reasonrl eval`: one model on named suites, without a recipe."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import Interrupted, Problem, RecipeError
from reasonrl.recipe import EvalStage, LaunchConfig
from reasonrl.recipe.alone import read_settings, stage_alone

if TYPE_CHECKING:
    from reasonrl.pipeline.progress import ProgressReporter

Say = Callable[[str], None]
STAGE = "eval"
"""The stage's name, which is part of the samples' seeds."""


def evaluate_model(
    model: str | None,
    suites: str,
    overrides: Sequence[str] = (),
    *,
    output: Path | None = None,
    engine: str | None = None,
    endpoint: Sequence[str] = (),
    protocol: str | None = None,
    data_root: Path | None = None,
    seed: int = 0,
    dry_run: bool = False,
    say: Say,
    **settings: Any,
) -> Path:
    """Evaluates a model and says the table of results.

    Args:
        model: folder or hub id; with an endpoint the name that the server knows.
        suites: names between commas.
        overrides: `KEY=VALUE`: a setting of all suites (`temperature=0.6`) or of one (`math500.n=4`), of the engine
            (`rollout.batch_size=64`) or of the endpoint (`endpoint.max_concurrency=64`).
        output: the evaluation's folder; None makes `evaluations/<model>`.
        engine: the rollout engine.
        endpoint: addresses of an OpenAI-compatible server, up to `/v1`; then nothing is loaded here.
        protocol: whose sampling settings to use.
        data_root: folder of local files.
        seed: of the samples' seeds.
        dry_run: say what would be sampled and write nothing.
        say: takes lines for the user.
        settings: of all suites, as overrides; None is not given.

    Returns:
        The folder.

    Raises:
        RecipeError: settings that cannot be; all at once.
        RunError: the folder holds samples made with other settings, or another evaluation runs there.
        Interrupted: Ctrl-C or SIGTERM; all samples so far are on the disk.
    """
    from reasonrl.eval.suites import resolve
    from reasonrl.pipeline.stages import eval as stage

    groups, asked = _overrides(overrides)
    config = _config(model, suites, protocol, engine, endpoint, groups)
    given = {key: value for key, value in settings.items() if value is not None}
    found = resolve(suites, protocol, {**given, **asked}, data_root)
    folder = output if output is not None else Path("evaluations") / _named(config)
    context = _context(folder, seed)
    if dry_run:
        for line in stage.suite_lines(found, seed):
            say(line)
        return folder
    with held_folder(folder, context, say, "eval", "sample") as held:
        stage.evaluate(config, found, held)
    _say_results(folder, list(found), say)
    return folder


def _overrides(tokens: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Settings of `rollout` and `endpoint`, and those of suites."""
    groups: dict[str, dict[str, Any]] = {"rollout": {}, "endpoint": {}}
    suites: dict[str, Any] = {}
    problems: list[Problem] = []
    for key, value in read_settings(tokens, "temperature=0.6", problems):
        # The name of a suite may hold dots, that of its setting holds none.
        above, _, name = key.rpartition(".")
        group, _, rest = key.partition(".")
        if group in groups and rest:
            groups[group][rest] = value
        elif above:
            suites.setdefault(above, {})[name] = value
        else:
            suites[key] = value
    if problems:
        raise RecipeError(problems)
    return groups, suites


def _config(
    model: str | None,
    suites: str,
    protocol: str | None,
    engine: str | None,
    endpoint: Sequence[str],
    groups: Mapping[str, dict[str, Any]],
) -> EvalStage:
    """The settings of a recipe's `eval` stage that these arguments say."""
    raw: dict[str, Any] = {"kind": "eval", "suites": [name.strip() for name in suites.split(",") if name.strip()]}
    if not raw["suites"]:
        raise RecipeError([Problem("--suites", "names no suite", fix="`reasonrl suites ls` lists them")])
    if protocol is not None:
        raw["protocol"] = protocol
    if endpoint or groups["endpoint"]:
        if engine is not None or groups["rollout"]:
            given = "--engine" if engine is not None else f"rollout.{next(iter(groups['rollout']))}"
            raise RecipeError(
                [Problem(given, "belongs to an engine of this machine, and an endpoint answers", fix="remove one")]
            )
        raw["endpoint"] = {**groups["endpoint"]}
        if endpoint:
            raw["endpoint"]["base_url"] = list(endpoint)
        if model is not None:
            raw["endpoint"]["model"] = model
    else:
        raw["rollout"] = {**groups["rollout"]}
        if engine is not None:
            raw["rollout"]["engine"] = engine
        if model is not None:
            raw["model"] = model
    return stage_alone(EvalStage, raw, "eval")


def _named(config: EvalStage) -> str:
    name = config.endpoint.model if config.endpoint is not None else str(config.model)
    return Path(name.rstrip("/")).name.replace(":", "-") or "model"


def _context(folder: Path, seed: int) -> Any:
    from reasonrl.pipeline.context import StageContext

    return StageContext(STAGE, folder, "eval", seed, folder, LaunchConfig())


@contextmanager
def held_folder(folder: Path, context: Any, say: Say, name: str, unit: str) -> Iterator[Any]:
    """The folder locked, its environment written, signals heeded, progress shown."""
    from dataclasses import replace

    from reasonrl.observe import Progress
    from reasonrl.pipeline.environment import environment_record
    from reasonrl.pipeline.files import write_json
    from reasonrl.pipeline.lock import run_lock
    from reasonrl.pipeline.progress import LineProgress
    from reasonrl.pipeline.signals import StopFlag, stop_on_signals

    folder.mkdir(parents=True, exist_ok=True)
    stop = StopFlag()
    bar = Progress(description=name, unit=unit)
    with run_lock(folder), stop_on_signals(stop, bar.line), bar:
        write_json(folder / "environment.json", environment_record(context.seed))
        progress: ProgressReporter = bar if bar.live else LineProgress(say, name, interval=10.0)
        try:
            yield replace(context, progress=progress, stop=stop, say=say)
        except Interrupted:
            command = shlex.join(["reasonrl", *sys.argv[1:]])
            raise stop.interrupted(f"in {folder}", command) from None


def _say_results(folder: Path, names: Sequence[str], say: Say) -> None:
    from reasonrl.eval.results import read_results
    from reasonrl.eval.summary import results_table

    entries = read_results(folder)["suites"]
    say(results_table({name: entries[name] for name in names}).rstrip("\n"))
    say(f"figures in {folder / 'results.json'}, samples in {folder}/<suite>/samples.jsonl")
