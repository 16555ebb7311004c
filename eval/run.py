"""Sampling a suite: requests through a rollout engine, samples judged and stored, figures with intervals at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError, Problem, RecipeError
from reasonrl.eval.drawing import OnProgress
from reasonrl.eval.findings import findings
from reasonrl.eval.questions import suite_hash
from reasonrl.eval.recording import SampleOrder, record_samples
from reasonrl.eval.results import SuiteResult, summarise, write_result
from reasonrl.eval.scoring import plain_spec

if TYPE_CHECKING:
    from reasonrl.rollout.engine import RolloutEngine


def run_suite(
    engine: RolloutEngine,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    order: SampleOrder,
    *,
    k: Sequence[int] = (1,),
    confidence: float = 0.95,
    metrics: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
    at_safe_point: Callable[[], None] | None = None,
) -> SuiteResult:
    """Evaluates one suite: its record in `<directory>/<suite>/` (`samples.py`) and its entry in
    `<directory>/results.json`.

    Every sample's seed comes from (seed, stage, suite, problem id, sample index), so that an evaluation that was killed
    goes on from the samples on disk to the same result, and a larger n keeps the samples there are. A sample that did
    not end with a stop token counts as wrong and as truncated. Samples that an older version of the math verifier has
    judged are judged again (`verdicts/current.jsonl`), and what changed is written to `regraded.json`.

    Args:
        engine: draws the samples.
        tokenizer: renders and tokenises the prompts; of a vision-language model its processor, which reads pictures;
            None for an engine that is given conversations (`rollout.endpoint_engine`).
        rows: problems with `id`, `problem` or `prompt`, and what the reward needs (`answer` for `math`).
        order: what to draw and how to judge it; its name is the suite's.
        k: which pass@k to report; each at most n.
        metrics: names of further figures (`reasonrl.recipe.metric_names`).
        confidence: of every interval.
        about: what is told of the rows beside the figures: `limited`, `rows` (`findings.findings`).
        on_progress: called with (samples done, samples in all, share of right ones so far or None).
        at_safe_point: called after a sample has been stored; may raise to stop.

    Raises:
        RecipeError: k is larger than n, a metric cannot be told from these samples, or n > 1 samples at temperature 0.
        DataError: no rows, or an id occurs twice.
        RunError: the folder holds samples made with other settings or for other prompts, or another process writes
            there.
    """
    _check(rows, order, k)
    _check_metrics(metrics, rows, order)
    recorded = record_samples(engine, tokenizer, rows, order, on_progress=on_progress, at_safe_point=at_safe_point)
    problems = {key: asked.record() for key, asked in recorded.questions.items()}
    result = summarise(
        order.name,
        recorded.samples,
        k=k,
        decoding=order.decoding(),
        prompt_hash=suite_hash(recorded.questions),
        seed=order.seed,
        confidence=confidence,
        metrics=metrics,
        problems=problems,
    )
    golds = {key: problem["answer"] for key, problem in problems.items()}
    told = findings(
        recorded.samples,
        golds,
        max_tokens=order.params.max_tokens,
        temperature=order.params.temperature,
        about=about,
    )
    write_result(order.directory, result, {**(about or {}), "grader": recorded.grader, "warnings": told})
    return result


def _check(rows: Sequence[Mapping[str, Any]], order: SampleOrder, k: Sequence[int]) -> None:
    n, suite = order.n, order.name
    problems = [
        Problem(
            f"suites.{suite}.k",
            f"pass@{size} needs at least {size} samples a problem, but n = {n}",
            fix=f"raise n to {size}",
        )
        for size in k
        if not 1 <= size <= n
    ]
    if order.params.temperature == 0 and n > 1:
        problems.append(
            Problem(
                f"suites.{suite}.n",
                f"n = {n} samples at temperature 0 would all be the same",
                fix="set n: 1, or a temperature above 0",
            )
        )
    if problems:
        raise RecipeError(problems)
    if not rows:
        raise DataError(f"suite {suite!r} has no problems")


def _check_metrics(metrics: Sequence[str], rows: Sequence[Mapping[str, Any]], order: SampleOrder) -> None:
    from reasonrl.recipe.metric_names import GROUPED, metric_faults

    faults = metric_faults(tuple(metrics), order.n, plain_spec(order.reward), order.greedy)
    grouped = [name for name in metrics if name in GROUPED]
    if grouped and not any(row.get("group") is not None for row in rows):
        faults.append((f"{grouped[0]} is about groups of problems, and no row has a `group`", "name the column"))
    if faults:
        raise RecipeError([Problem(f"suites.{order.name}.metrics", message, fix=fix) for message, fix in faults])
