"""The rollout engine that runs vLLM in the trainer's own process.

Samples leave vLLM's step loop one by one, the moment they end. Weights go over in place (`reload_weights` from an
iterator), the head of tied models is made anew, cached prefixes are dropped, and after every transfer both sides read a
short text: an engine that does not hold the trainer's weights stops the run.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reasonrl.errors import ModelError
from reasonrl.models.weights import checkpoint_names, checkpoint_weights
from reasonrl.rollout.adapters import (
    LoraTransfer,
    Parts,
    adapter_room,
    adapter_weights,
    base_weights,
    require_adapter,
)
from reasonrl.rollout.agreement import (
    LIMIT_FLOAT32,
    LIMIT_HALF,
    Gap,
    gap_between,
    reading_ids,
    require_agreement,
    teacher_forced,
)
from reasonrl.rollout.engine import Request, Sample, SamplingParams, Stamp, longest_first
from reasonrl.rollout.images import placeholder_ids, require_processor
from reasonrl.rollout.request_rules import refuse_requests
from reasonrl.rollout.stamps import now, process_name
from reasonrl.rollout.stop_tokens import stop_tokens_of
from reasonrl.rollout.vllm_adapter import AdapterSlot
from reasonrl.rollout.vllm_drawn import Drawn, Growing
from reasonrl.rollout.vllm_folder import startable
from reasonrl.rollout.vllm_images import NEVER, VisionPrompts, tower_names, vision_gap, vision_options
from reasonrl.rollout.vllm_start import (
    checkpoint_dtype,
    generation_config_of,
    start_engine,
    stop_engine,
    write_skeleton,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class VLLMEngine:
    """vLLM in this process.

    Give either `model` (a policy in training: vLLM starts without weights and takes this model's, at the latest when
    the first sample is drawn) or `path` (a checkpoint to evaluate: vLLM loads it from there).

    Args:
        model: the trainer's policy, with LoRA layers or without.
        tokenizer: decodes the responses; its end token ends a sample, as do those of the generation config.
        path: folder or hub id of a checkpoint.
        batch_size: most samples decoded together (vLLM's `max_num_seqs`).
        dtype: of the engine's weights; by default the policy's or the checkpoint's.
        max_logprob_gap: largest mean difference (nats a token) that the reading after a transfer may show; by default
            1e-3 in float32 and 0.1 in half precision.
        enable_sleep_mode: give the GPU's memory back between rollouts (weights wait in main memory). Untested: vLLM has
            it on GPU only.
        lora: how a LoRA policy goes over: `merge` hands merged weights over at every step; `adapter` hands over the
            base once, then the adapter alone, and vLLM computes its product.
        max_lora_rank: room for the adapter, where the policy gets its LoRA layers after the engine is built.
        processor: a vision-language model's processor of transformers; needed for such a model in training, and for
            requests with images.
        trust_remote_code: run code that the checkpoint ships.
        options: vLLM's own: max_model_len, gpu_memory_utilization, kv_cache_memory_bytes, max_num_batched_tokens,
            enforce_eager, enable_prefix_caching, limit_mm_per_prompt, tensor_parallel_size (above 1 with `path` only).

    Raises:
        ModelError: vLLM is not installed or refuses the model or an option.
    """

    #: On CPU it sets torch's global generator back after every step; see `_step`.
    rewinds_generator = True

    def __init__(
        self,
        model: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase,
        *,
        path: str | None = None,
        batch_size: int | None = None,
        dtype: str | None = None,
        max_logprob_gap: float | None = None,
        enable_sleep_mode: bool = False,
        lora: LoraTransfer = "merge",
        max_lora_rank: int | None = None,
        processor: Any = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> None:
        if (model is None) == (path is None):
            raise ValueError("VLLMEngine takes a model or a path, and not both")
        if model is not None and options.get("tensor_parallel_size", 1) > 1:
            raise ModelError(
                f"rollout.tensor_parallel_size: is {options['tensor_parallel_size']}, but an engine that takes weights"
                " from a trainer in its own process has one device -> use 1"
            )
        self.tokenizer, self.weight_version = tokenizer, 0
        self.last_gap: Gap | None = None
        self._trainer, self._sleeps = model, enable_sleep_mode
        self._expected = checkpoint_names(model) if model is not None else frozenset[str]()
        self._numbers, self._streaming, self._broken, self._filled = itertools.count(), False, "", path is not None
        self._interrupted = False
        self.lora, self._adapter = lora, AdapterSlot()
        options |= adapter_room(lora, model, max_lora_rank)
        options |= {"max_num_seqs": batch_size, "enable_sleep_mode": enable_sleep_mode or None}
        options |= {"trust_remote_code": trust_remote_code or None, **vision_options(model, path, processor)}
        self._folder = tempfile.TemporaryDirectory(prefix="reasonrl-vllm-")  # vLLM may read the processor late
        if model is not None:
            self.stop_ids = stop_tokens_of(model.generation_config, tokenizer)
            options |= {"dtype": dtype or str(model.dtype).removeprefix("torch."), "load_format": "dummy"}
            write_skeleton(model, Path(self._folder.name), processor)
            self._vllm = start_engine(self._folder.name, options)
        else:
            assert path is not None
            self.stop_ids = stop_tokens_of(generation_config_of(path, trust_remote_code=trust_remote_code), tokenizer)
            options["dtype"] = dtype or checkpoint_dtype(path, trust_remote_code=trust_remote_code)
            self._vllm = start_engine(startable(path, Path(self._folder.name)), options)
        self._processor, self._prompts = processor, VisionPrompts(self._vllm, processor)
        config = self._vllm.model_config
        self._never = dict.fromkeys(placeholder_ids(config.hf_config), NEVER)
        self._their_name = tower_names(self._vllm)
        self.max_model_len: int = config.max_model_len
        half = config.dtype is not torch.float32
        self.max_logprob_gap = max_logprob_gap or (LIMIT_HALF if half else LIMIT_FLOAT32)

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield each sample as it finishes; see `RolloutEngine`. A reader that stops early ends the other samples.

        Raises:
            ModelError: a prompt is empty or too long, its image tokens do not fit its images, the temperature is one
                that vLLM changes, the weights give no numbers, or another stream of this engine is being read.
        """
        self._refuse(requests, params)
        if not self._filled:
            assert self._trainer is not None
            self.sync_weights(self.weights_of(self._trainer), self.weight_version)
        if self._streaming:
            raise ModelError("rollout: this engine is already drawing -> read one stream to its end before the next")
        waiting: dict[str, Request] = {}
        not_begun, begun = deque[tuple[str, str]](), dict[str, float]()
        growing = Growing(self.tokenizer, params.stop_strings)
        self._streaming, self._interrupted = True, False
        try:
            self._wake()
            for request in longest_first(requests):
                name = str(next(self._numbers))
                theirs = self._vllm.add_request(
                    name, self._prompts.of(request), self.sampling(request.seed, params), **self._adapter.arguments
                )
                waiting[name] = request
                not_begun.append((name, theirs))
            while waiting and not self._interrupted:
                outputs, time = self._step(), now()
                self._note_begun(not_begun, begun, time)
                for output in outputs:
                    name = output.request_id
                    if name not in waiting or (drawn := growing.take(name, output)) is None:
                        continue
                    if not output.finished:
                        self._vllm.abort_request([name])
                    stamp = Stamp(process_name(), begun.pop(name, time), time, output.num_cached_tokens)
                    yield self._sample(waiting.pop(name), drawn, stamp)
        finally:
            if waiting:
                self._vllm.abort_request(list(waiting))
            self._streaming = False
            if self._sleeps:
                self._vllm.sleep(level=1)

    def interrupt(self) -> None:
        """End the stream that is being read after the present step; from any thread."""
        self._interrupted = True

    def sampling(self, seed: int, params: SamplingParams) -> Any:
        """vLLM's own parameters for one sample."""
        from vllm import SamplingParams as Theirs
        from vllm.sampling_params import RequestOutputKind

        return Theirs(
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            # vLLM keeps seeds in signed 64 bits, and takes -1 for none.
            seed=seed & (2**63 - 1),
            stop_token_ids=sorted(self.stop_ids),
            logit_bias=self._never or None,
            ignore_eos=True,  # the end tokens are among ours
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA if params.stop_strings else RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )

    def weights_of(self, policy: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """What `sync_weights` takes of a policy now: all weights, merged; with `lora="adapter"` the base, the first
        time only, and the adapter.
        """
        if self.lora == "merge":
            return checkpoint_weights(policy)
        require_adapter(policy)
        return itertools.chain(() if self._filled else base_weights(policy), adapter_weights(policy))

    def sync_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Take over the weights that `weights_of` yields as this version, and check that they have arrived.

        With an empty iterator only the version moves on. The check compares the log-probabilities of a short text; it
        is left out where the engine has no trainer to compare with (`path`).

        Raises:
            ModelError: weights are missing or unknown, or engine and trainer read the text differently.
        """
        self._require_whole()
        weights = iter(weights)
        first = next(weights, None)
        if first is None:
            self.weight_version = version
            return
        self._wake(["weights"])
        self._load(itertools.chain([first], weights))
        self._wake()
        self._vllm.reset_prefix_cache()
        self._vllm.reset_encoder_cache()  # images as the old weights saw them
        self._vllm.reset_mm_cache()
        self.weight_version, self._filled = version, True
        if self._trainer is not None:
            self.last_gap = self.reading_gap(self._trainer)
            require_agreement(self.last_gap, self.max_logprob_gap, version, "vllm")

    def reading_gap(self, model: Any) -> Gap:
        """How differently engine and model read the same short text; with a processor, after a picture."""
        if self._processor is not None:
            return vision_gap(self, model, self._processor)
        ids = reading_ids(self.tokenizer, most=self.max_model_len - 1)
        return gap_between(self.read(ids), teacher_forced(model, ids))

    def read(self, ids: Sequence[int], images: tuple[Any, ...] = ()) -> list[float]:
        """Natural log-probability at temperature 1 of every token but the first, by the engine's weights."""
        from vllm import SamplingParams as Theirs
        from vllm.sampling_params import RequestOutputKind

        params = Theirs(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            ignore_eos=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        name = str(next(self._numbers))
        self._vllm.add_request(
            name, self._prompts.of(Request(name, tuple(ids), 0, images=images)), params, **self._adapter.arguments
        )
        while True:
            for output in self._step():
                if output.finished and output.request_id == name:
                    return [float(value) for value in output.prompt_logprobs.logprobs]

    def close(self) -> None:
        """End vLLM and give its memory back; the engine cannot be used afterwards."""
        if not self._broken.startswith("closed"):
            self._broken = "closed -> build a new one"
            stop_engine(self._vllm)
            del self._vllm, self._prompts
            self._folder.cleanup()
            self._trainer = None

    def _step(self) -> list[Any]:
        # vLLM's sampler on CPU draws from the global generator before it puts the seeded draws in their place.
        state = torch.get_rng_state()
        try:
            outputs: list[Any] = self._vllm.step()
        finally:
            torch.set_rng_state(state)
        return outputs

    def _note_begun(self, waiting: deque[tuple[str, str]], begun: dict[str, float], time: float) -> None:
        """Move requests (our name and vLLM's) that have their first token from `waiting` to `begun`; vLLM begins them
        in the order given.
        """
        states = self._vllm.output_processor.request_states
        while waiting and ((state := states.get(waiting[0][1])) is None or not state.is_prefilling):
            begun[waiting.popleft()[0]] = time

    def _load(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        if self.lora == "merge":
            self._reload(weights)
            return
        parts = Parts(weights)
        base = parts.base()
        first = next(base, None)
        if first is not None:
            self._reload(itertools.chain([first], base))
        elif not self._filled:
            raise ModelError("sync_weights: the adapter came before its base -> give what weights_of(policy) yields")
        self._broken = "half loaded: the adapter did not arrive -> build a new one"
        self._adapter.load(self._vllm, parts.require_factors())
        self._broken = ""

    def _reload(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        seen: set[str] = set()

        def counted() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in weights:
                seen.add(name)
                yield self._their_name(name), tensor.detach()

        self._broken = "half loaded: a transfer of weights failed -> build a new one"
        try:
            with torch.no_grad():
                self._vllm.collective_rpc("reload_weights", kwargs={"weights_iterator": counted()})
                self._vllm.apply_model(refresh_packed_heads)
        except (ValueError, KeyError, RuntimeError, AssertionError, AttributeError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(
                f"sync_weights: vLLM does not take the weights ({len(seen)} were read): {error} -> trainer and engine"
                " must hold the same model, under the names of its checkpoint"
            ) from error
        missing = sorted(self._expected - seen)
        if missing:
            raise ModelError(
                f"sync_weights: {len(missing)} of {len(self._expected)} weights were not given:"
                f" {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''} -> give all of them; vLLM cannot take"
                " part of a model"
            )
        self._broken = ""

    def _wake(self, tags: list[str] | None = None) -> None:
        if self._sleeps and self._vllm.is_sleeping():
            self._vllm.wake_up(tags)

    def _require_whole(self) -> None:
        if self._broken:
            raise ModelError(f"rollout: this vLLM engine is {self._broken}")

    def _refuse(self, requests: Sequence[Request], params: SamplingParams) -> None:
        self._require_whole()
        require_processor(requests, self._processor)
        refuse_requests(requests, params, self.max_model_len, "the engine holds")

    def _sample(self, request: Request, drawn: Drawn, stamp: Stamp) -> Sample:
        logprobs, ids = tuple(drawn.logprobs), tuple(drawn.token_ids)
        if drawn.finish_reason not in ("stop", "length"):
            raise ModelError(f"rollout: vLLM ended request {request.id!r} with {drawn.finish_reason!r} -> see its log")
        if any(map(math.isnan, logprobs)):
            place = next(place for place, value in enumerate(logprobs) if math.isnan(value))
            raise ModelError(
                f"rollout: request {request.id!r}: the model's logits for response token {place + 1} are not a number"
                f" (weight version {self.weight_version}) -> the weights hold NaN or inf; if training diverged, lower"
                " the learning rate"
            )
        return Sample(
            request=request,
            token_ids=ids,
            text=self.tokenizer.decode(list(ids), skip_special_tokens=True),
            logprobs_sampled=logprobs,
            finish_reason="stop" if drawn.finish_reason == "stop" else "length",
            weight_version=self.weight_version,
            stamp=stamp,
        )


def refresh_packed_heads(model: torch.nn.Module) -> None:
    """Pack embeddings and heads anew from the weights they stand on.

    vLLM's CPU kernels read a packed copy of a head. A reload makes it anew for layers that were loaded by name; a tied
    head is not, it only shares the embedding's weight.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead) and module.weight.device.type == "cpu":
            module.quant_method.process_weights_after_loading(module)
