"""A language model that vLLM runs in this process as a judge of steps: the endpoint judge without a server."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonrl.errors import ModelError, RewardError
from reasonrl.prm.judges.base import Judged, Keep, Task
from reasonrl.prm.judges.endpoint import judged_of
from reasonrl.prm.judges.questions import EXACT, StepQuestions
from reasonrl.rewards.judges.asking import Answer, Question
from reasonrl.rewards.judges.sampling import judge_sampling
from reasonrl.rewards.judges.verdicts import Unreadable

_STRIDE = 1_000_003
"""Between the seeds of a question's first and second asking."""


@dataclass
class _Asked:
    """A task under way: the conversation so far, and what it has used."""

    task: Task
    question: Question
    turns: list[dict[str, str]]
    attempts: int = 0
    used: list[int] = field(default_factory=lambda: [0, 0])


class VLLMJudge:
    """Asks a model that vLLM runs in this process, as `EndpointJudge` asks one behind a server.

    Args:
        model: folder or hub id of a chat model.
        votes, temperature, max_tokens, seed, re_asks, prompt, longest_reason: as of `EndpointJudge`. A reply has at
            most the room that the question leaves in the model's context.
        reply: `exact` (every token is held to the schema of this question's reply), `json_schema`, `json_object`, or
            `text` (models that think first).
        at_once: questions under way.
        dtype, max_model_len, gpu_memory_utilization, kv_cache_memory_bytes, tensor_parallel_size, enforce_eager:
            vLLM's own.

    Raises:
        RewardError: settings that cannot be.
        ModelError: vLLM is not installed or refuses the model.
    """

    def __init__(
        self,
        model: str,
        *,
        votes: int = 1,
        temperature: float | None = None,
        max_tokens: int = 4096,
        seed: int | None = 0,
        re_asks: int = 2,
        reply: str = EXACT,
        longest_reason: int = 300,
        prompt: str | None = None,
        at_once: int = 64,
        dtype: str | None = None,
        max_model_len: int | None = None,
        gpu_memory_utilization: float | None = None,
        kv_cache_memory_bytes: int | None = None,
        tensor_parallel_size: int | None = None,
        enforce_eager: bool | None = None,
    ) -> None:
        from reasonrl.models import resolve_model

        owner = "vllm judge"
        if isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1:
            raise RewardError(f"{owner}: at_once={at_once!r} -> give a whole number from 1 on")
        self.questions = StepQuestions(owner, prompt, reply, longest_reason)
        self.sampling = judge_sampling(
            owner, votes=votes, temperature=temperature, max_tokens=max_tokens, seed=seed, re_asks=re_asks
        )
        self.name, self.path = model, resolve_model(model)
        self.votes, self.at_once, self.dtype = votes, at_once, dtype
        self.options = {
            "max_num_seqs": at_once,
            "max_model_len": max_model_len,
            "gpu_memory_utilization": gpu_memory_utilization,
            "kv_cache_memory_bytes": kv_cache_memory_bytes,
            "tensor_parallel_size": tensor_parallel_size,
            "enforce_eager": enforce_eager,
        }
        self._engine: Any = None
        self._tokenizer: Any = None
        self._folder = tempfile.TemporaryDirectory(prefix="reasonrl-judge-")
        self._numbers = itertools.count()

    def settings(self) -> dict[str, Any]:
        """What changes the labels; the model by its weights, not by where it lies."""
        from reasonrl.fingerprint import model_fingerprint

        sampling = self.sampling
        return {
            "judge": f"vllm:{Path(self.name).name}",
            "model": model_fingerprint(self.path),
            **self.questions.settings(),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
            "re_asks": sampling.re_asks,
            "votes": self.votes,
        }

    def judge(self, tasks: Iterable[Task], keep: Keep) -> Generator[Judged, None, None]:
        """As `Judge.judge`."""
        self._start()
        under_way: dict[str, _Asked] = {}
        source = iter(tasks)
        try:
            while True:
                while len(under_way) < self.at_once and (task := next(source, None)) is not None:
                    question = self.questions.about(task, 0)
                    asked = _Asked(task, question, [{"role": "user", "content": question.prompt}])
                    if (failed := self._ask(asked, under_way)) is not None:
                        keep(failed)
                        yield failed
                if not under_way:
                    return
                for output in self._engine.step():
                    if output.finished and (judged := self._answered(output, under_way)) is not None:
                        keep(judged)
                        yield judged
        finally:
            if under_way and self._engine is not None:
                self._engine.abort_request(list(under_way))

    def close(self) -> None:
        """End vLLM and give its memory back."""
        if self._engine is not None:
            from reasonrl.rollout.vllm_start import stop_engine

            stop_engine(self._engine)
            self._engine = None
        self._folder.cleanup()

    def _start(self) -> None:
        if self._engine is not None:
            return
        from reasonrl.models import load_tokenizer
        from reasonrl.rollout.vllm_folder import startable
        from reasonrl.rollout.vllm_start import checkpoint_dtype, require_vllm, start_engine

        require_vllm()
        self._tokenizer = load_tokenizer(self.path)
        if not getattr(self._tokenizer, "chat_template", None):
            raise ModelError(f"vllm judge: {self.name!r} has no chat template -> name a model that is made for chat")
        # vLLM needs a tokenizer of its own to hold tokens to a schema.
        options = {**self.options, "skip_tokenizer_init": False, "tokenizer": self.path}
        options["dtype"] = self.dtype or checkpoint_dtype(self.path)
        self._engine = start_engine(startable(self.path, Path(self._folder.name)), options)

    def _ask(self, asked: _Asked, under_way: dict[str, _Asked]) -> Judged | None:
        """Begin a reply; or what came of the task if the model has no room for it."""
        from reasonrl.rollout.vllm_images import text_prompt

        ids = self._tokenizer.apply_chat_template(asked.turns, add_generation_prompt=True, return_dict=False)
        room = self._engine.model_config.max_model_len - len(ids)
        if room < 1:
            failure = f"the question has {len(ids)} tokens, and the model's context {len(ids) + room}"
            return judged_of(asked.task, Answer(None, "", failure, asked.attempts, *asked.used))
        asked.attempts += 1
        name = str(next(self._numbers))
        self._engine.add_request(name, text_prompt(ids), self._parameters(asked, room))
        under_way[name] = asked
        return None

    def _parameters(self, asked: _Asked, room: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        form: Mapping[str, Any] = {**self.questions.extra, **asked.question.extra}.get("response_format", {})
        held = None
        if form.get("type") == "json_schema":
            held = StructuredOutputsParams(json=form["json_schema"]["schema"])
        elif form.get("type") == "json_object":
            held = StructuredOutputsParams(json_object=True)
        sampling = self.sampling
        seed = None
        if sampling.temperature and sampling.seed is not None:
            seed = sampling.seed + asked.task.vote + _STRIDE * (asked.attempts - 1)
        return SamplingParams(
            max_tokens=min(sampling.max_tokens, room),
            temperature=sampling.temperature,
            seed=seed,
            structured_outputs=held,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _answered(self, output: Any, under_way: dict[str, _Asked]) -> Judged | None:
        """What came of a task; None if it is asked about once more."""
        asked = under_way.pop(output.request_id)
        reply = output.outputs[0]
        asked.used[0] += len(output.prompt_token_ids)
        asked.used[1] += len(reply.token_ids)
        try:
            return judged_of(
                asked.task, Answer(asked.question.read(reply.text), reply.text, "", asked.attempts, *asked.used)
            )
        except Unreadable as problem:
            cut = f" (it was cut at max_tokens={self.sampling.max_tokens})" if reply.finish_reason == "length" else ""
            if asked.attempts > self.sampling.re_asks:
                failure = Answer(None, reply.text or "…", f"{problem}{cut}", asked.attempts, *asked.used)
                return judged_of(asked.task, failure)
            feedback = f"This cannot be used: {problem}. Reply again in the form asked."
            asked.turns = [asked.turns[0], {"role": "assistant", "content": reply.text or "…"}]
            asked.turns.append({"role": "user", "content": feedback})
            return self._ask(asked, under_way)
