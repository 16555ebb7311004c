"""Stage kind `prm_eval`: examinations of a process reward model, beside one another in one `results.json`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.stages.common import evaluation_engine, load_source, quiet_libraries, required_columns

if TYPE_CHECKING:
    from reasonrl.eval.exams.record import Examined
    from reasonrl.eval.exams.scores import Scored
    from reasonrl.pipeline.stages.common import Source
    from reasonrl.prm.scoring import StepScorer
    from reasonrl.recipe import PRMEvalStage, Reference
    from reasonrl.recipe.prm_eval_stage import BenchmarksExam, BestOfExam, SearchExam, StepsExam, WorldWriter


def run(config: PRMEvalStage, context: StageContext) -> StageResult:
    """Runs the examinations one after the other; goes on from the scores on disk.

    Returns:
        The figures by `<suite>/<figure>`; `data` is the `results.json`, next to which each suite has its folder.
    """
    from reasonrl.eval.exams.curves import plot_exam
    from reasonrl.eval.exams.record import flat_metrics, write_examined
    from reasonrl.eval.exams.tables import exam_text
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
                plot_exam(name, entry, context.directory / f"{name}.png")
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
        from reasonrl.recipe.prm_eval_stage import BestOfExam, SearchExam, StepsExam

        plan: dict[str, Callable[[str], Mapping[str, Examined]]] = {}
        for name, exam in self.config.exams().items():
            if isinstance(exam, StepsExam):
                plan[name] = lambda suite, exam=exam: {suite: self.steps(suite, exam)}  # type: ignore[misc]
            elif isinstance(exam, BestOfExam):
                plan[name] = lambda suite, exam=exam: {suite: self.best_of(suite, exam)}  # type: ignore[misc]
            elif isinstance(exam, SearchExam):
                plan[name] = lambda suite, exam=exam: {suite: self.search(suite, exam)}  # type: ignore[misc]
        if self.config.benchmarks is not None:
            plan["benchmarks"] = lambda suite: self.benchmarks()
        return plan

    def steps(self, suite: str, exam: StepsExam) -> Examined:
        """Step scores against labels."""
        from reasonrl.eval.exams.steps import examine_steps

        source = self.source(exam.data)
        scored = self.scored(suite, source.messages, list(source.rows), exam.scores, None)
        return examine_steps(list(source.rows), scored, threshold=exam.threshold, aggregation=exam.aggregation)

    def best_of(self, suite: str, exam: BestOfExam) -> Examined:
        """Best-of-N."""
        from reasonrl.eval.exams.best_of import examine_best_of
        from reasonrl.pipeline.stages.segmenting import segmenter_of

        source = self.source(exam.data)
        segmenter = segmenter_of(exam.segment or self.config.segment)
        scored = self.scored(suite, source.messages, list(source.rows), exam.scores, segmenter)
        return examine_best_of(
            list(source.rows),
            scored,
            k=exam.k,
            aggregations=exam.aggregations,
            judge=lambda rows: judged(exam.reward, rows, self.context.base_directory),
            seed=self.context.seed,
        )

    def search(self, suite: str, exam: SearchExam) -> Examined:
        """Guided search."""
        from reasonrl.eval.exams.search import examine_search, search_rows
        from reasonrl.prm.search import SearchSettings
        from reasonrl.recipe.prm_eval_stage import WorldWriter

        source = self.source(exam.data, required_columns(exam.reward))
        rows = list(source.rows)
        if any(row.get("images") for row in rows):
            raise DataError(f"{suite}: problems have pictures, which steps are not searched for yet -> leave them out")
        names = ("width", "max_steps", "max_step_tokens", "temperature", "top_p", "aggregation")
        given = {name: getattr(exam, name) for name in names}
        policy = exam.policy
        engine = _LateWorld(self, policy) if isinstance(policy, WorldWriter) else _LateEngine(self, exam, policy)
        try:
            found = search_rows(
                rows,
                self.context.directory / suite,
                lambda block, settings: engine.search(block, settings, source.messages),
                SearchSettings(candidates=exam.width, separator=exam.step_end, **given),
                exam.candidates,
                on_progress=lambda done, total: self.context.report_progress(done, total, "solutions", suite),
                at_safe_point=self.context.raise_if_stopping,
            )
        finally:
            engine.close()
        named = policy.model_dump() if isinstance(policy, WorldWriter) else str(policy)
        about = {**given, "policy": named, "step_end": exam.step_end, "candidates": list(exam.candidates)}
        return examine_search(rows, found, lambda some: judged(exam.reward, some, self.context.base_directory), about)

    def benchmarks(self) -> dict[str, Examined]:
        """Published benchmarks, a suite a file."""
        from reasonrl.eval.exams import benchmarks as bench
        from reasonrl.prm.processbench import read_processbench

        exam = self.config.benchmarks
        assert exam is not None, "it is planned only where it is there"
        files = benchmark_files(exam)
        subsets = {name: read_processbench(files[name]) for name in files if name.startswith(PROCESSBENCH)}
        scored = {name: self._bench_scores(name, rows) for name, rows in subsets.items()}
        threshold = exam.threshold
        if threshold == "gsm8k":
            threshold = bench.gsm8k_threshold(subsets[GSM8K], scored[GSM8K])
        found = {name: bench.examine_processbench(rows, scored[name], threshold) for name, rows in subsets.items()}
        for name, path in files.items():
            if name not in subsets:
                rows = bench.read_prmbench(path)
                found[name] = bench.examine_prmbench(rows, self._bench_scores(name, rows), threshold)
        return found

    def _bench_scores(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Scored:
        from reasonrl.data_tools.prompts import as_messages

        return self.scored(name, as_messages, rows, None, None)

    def source(self, data: Any, require: Sequence[str] = ("problem",)) -> Source:
        """The rows of an examination."""
        found = load_source(data, self.context, require)
        if found.rows.report.dropped:
            self.context.say(f"{found.rows.report}")
        return found

    def scored(
        self, suite: str, messages: Any, rows: Sequence[Mapping[str, Any]], column: str | None, segmenter: Any
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
            messages=messages,
            on_progress=lambda done: self.context.report_progress(done, len(rows), "solutions", suite),
            at_safe_point=self.context.raise_if_stopping,
        )


PROCESSBENCH, GSM8K = "processbench_", "processbench_gsm8k"


def benchmark_files(exam: BenchmarksExam) -> dict[str, Path]:
    """The files of the benchmarks by the names of their suites.

    Raises:
        DataError: there is no folder, or a file is not there.
    """
    folder = exam.folder or os.environ.get("REASONRL_DATA")
    if folder is None:
        raise DataError("benchmarks: there is no folder of files -> set REASONRL_DATA, or benchmarks.folder")
    found = {f"{PROCESSBENCH}{name}": Path(folder) / "processbench" / f"{name}.jsonl" for name in exam.processbench}
    found |= {f"prmbench_{Path(name).stem}": Path(folder) / "prmbench" / name for name in exam.prmbench}
    for suite, path in found.items():
        if not path.is_file():
            raise DataError(f"benchmarks: {suite}: {path} is not there -> put the published file there")
    return found


class _LateEngine:
    """The policy's engine, loaded when the first search asks for it."""

    def __init__(self, desk: Desk, exam: SearchExam, policy: str | Reference) -> None:
        self.desk, self.exam, self.policy = desk, exam, policy
        self._made: tuple[Any, Any, Any] | None = None

    def search(self, rows: Sequence[Mapping[str, Any]], settings: Any, messages: Any) -> Sequence[Any]:
        """`guided_search` with the shared prefixes read once."""
        from reasonrl.prm.search import guided_search
        from reasonrl.prm.shared_prefix import SharedPrefixScorer

        if self._made is None:
            config, context = self.desk.config, self.desk.context
            name = context.model_of(self.policy)
            engine, tokenizer = evaluation_engine(config.rollout, name, self.exam.max_step_tokens, context.directory)
            self._made = engine, tokenizer, SharedPrefixScorer(self.desk.model)
        engine, tokenizer, scorer = self._made
        scorer.scorer.encoder.messages = messages
        return guided_search(engine, tokenizer, scorer, rows, settings, seed=self.desk.context.seed, messages=messages)

    def close(self) -> None:
        """Give the engine back."""
        if self._made is not None:
            self._made[0].close()


class _LateWorld:
    """A world's law in the place of a policy; the model is loaded when the first search asks for it."""

    def __init__(self, desk: Desk, policy: WorldWriter) -> None:
        self.desk, self.policy = desk, policy
        self._scorer: Any = None

    def search(self, rows: Sequence[Mapping[str, Any]], settings: Any, messages: Any) -> Sequence[Any]:
        """`search_with` the law's lines, the shared prefixes read once."""
        from reasonrl.prm.search import search_with
        from reasonrl.prm.search_worlds import world_writer
        from reasonrl.prm.shared_prefix import SharedPrefixScorer

        writer = world_writer(self.policy.world, rows, settings, self.desk.context.seed, self.policy.args)
        if self._scorer is None:
            self._scorer = SharedPrefixScorer(self.desk.model)
        self._scorer.scorer.encoder.messages = messages
        return search_with(writer, self._scorer, rows, settings)

    def close(self) -> None:
        """There is nothing to give back."""


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
    if config.benchmarks is not None:
        lines += [f"suite {suite}: {path}" for suite, path in benchmark_files(config.benchmarks).items()]
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
