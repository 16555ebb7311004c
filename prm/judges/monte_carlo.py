"""Labels by completions: a step is as good as what comes of the solution from there (arXiv:2312.08935)."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from reasonrl.errors import DataError, RewardError
from reasonrl.prm.judges.base import Judged, Keep, Solution, Task, Usage
from reasonrl.prm.labels import mc_labels

if TYPE_CHECKING:
    from reasonrl.data_tools.worlds.reflective import Law
    from reasonrl.rollout.engine import RolloutEngine

Counts = tuple[list[int], Usage]
"""Of one solution: [K] completions from after each step that came to the right answer, and what they cost."""

_LAW = ("preset", "shares", "teacher_seed", "operators")
_MODEL = ("max_tokens", "temperature", "top_p", "engine", "batch_size", "system_prompt", "template", "verify")


class Completer(Protocol):
    """Counts right completions. `at_once` solutions are given to it together."""

    at_once: int

    def successes(self, solutions: Sequence[Solution], n: int, seed: str) -> list[Counts | DataError]:
        """For each solution its counts, or why there are none; n completions a step, drawn by a seed that is made of
        `seed`, the solution's id and the step.
        """
        ...

    def close(self) -> None:
        """Let go of the model."""
        ...


class MonteCarloJudge:
    """Completes a solution from after each step, `completions` times: the hard label is right where at least `least`
    of them come to the right answer, the soft label is their share. The last step follows the verdict on the final
    answer.

    Args:
        world: `reflective`: the world's law completes (with `preset`, `shares`, `teacher_seed`, `operators`, as
            `law_of`), and its reader tells right answers. With a `model` the reader alone.
        model: folder or hub id of a policy that completes.
        max_tokens: of one completion; one that is cut is wrong.
        temperature, top_p: of the completions.
        engine: `transformers` or `vllm`.
        batch_size: completions drawn together.
        system_prompt, template: how a problem is asked.
        verify: the rules of comparison by which answers are checked where there is no world.
        at_once: solutions whose completions are drawn together by a model.
        completions, least: see above.
        seed: of the draws, with the completer's settings, the solution's id and the step: two completers draw
            independently.

    Raises:
        RewardError: no completer, or arguments that do not belong together.
        DataError: a law that cannot be.
    """

    votes = 1

    def __init__(
        self,
        world: str | None = None,
        model: str | None = None,
        *,
        completions: int = 8,
        least: int = 1,
        seed: int = 0,
        preset: str | None = None,
        shares: Mapping[str, float] | None = None,
        teacher_seed: int | None = None,
        operators: int | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        engine: str | None = None,
        batch_size: int | None = None,
        system_prompt: str | None = None,
        template: str | None = None,
        verify: str | None = None,
        at_once: int = 32,
    ) -> None:
        law = {"preset": preset, "shares": shares, "teacher_seed": teacher_seed, "operators": operators}
        sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "engine": engine}
        asking = {"batch_size": batch_size, "system_prompt": system_prompt, "template": template, "verify": verify}
        given: dict[str, Any] = {
            name: value for name, value in {**law, **sampling, **asking}.items() if value is not None
        }
        _check(world, model, given)
        for name, value in (("completions", completions), ("least", least), ("at_once", at_once)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise RewardError(f"monte_carlo judge: {name}={value!r} -> give a whole number above 0")
        if least > completions:
            raise RewardError(f"monte_carlo judge: least={least} of {completions} completions -> lower it")
        self.n, self.least, self.seed = completions, least, seed
        self.world, self.model, self.given = world, model, given
        self.at_once = at_once if model is not None else 1
        self._completer: Completer | None = None
        if model is None:
            self._completer = LawCompleter(preset or "prm", shares, teacher_seed or 0, operators or 21)

    @property
    def drawn_by(self) -> str:
        """What the draws hang on beside the solution and the step."""
        drawing = {name: value for name, value in self.settings().items() if name not in ("completions", "least")}
        text = json.dumps(drawing, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def settings(self) -> dict[str, Any]:
        """What changes the labels; a model by its weights, not by where it lies."""
        from reasonrl.fingerprint import model_fingerprint

        told = {name: value for name, value in self.given.items() if name != "batch_size"}
        if self.model is not None:
            told["model"] = _of_model(self.model, model_fingerprint)
        return {
            "judge": "monte_carlo",
            "prompt_hash": None,
            "world": self.world,
            "completions": self.n,
            "least": self.least,
            "seed": self.seed,
            **told,
        }

    def judge(self, tasks: Iterable[Task], keep: Keep) -> Generator[Judged, None, None]:
        """As `Judge.judge`."""
        waiting, seed = iter(tasks), self.drawn_by
        while some := list(itertools.islice(waiting, self.at_once)):
            counted = self._open().successes([task.solution for task in some], self.n, seed)
            judged = [self._judged(task, found) for task, found in zip(some, counted, strict=True)]
            for one in judged:
                keep(one)
            yield from judged

    def close(self) -> None:
        """Let go of the model."""
        if self._completer is not None:
            self._completer.close()

    def _open(self) -> Completer:
        if self._completer is None:
            assert self.model is not None
            options = {name: self.given[name] for name in _MODEL if name in self.given}
            self._completer = model_completer(self.model, world=self.world, at_once=self.at_once, **options)
        return self._completer

    def _judged(self, task: Task, found: Counts | DataError) -> Judged:
        if isinstance(found, DataError):
            return Judged(task, failure=str(found))
        counts, usage = found
        hard, soft = mc_labels(counts, self.n, self.least)
        return Judged(task, tuple(hard), soft=tuple(soft), usage=usage)


class LawCompleter:
    """Completes by the law of the reflective world, at no model's cost; whatever a model wrote, malformed steps
    included, is gone on from as the world's reader understands it.
    """

    at_once = 1

    def __init__(
        self,
        preset: str = "prm",
        shares: Mapping[str, float | None] | None = None,
        teacher_seed: int = 0,
        operators: int = 21,
    ) -> None:
        from reasonrl.data_tools.worlds.reflective import law_of

        self.law: Law = law_of(preset, shares, teacher_seed, operators)

    def successes(self, solutions: Sequence[Solution], n: int, seed: str) -> list[Counts | DataError]:
        """As `Completer.successes`."""
        found: list[Counts | DataError] = []
        for solution in solutions:
            try:
                found.append((self._counts(solution, n, seed), Usage()))
            except DataError as problem:
                found.append(problem)
        return found

    def close(self) -> None:
        """There is nothing to close."""

    def _counts(self, solution: Solution, n: int, seed: str) -> list[int]:
        from reasonrl.data_tools.worlds.reflective import answer_of, gold_of, read_problem

        start, operations = read_problem(solution.problem)
        chain, gold = [("", start), *operations], gold_of(solution.problem)
        correct = solution.correct if solution.correct is not None else answer_of(solution.text) == gold
        counts = []
        for number, step in enumerate(solution.steps[:-1]):
            prefix = solution.text[: step.end]
            # One stream of draws a step: labels do not hang on which solutions were judged before.
            draw = random.Random(f"{seed}/{number}/{solution.id}")
            ends = self.law.completions(chain, prefix, draw, n)
            counts.append(sum(answer_of(end or prefix) == gold for end in ends))
        return [*counts, n * bool(correct)]


class EngineCompleter:
    """Completes by a rollout engine: the prompt's tokens, then those of the text up to the step's end.

    Args:
        engine: draws.
        tokenizer: the model's.
        max_tokens, temperature, top_p: of a completion.
        system_prompt, template: how a problem is asked.
        verify: rules of comparison for answers.
        world: `reflective`: its reader tells right answers.
        at_once: solutions whose completions are drawn together.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        tokenizer: Any,
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        system_prompt: str | None = None,
        template: str | None = None,
        verify: str = "default",
        world: str | None = None,
        at_once: int = 32,
    ) -> None:
        from reasonrl.rollout.engine import SamplingParams

        self.engine, self.tokenizer, self.at_once = engine, tokenizer, at_once
        self.params = SamplingParams(max_tokens, temperature, top_p)
        self.system_prompt, self.template, self.verify, self.world = system_prompt, template, verify, world

    def successes(self, solutions: Sequence[Solution], n: int, seed: str) -> list[Counts | DataError]:
        """As `Completer.successes`."""
        from reasonrl.rollout.engine import Request
        from reasonrl.rollout.seeds import sample_seed

        requests: list[Request] = []
        places: dict[str, tuple[int, int]] = {}
        problems: dict[int, DataError] = {}
        for number, solution in enumerate(solutions):
            try:
                prompts = self._prompts(solution)
            except DataError as problem:
                problems[number] = problem
                continue
            for step, ids in enumerate(prompts):
                for index in range(n):
                    key = f"{number}/{step}/{index}"
                    places[key] = (number, step)
                    drawn = sample_seed(seed, "monte_carlo", solution.id, step, index)
                    requests.append(Request(key, ids, drawn))
        return self._counted(solutions, n, requests, places, problems)

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def _prompts(self, solution: Solution) -> list[tuple[int, ...]]:
        """What is completed: the prompt and the text up to the end of each step but the last."""
        from reasonrl.data_tools.prompts import as_messages, prompt_ids

        if solution.answer is None:
            raise DataError("there is no answer by which a completion could be right")
        row = {**solution.row, "problem": solution.problem}
        asked = prompt_ids(self.tokenizer, as_messages(row, self.system_prompt, self.template))
        texts = [solution.text[: step.end] for step in solution.steps[:-1]]
        return [(*asked, *self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]

    def _counted(
        self,
        solutions: Sequence[Solution],
        n: int,
        requests: Sequence[Any],
        places: Mapping[str, tuple[int, int]],
        problems: Mapping[int, DataError],
    ) -> list[Counts | DataError]:
        ends: list[tuple[int, int, str]] = []
        asked = [[0, 0, 0] for _ in solutions]
        for sample in self.engine.stream(requests, self.params) if requests else ():
            number, step = places[sample.request.id]
            used = asked[number]
            used[0], used[1], used[2] = (
                used[0] + 1,
                used[1] + len(sample.request.prompt_ids),
                used[2] + sample.length,
            )
            if sample.finish_reason == "stop":
                solution = solutions[number]
                ends.append((number, step, solution.text[: solution.steps[step].end] + sample.text))
        # The whole text stands for its last step, where nobody has checked it yet.
        ends += [
            (number, len(solution.steps) - 1, solution.text)
            for number, solution in enumerate(solutions)
            if solution.correct is None and number not in problems
        ]
        counts = [[0] * len(solution.steps) for solution in solutions]
        for (number, step, _), right in zip(ends, self._right(solutions, ends), strict=True):
            counts[number][step] += right
        for number, solution in enumerate(solutions):
            verdict = bool(counts[number][-1]) if solution.correct is None else solution.correct
            counts[number][-1] = n * verdict
        return [problems.get(number) or (counts[number], Usage(*asked[number])) for number in range(len(solutions))]

    def _right(self, solutions: Sequence[Solution], ends: Sequence[tuple[int, int, str]]) -> list[bool]:
        if self.world is not None:
            from reasonrl.data_tools.worlds.reflective import answer_of, gold_of

            return [answer_of(text) == gold_of(solutions[number].problem) for number, _, text in ends]
        from reasonrl.rewards.grading import grade

        pairs = [(solutions[number].answer or "", text) for number, _, text in ends]
        return [verdict.correct for verdict in grade(pairs, self.verify).verdicts]


def model_completer(
    model: str,
    *,
    max_tokens: int,
    engine: str = "transformers",
    batch_size: int | None = None,
    **options: Any,
) -> EngineCompleter:
    """An `EngineCompleter` over a model that is loaded now; `options` are its own."""
    from reasonrl.models import load_policy, load_tokenizer, resolve_model
    from reasonrl.rollout import build_engine

    sizes = {} if batch_size is None else {"batch_size": batch_size}
    if engine == "vllm":
        tokenizer = load_tokenizer(model)
        built = build_engine("vllm", None, tokenizer, path=resolve_model(model), **sizes)
        return EngineCompleter(built, tokenizer, max_tokens=max_tokens, **options)
    import torch

    policy, tokenizer = load_policy(model, dtype="auto")
    if torch.cuda.is_available():
        policy.to("cuda")
    policy.eval()
    built = build_engine("transformers", policy, tokenizer, **sizes)
    return EngineCompleter(built, tokenizer, max_tokens=max_tokens, **options)


def _check(world: str | None, model: str | None, given: Mapping[str, Any]) -> None:
    owner = "monte_carlo judge"
    if world is None and model is None:
        raise RewardError(f"{owner}: nobody completes -> give world: reflective, or model: and max_tokens")
    if world not in (None, "reflective"):
        raise RewardError(f"{owner}: world {world!r} has no law that completes -> give reflective")
    allowed = _LAW if model is None else _MODEL if world is None else tuple(set(_MODEL) - {"verify"})
    for name in given:
        if name not in allowed:
            side = (
                "the law of a world"
                if name in _LAW
                else "answers that no world reads"
                if world and model
                else "a model"
            )
            raise RewardError(f"{owner}: {name} belongs to {side} -> remove it")
    if model is not None:
        if "max_tokens" not in given:
            raise RewardError(f"{owner}: max_tokens is missing: how long a completion may become")
        if given.get("engine", "transformers") not in ("transformers", "vllm"):
            raise RewardError(f"{owner}: engine={given['engine']!r} -> give transformers or vllm")


def _of_model(model: str, fingerprint: Any) -> str:
    from reasonrl.models import resolve_model

    return fingerprint(resolve_model(model)) or model
