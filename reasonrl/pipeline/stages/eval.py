"""Stage kind `eval`: one model on one or more suites."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from reasonrl.pipeline.context import StageContext, StageResult

if TYPE_CHECKING:
    from pathlib import Path

    from reasonrl.pipeline.stages.common import Source
    from reasonrl.recipe import EvalStage, RolloutStage, SuiteConfig


def run(config: EvalStage, context: StageContext) -> StageResult:
    """Samples every suite, judges the samples and writes `results.json`; goes on from the samples on disk.

    Returns:
        The figures by `<suite>/<metric>`; `data` is the `results.json`, next to which each suite has its folder.

    Raises:
        RunError: a suite's samples on disk were made with other settings.
        RecipeError: a named suite is not there.
    """
    return evaluate(config, suites_of(config), context)


def evaluate(config: EvalStage, suites: Mapping[str, SuiteConfig], context: StageContext) -> StageResult:
    """`run` with these suites; of `config` the model and what draws its samples count."""
    from reasonrl.eval.compound import flat_figures, write_compound
    from reasonrl.eval.recording import SampleOrder
    from reasonrl.eval.run import run_suite
    from reasonrl.rewards.pool import close_shared_pools
    from reasonrl.rollout import SamplingParams

    sources = {name: _source(suite, context) for name, suite in suites.items()}
    sizes = {name: len(sources[name][0].rows) * (suite.n + suite.greedy) for name, suite in suites.items()}
    total, done = sum(sizes.values()), 0
    context.report_progress(0, total, "samples", "loading the model")
    longest = max(suite.max_tokens for suite in suites.values())
    model, engine, tokenizer, made_by = engine_of(config, context, longest)
    context.report_progress(0, total, "samples")
    metrics: dict[str, float] = {}
    try:
        for name, suite in suites.items():
            source, about = sources[name]
            before = done
            result = run_suite(
                engine,
                tokenizer,
                source.rows,
                SampleOrder(
                    n=suite.n,
                    params=SamplingParams(suite.max_tokens, suite.temperature, suite.top_p, suite.stop_strings),
                    directory=context.directory,
                    name=name,
                    seed=context.seed,
                    stage=context.name,
                    reward=suite.reward,
                    greedy=suite.greedy,
                    model=model,
                    system_prompt=source.system_prompt,
                    template=source.template,
                    base_dir=context.base_directory,
                    made_by=made_by,
                ),
                k=suite.k,
                metrics=suite.metrics,
                about=about,
                on_progress=lambda at, of, right, before=before, name=name: context.report_progress(  # type: ignore[misc]
                    before + at, total, "samples", progress_note(name, right)
                ),
                at_safe_point=context.raise_if_stopping,
            )
            metrics |= result.metrics()
            done += sizes[name]
            context.report_progress(done, total, "samples", name)
    finally:
        engine.close()
        close_shared_pools()
    for name, figures in write_compound(context.directory).items():
        metrics |= flat_figures(name, figures)
    return StageResult(metrics=metrics, data=context.directory / "results.json")


def progress_note(suite: str, right: float | None) -> str:
    """Suite and running accuracy, such as `math500 43.2 %`; of the samples so far, so that it moves as they come."""
    return suite if right is None else f"{suite} {100 * right:.1f} %"


def dry_run(config: EvalStage, context: StageContext) -> list[str]:
    """What would be sampled, a line a suite."""
    return suite_lines(suites_of(config), context.seed)


def suite_lines(suites: Mapping[str, SuiteConfig], seed: int) -> list[str]:
    """How suites would be sampled, a line a suite."""
    lines = []
    for name, suite in suites.items():
        greedy = " and one greedily" if suite.greedy else ""
        passes = ", ".join(f"pass@{k}" for k in suite.k)
        lines.append(
            f"suite {name}: {suite.n} samples a problem at temperature {suite.temperature:g}, top_p {suite.top_p:g}"
            f"{greedy}, at most {suite.max_tokens:,} tokens; {passes}; seeds from {seed}"
        )
    return lines


def suites_of(config: EvalStage) -> dict[str, SuiteConfig]:
    """The suites by name; names alone are resolved (`reasonrl.eval.suites`), the stage's settings laid over theirs.

    Raises:
        RecipeError: there is no suite of a name, or its entry is wrong.
    """
    from reasonrl.eval.suites import resolve
    from reasonrl.recipe.stages import SUITE_DEFAULTS

    if isinstance(config.suites, Mapping):
        return dict(config.suites)
    keys = (*SUITE_DEFAULTS, "system_prompt")
    given = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
    return {**resolve(config.suites, config.protocol, given)}


def _source(suite: SuiteConfig, context: StageContext) -> tuple[Source, dict[str, Any]]:
    """The rows, and what a reader of the figures should know of them."""
    from reasonrl.eval.suites import Suite
    from reasonrl.pipeline.stages.common import Source, load_source, required_columns

    about: dict[str, Any] = {}
    if isinstance(suite, Suite):
        rows, check = suite.load(context.seed, context.base_directory)
        source = Source(rows, suite.data.system_prompt, suite.data.template)  # type: ignore[union-attr]
        if check is not None:
            about["rows"] = check.state
    else:
        source = load_source(suite.data, context, required_columns(suite.reward))
    report = source.rows.report
    if report.beyond_limit:
        # Problems, of which a prompt may ask several.
        about["limited"] = {"problems": report.kept, "of": report.kept + report.beyond_limit}
    if report.dropped:
        about["set_aside"] = report.reasons()
    if report.repeated:
        about["repeated"] = report.repeated
    return source, about


def engine_of(
    config: EvalStage | RolloutStage, context: StageContext, max_tokens: int
) -> tuple[str, Any, Any, dict[str, Any]]:
    """The model's name, the engine, what renders prompts (None for an endpoint), and more that tells samples apart."""
    from reasonrl.pipeline.stages.common import evaluation_engine, quiet_libraries

    if config.endpoint is not None:
        from reasonrl.rollout.endpoint_engine import EndpointEngine

        made_by: dict[str, Any] = {"engine": "endpoint", "extra_body": config.endpoint.extra_body}
        return config.endpoint.model, EndpointEngine(config.endpoint.settings()), None, made_by
    from reasonrl.fingerprint import model_fingerprint
    from reasonrl.models import resolve_model

    assert config.model is not None, "one of model and endpoint is there"
    quiet_libraries()
    name = context.model_of(config.model)
    engine, tokenizer = evaluation_engine(config.rollout, name, max_tokens, context.directory)
    template = getattr(tokenizer, "chat_template", None)
    made_by = {
        "engine": config.rollout.engine,
        "dtype": config.rollout.dtype,
        "fingerprint": model_fingerprint(resolve_model(name)),
        "chat_template": None if template is None else sha256(str(template).encode()).hexdigest()[:16],
    }
    return str(config.model), engine, tokenizer, made_by


