"""Stage kind `prm_eval`: examinations of a process reward model, beside one another in one `results.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.pipeline.context import StageContext, StageResult

if TYPE_CHECKING:
    from reasonrl.eval.exams.record import Examined
    from reasonrl.eval.exams.scores import Scored
    from reasonrl.pipeline.stages.common import Source
    from reasonrl.prm.scoring import StepScorer
    from reasonrl.recipe import PRMEvalStage
    from reasonrl.recipe.prm_eval_stage import BestOfExam, StepsExam


def run(config: PRMEvalStage, context: StageContext) -> StageResult:
    """Runs the examinations one after the other; goes on from the scores on disk.

    Returns:
        The figures by `<suite>/<figure>`; `data` is the `results.json`, next to which each suite has its folder.
    """
    from reasonrl.eval.exams.record import flat_metrics, write_examined
    from reasonrl.eval.exams.tables import exam_text
    from reasonrl.pipeline.stages.common import quiet_libraries
    from reasonrl.rewards.pool import close_shared_pools

    quiet_libraries()
    desk = Desk(config, context)
    metrics: dict[str, float] = {}
    try:
        for suite, examine in desk.plan().items():
            context.report_progress(0, None, "solutions", suite)
            for name, examined in examine(suite).items():
                entry = write_examined(context.directory, name, examined, seed=context.seed)
                metrics |= flat_metrics(name, entry)
                context.say(exam_text(name, entry))
            context.raise_if_stopping()
    finally:
        close_shared_pools()
    return StageResult(metrics=metrics, data=context.directory / "results.json")


@dataclass
class Desk:
    """What the examinations of one stage share: the model, loaded once and only if something is to be scored."""

    config: PRMEvalStage
    context: StageContext

    @cached_property
    def model(self) -> StepScorer:
        """The scorer."""
        from reasonrl.prm.scoring import load_scorer

        assert self.config.model is not None, "the recipe's checks"
        self.context.say("loading the process reward model")
        return load_scorer(
            self.context.model_of(self.config.model),
            tokens_per_microbatch=self.config.tokens_per_microbatch,
            max_length=self.config.max_length,
        )

    def plan(self) -> dict[str, Callable[[str], Mapping[str, Examined]]]:
        """What examines, by suite, in order."""
        from reasonrl.recipe.prm_eval_stage import BestOfExam, StepsExam

        plan: dict[str, Callable[[str], Mapping[str, Examined]]] = {}
        for name, exam in self.config.exams().items():
            if isinstance(exam, StepsExam):
                plan[name] = lambda suite, exam=exam: {suite: self.steps(suite, exam)}  # type: ignore[misc]
            elif isinstance(exam, BestOfExam):
                plan[name] = lambda suite, exam=exam: {suite: self.best_of(suite, exam)}  # type: ignore[misc]
        return plan

    def steps(self, suite: str, exam: StepsExam) -> Examined:
        """Step scores against labels."""
        from reasonrl.eval.exams.steps import examine_steps

        source = self.source(exam.data)
        scored = self.scored(suite, source, list(source.rows), exam.scores, None)
        return examine_steps(list(source.rows), scored, threshold=exam.threshold, aggregation=exam.aggregation)

    def best_of(self, suite: str, exam: BestOfExam) -> Examined:
        """Best-of-N."""
        from reasonrl.eval.exams.best_of import examine_best_of
        from reasonrl.pipeline.stages.segmenting import segmenter_of

        source = self.source(exam.data)
        segmenter = segmenter_of(exam.segment or self.config.segment)
        scored = self.scored(suite, source, list(source.rows), exam.scores, segmenter)
        return examine_best_of(
            list(source.rows),
            scored,
            k=exam.k,
            aggregations=exam.aggregations,
            judge=lambda rows: judged(exam.reward, rows, self.context.base_directory),
            seed=self.context.seed,
        )

    def source(self, data: Any) -> Source:
        """The rows of an examination."""
        from reasonrl.pipeline.stages.common import load_source

        found = load_source(data, self.context, ("problem",))
        if found.rows.report.dropped:
            self.context.say(f"{found.rows.report}")
        return found

    def scored(
        self, suite: str, source: Source, rows: Sequence[Mapping[str, Any]], column: str | None, segmenter: Any
    ) -> Scored:
        """Step scores of rows: their own, or the model's."""
        from reasonrl.eval.exams.scores import given_scores, score_rows

        if column is not None:
            return given_scores(rows, column)
        return score_rows(
            rows,
            self.context.directory / suite,
            lambda: self.model,
            segmenter=segmenter,
            messages=source.messages,
            on_progress=lambda done: self.context.report_progress(done, len(rows), "solutions", suite),
            at_safe_point=self.context.raise_if_stopping,
        )


def judged(reward: Any, rows: Sequence[Mapping[str, Any]], base_dir: Path) -> Sequence[Any]:
    """Judgements of solutions by a reward."""
    from reasonrl.data_tools.prompts import as_messages
    from reasonrl.eval.scoring import Answer, build_scorer

    answers = [
        Answer(row, as_messages(row), str(row.get("text") or row.get("solution") or ""), (), "stop") for row in rows
    ]
    return build_scorer(reward, base_dir, rows)(answers)


def dry_run(config: PRMEvalStage, context: StageContext) -> list[str]:
    """What would be examined, a line a suite."""
    from reasonrl.recipe import Reference
    from reasonrl.recipe.prm_eval_stage import BestOfExam, SearchExam, StepsExam

    lines = []
    for suite, exam in config.exams().items():
        known = not isinstance(exam.data, Reference) or context.is_available(exam.data)
        size = f"{len(Desk(config, context).source(exam.data).rows)} rows" if known else f"{exam.data}, not there yet"
        match exam:
            case StepsExam():
                what = f"step scores against labels, right from {exam.threshold:g} on"
            case BestOfExam():
                what = f"best of {', '.join(map(str, exam.k))} by {', '.join(exam.aggregations)} of the steps"
            case SearchExam():
                what = f"search with {', '.join(map(str, exam.candidates))} candidates a step, {exam.width} kept"
        lines.append(f"suite {suite}: {what}; {size}")
    return lines


def identity_extra(config: PRMEvalStage) -> dict[str, Any]:
    """Versions of what cuts and judges solutions."""
    from reasonrl.prm import segment
    from reasonrl.rewards.versions import rule_versions

    rewards = [exam.reward for exam in config.exams().values() if hasattr(exam, "reward")]
    rules = {name: version for reward in rewards for name, version in rule_versions(reward).items()}
    return {"segmenter": segment.VERSION, **rules}


def resume_point(directory: Path) -> str | None:
    """Where half-done examinations go on: how many suites are done, and how many solutions are scored."""
    from reasonrl.eval.exams.scores import SCORES
    from reasonrl.eval.results import read_results

    done = list(read_results(directory)["suites"])
    scored = 0
    for path in directory.glob(f"*/{SCORES}"):
        with path.open("rb") as file:
            scored += sum(1 for _ in file)
    return f"{len(done)} suites done, {scored:,} solutions scored" if done or scored else None
