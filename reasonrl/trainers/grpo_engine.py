"""Any of our rollout engines inside TRL's own GRPOTrainer: `use_engine(trainer, engine)` before `trainer.train()`.

TRL calls its vLLM back end as `sync_weights()` and `generate(...)`; `EngineBackend` has the same two methods over an
engine of ours, so that TRL's step, its importance-sampling correction and its metrics stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasonrl.errors import ModelError
from reasonrl.rollout.engine import Request, RolloutEngine, Sample, SamplingParams
from reasonrl.rollout.seeds import sample_seed
from reasonrl.rollout.transfer import hand_over
from reasonrl.trainers.recompute import checkpointing


class EngineBackend:
    """What GRPOTrainer takes for its vLLM back end, over a `RolloutEngine`.

    Args:
        trainer: TRL's GRPOTrainer; its sampling settings and seed are used.
        engine: draws the samples.
    """

    def __init__(self, trainer: Any, engine: RolloutEngine) -> None:
        self.trainer, self.engine = trainer, engine
        self._calls = 0

    def sync_weights(self) -> None:
        """Hand the policy's weights to the engine, as the version of this step."""
        hand_over(self.engine, self._policy(), self.trainer.state.global_step)
        self._calls = 0

    def generate(self, prompts: Sequence[Sequence[int]], images: Any, num_generations: int, profiler: Any) -> Any:
        """One sample per prompt (TRL repeats the prompts by itself), in the order of the prompts.

        Args:
            prompts: token ids, with the tokens of images in their places.
            images: PIL images of each prompt, or None for one without; None where no prompt has any.
            num_generations: not used.
            profiler: times the drawing.

        Returns:
            Prompt ids, response ids, log-probabilities as (sample, token, 1), and None.

        Raises:
            ModelError: the engine refuses a request (one with images, say, for lack of a processor), or left it without
                a sample.
        """
        del num_generations
        trainer, start = self.trainer, self.trainer.accelerator.process_index * len(prompts)
        names = (trainer.args.seed, "grpo", trainer.state.global_step, self._calls)
        pictures = images or [None] * len(prompts)
        requests = [
            Request(str(place), tuple(ids), sample_seed(*names, start + place), images=tuple(own or ()))
            for place, (ids, own) in enumerate(zip(prompts, pictures, strict=True))
        ]
        self._calls += 1
        params = SamplingParams(trainer.max_completion_length, trainer.temperature, trainer.top_p)
        with profiler, checkpointing(self._policy(), self.trainer.args, on=False):
            drawn: dict[str, Sample] = {sample.request.id: sample for sample in self.engine.stream(requests, params)}
        if len(drawn) < len(requests):
            raise ModelError(f"rollout: the engine gave {len(drawn)} samples for {len(requests)} requests")
        samples = [drawn[request.id] for request in requests]
        return (
            [list(ids) for ids in prompts],
            [list(sample.token_ids) for sample in samples],
            [[[logprob] for logprob in sample.logprobs_sampled] for sample in samples],
            None,
        )

    def _policy(self) -> Any:
        return self.trainer.accelerator.unwrap_model(self.trainer.model)


def use_engine(trainer: Any, engine: RolloutEngine) -> EngineBackend:
    """Let a GRPOTrainer that was built with `use_vllm=False` draw its samples through an engine of ours.

    Raises:
        ModelError: the trainer was built with a vLLM of its own.
    """
    from reasonrl.trainers._trl import set_generation_backend

    if trainer.use_vllm:
        raise ModelError("use_engine: this GRPOTrainer already has TRL's vLLM -> build it with use_vllm=False")
    backend = EngineBackend(trainer, engine)
    set_generation_backend(trainer, backend)
    return backend