def identity_extra(config: EvalStage) -> dict[str, Any]:
    """Versions of the rules in composed rewards: their samples cannot be judged again from what is stored; and what the
    named suites are.
    """
    rules = {name: version for reward in _rewards(config) if reward != "math" for name, version in _versions(reward)}
    named = {} if isinstance(config.suites, Mapping) else suites_of(config)
    return rules | {f"suite {name}": getattr(suite, "identity", "") for name, suite in named.items()}


def extensible_extra(config: EvalStage) -> dict[str, Any]:
    """The version of the math verifier: when it grows, the stored samples are judged again and none is drawn."""
    versions = [version for reward in _rewards(config) if reward == "math" for _, version in _versions(reward)]
    return {"grader": max(versions)} if versions else {}


def _rewards(config: EvalStage) -> list[Any]:
    from reasonrl.eval.scoring import plain_spec

    return [plain_spec(suite.reward) for suite in suites_of(config).values()]


def _versions(reward: Any) -> list[tuple[str, int]]:
    from reasonrl.rewards.versions import rule_versions

    return list(rule_versions(reward).items())


def resume_point(directory: Path) -> str | None:
    """Where a half-done evaluation goes on: how many suites are done, and how many samples are there."""
    from reasonrl.eval.results import read_results
    from reasonrl.eval.samples import SAMPLES, UNJUDGED

    done = list(read_results(directory)["suites"])
    there = sum(max(_lines(path), _lines(path.with_name(UNJUDGED))) for path in directory.glob(f"*/{SAMPLES}"))
    if not done and not there:
        return None
    return f"{len(done)} suites done, {there:,} samples kept"


def _lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)
