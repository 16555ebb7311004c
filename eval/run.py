"""Sampling a suite: requests through a rollout engine, samples judged and stored, figures with intervals at the end."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError, Problem, RecipeError
from reasonrl.eval.results import SuiteResult, summarise, write_result
from reasonrl.eval.samples import Key, SampleStore
from reasonrl.eval.scoring import Answer, Beginner, Judgement, Scorer, build_judging, grader_version, plain_spec
from reasonrl.observe import write_atomically

if TYPE_CHECKING:
    from reasonrl.rollout.engine import Request, RolloutEngine, Sample, SamplingParams

SHARD_SAMPLES = 256
SHARD_SECONDS = 20.0


@dataclass(frozen=True)
class _Problem:
    row: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    text: str
    ids: tuple[int, ...]
    hash: str
    images: tuple[Any, ...] = ()


def run_suite(
    engine: RolloutEngine,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    n: int,
    params: SamplingParams,
    suite_name: str,
    directory: str | Path,
    seed: int,
    stage: str = "eval",
    reward: Any = "math",
    greedy: bool = False,
    k: Sequence[int] = (1,),
    model: str = "",
    system_prompt: str | None = None,
    template: str | None = None,
    base_dir: str | Path | None = None,
    confidence: float = 0.95,
    on_progress: Callable[[int, int], None] | None = None,
    at_safe_point: Callable[[], None] | None = None,
) -> SuiteResult:
    """Evaluates one suite and writes `<directory>/<suite>/samples.parquet` and the suite's entry in
    `<directory>/results.json`.

    Every sample's seed comes from (seed, stage, suite, problem id, sample index), so that an evaluation that was killed
    goes on from the samples on disk to the same result, and a larger n keeps the samples there are. A sample that did
    not end with a stop token counts as wrong and as truncated. Samples that an older version of the math verifier has
    judged are judged again, and what changed is written to `<directory>/<suite>/regraded.json`.

    Args:
        engine: draws the samples.
        tokenizer: renders and tokenises the prompts; of a vision-language model its processor, which reads pictures.
        rows: problems with `id`, `problem` or `prompt`, and what the reward needs (`answer` for `math`).
        n: samples a problem.
        params: how to draw them.
        suite_name: names the suite's folder and its entry.
        directory: the stage's folder.
        seed: the recipe's seed.
        stage: the stage's name, part of the samples' seeds.
        reward: `math` for verdicts, or any reward spec or function; right is then a score of at least 1.
        greedy: draw one more sample a problem at temperature 0.
        k: which pass@k to report; each at most n.
        model: what is evaluated; samples of another model in the same folder are refused.
        system_prompt, template: how a row becomes a conversation.
        base_dir: what relative files in the reward spec are relative to.
        confidence: of every interval.
        on_progress: called with (samples done, samples in all).
        at_safe_point: called after samples have been stored; may raise to stop.

    Raises:
        RecipeError: k is larger than n, or n > 1 samples at temperature 0.
        DataError: no rows, or an id occurs twice.
        RunError: the folder holds samples made with other settings.
    """
    _check(rows, n=n, k=k, temperature=params.temperature, suite=suite_name)
    scorer, begin = build_judging(reward, base_dir, rows)
    problems = _prepare(tokenizer, rows, system_prompt, template)
    settings = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_tokens": params.max_tokens,
        "seed": seed,
        "stage": stage,
        "suite": suite_name,
        "model": model,
        "reward": _described(reward),
    }
    store = SampleStore(Path(directory) / suite_name, settings)
    plan: list[Key] = [(key, "sample", index) for key in problems for index in range(n)]
    if greedy:
        plan += [(key, "greedy", 0) for key in problems]
    found = {
        key: row
        for key, row in store.load().items()
        if key[0] in problems and row["prompt_hash"] == problems[key[0]].hash
    }
    run = _Run(
        engine,
        (scorer, begin),
        problems,
        store,
        found,
        len(plan),
        (seed, stage, suite_name),
        on_progress,
        at_safe_point,
    )
    run.version = grader_version(reward)
    run.judge_again()
    run.draw([key for key in plan if key[1] == "sample"], params)
    run.draw([key for key in plan if key[1] == "greedy"], replace(params, temperature=0.0, top_p=1.0))
    ordered = [found[key] for key in plan]
    store.finish(ordered)
    decoding = {"n": n, "temperature": params.temperature, "top_p": params.top_p, "max_tokens": params.max_tokens}
    result = summarise(
        suite_name, ordered, k=k, decoding=decoding, prompt_hash=_suite_hash(problems), seed=seed, confidence=confidence
    )
    write_result(directory, result)
    return result


def _check(rows: Sequence[Mapping[str, Any]], *, n: int, k: Sequence[int], temperature: float, suite: str) -> None:
    problems = [
        Problem(
            f"suites.{suite}.k",
            f"pass@{size} needs at least {size} samples a problem, but n = {n}",
            fix=f"raise n to {size}",
        )
        for size in k
        if not 1 <= size <= n
    ]
    if temperature == 0 and n > 1:
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


def _prepare(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]], system_prompt: str | None, template: str | None
) -> dict[str, _Problem]:
    """Problems by id, in order, with their prompts rendered and tokenised."""
    from reasonrl.data_tools import as_messages, prompt_ids, render_prompt
    from reasonrl.data_tools.pictures import pictures_of

    sees = hasattr(tokenizer, "image_processor")
    problems: dict[str, _Problem] = {}
    for row in rows:
        key = str(row["id"])
        if key in problems:
            raise DataError(f"the id {key!r} occurs twice; every problem needs its own -> remove or rename one")
        messages = as_messages(dict(row), system_prompt=system_prompt, template=template)
        if sees:
            problems[key] = _pictured(tokenizer, row, messages)
            continue
        if pictures_of(row):
            raise DataError(
                f"row {key}: it has {len(pictures_of(row))} pictures, and the model reads text only -> evaluate a"
                " vision-language model, or drop the column"
            )
        ids = tuple(prompt_ids(tokenizer, messages))
        digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
        problems[key] = _Problem(row, messages, render_prompt(tokenizer, messages), ids, digest)
    return problems


def _pictured(processor: Any, row: Mapping[str, Any], messages: list[dict[str, Any]]) -> _Problem:
    """A problem for a model that reads images, with pictures or without."""
    from reasonrl.rollout.images import image_digest
    from reasonrl.rollout.picture_prompts import PicturePrompts

    prompts, asked = PicturePrompts(processor), {**row, "prompt": messages}
    prompt = prompts.prompt(asked)
    digest = hashlib.sha256(json.dumps(prompt.ids).encode())
    for image in prompt.images:
        digest.update(image_digest(image))
    return _Problem(row, messages, prompts.text(asked), prompt.ids, digest.hexdigest(), prompt.images)


def _suite_hash(problems: Mapping[str, _Problem]) -> str:
    return hashlib.sha256(json.dumps([[key, problem.hash] for key, problem in problems.items()]).encode()).hexdigest()


def _described(reward: Any) -> Any:
    """A reward spec as plain data for the settings file; a function as its name."""
    spec = plain_spec(reward)
    if callable(spec):
        return f"{spec.__module__}.{getattr(spec, '__qualname__', type(spec).__qualname__)}"
    return spec


class _Run:
    """Draws what is missing, judges it and stores it shard by shard; `found` grows with every stored sample."""

    def __init__(
        self,
        engine: RolloutEngine,
        judging: tuple[Scorer, Beginner],
        problems: Mapping[str, _Problem],
        store: SampleStore,
        found: dict[Key, dict[str, Any]],
        total: int,
        seed_parts: tuple[int, str, str],
        on_progress: Callable[[int, int], None] | None,
        at_safe_point: Callable[[], None] | None,
    ) -> None:
        self.engine, self.problems, self.store, self.found = engine, problems, store, found
        self.scorer, self.begin = judging
        self.total, self.seed_parts = total, seed_parts
        self.on_progress, self.at_safe_point = on_progress, at_safe_point
        self.version: int | None = None

    def judge_again(self) -> None:
        """Judges the stored samples of another grader version; they are written with all the others at the end."""
        stale = [row for row in self.found.values() if row.get("grader") != self.version]
        if self.version is None or not stale:
            return
        changed = []
        for start in range(0, len(stale), SHARD_SAMPLES):
            rows = stale[start : start + SHARD_SAMPLES]
            problems = [self.problems[row["id"]] for row in rows]
            # The verdict needs no token ids, and they are not stored.
            answers = [
                Answer(problem.row, problem.messages, row["text"], (), row["finish_reason"])
                for problem, row in zip(problems, rows, strict=True)
            ]
            for row, problem, judgement in zip(rows, problems, self.scorer(answers), strict=True):
                before = row["verdict"]
                row |= self._judged(problem, judgement, row["finish_reason"])
                if row["verdict"] != before:
                    key = {name: row[name] for name in ("id", "metric", "index")}
                    changed.append({**key, "before": before, "now": row["verdict"]})
        record = {"grader": self.version, "judged_again": len(stale), "changed": changed}
        path = self.store.directory / "regraded.json"
        write_atomically(path, json.dumps(record, indent=2, ensure_ascii=False).encode())

    def _judged(self, problem: _Problem, judgement: Judgement, finish_reason: str) -> dict[str, Any]:
        """The columns that the grader fills."""
        right = judgement.right
        return {
            "correct": None if right is None else right and finish_reason == "stop",
            "right": right,
            "verdict": judgement.verdict,
            "score": judgement.score,
            "extracted": judgement.extracted,
            "answer": None if problem.row.get("answer") is None else str(problem.row["answer"]),
            "grader": self.version,
        }

    def _request(self, key: Key) -> Request:
        from reasonrl.rollout.engine import Request
        from reasonrl.rollout.seeds import sample_seed

        identity, metric, index = key
        part = index if metric == "sample" else metric
        return Request(
            id=json.dumps(key),
            prompt_ids=self.problems[identity].ids,
            seed=sample_seed(*self.seed_parts, identity, part),
            images=self.problems[identity].images,
        )

    def draw(self, keys: Sequence[Key], params: SamplingParams) -> None:
        """Draws the samples of `keys` that are not there yet."""
        requests = [self._request(key) for key in keys if key not in self.found]
        if not requests:
            return
        waiting: list[Sample] = []
        stored_at = time.monotonic()
        for sample in self.engine.stream(requests, params):
            waiting.append(sample)
            self.begin(self._answer(sample))
            if self.on_progress is not None:
                self.on_progress(len(self.found) + len(waiting), self.total)
            if len(waiting) >= SHARD_SAMPLES or time.monotonic() - stored_at > SHARD_SECONDS:
                self._store(waiting)
                waiting, stored_at = [], time.monotonic()
        if waiting:
            self._store(waiting)

    def _answer(self, sample: Sample) -> Answer:
        problem = self.problems[json.loads(sample.request.id)[0]]
        return Answer(problem.row, problem.messages, sample.text, sample.token_ids, sample.finish_reason)

    def _store(self, samples: Sequence[Sample]) -> None:
        keys: list[Key] = [tuple(json.loads(sample.request.id)) for sample in samples]
        answers = [self._answer(sample) for sample in samples]
        rows = []
        for key, sample, judgement in zip(keys, samples, self.scorer(answers), strict=True):
            problem = self.problems[key[0]]
            rows.append(
                {
                    "id": key[0],
                    "metric": key[1],
                    "index": key[2],
                    **self._judged(problem, judgement, sample.finish_reason),
                    "length": len(sample.token_ids),
                    "finish_reason": sample.finish_reason,
                    "prompt": problem.text,
                    "text": sample.text,
                    # As text: parquet readers differ on unsigned 64-bit numbers.
                    "seed": str(sample.request.seed),
                    "prompt_hash": problem.hash,
                }
            )
        self.store.append(rows)
        self.found.update(zip(keys, rows, strict=True))
        if self.at_safe_point is not None:
            self.at_safe_point()
