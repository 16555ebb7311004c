"""The rollout engine over a fleet of vLLM servers: given addresses, or started on this machine.

Requests go out as token ids to vLLM's own OpenAI-compatible server and come back as a stream of token ids; each sample
is handed over the moment it ends. What a lost server was drawing is drawn again elsewhere with the same seed. Weights
are written once, into shared memory where there is room, and every server loads them behind a barrier: none answers
with old weights after `sync_weights` has returned.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import queue
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from reasonrl.endpoints.loop import BackgroundLoop, background_loop
from reasonrl.errors import ModelError
from reasonrl.rollout.agreement import (
    LIMIT_FLOAT32,
    LIMIT_HALF,
    Gap,
    gap_between,
    reading_ids,
    require_agreement,
    teacher_forced,
)
from reasonrl.rollout.engine import Request, Sample, SamplingParams
from reasonrl.rollout.servers_checks import key_of, refuse_far_servers, refuse_requests, root_of, sample_of
from reasonrl.rollout.servers_drawing import Arrival, Drawing, Expectation
from reasonrl.rollout.servers_fleet import Fleet
from reasonrl.rollout.servers_http import Limits, ServerApi, ServerFault
from reasonrl.rollout.servers_logprobs import require_processed
from reasonrl.rollout.servers_process import VLLM, ServerProcess, device_environments
from reasonrl.rollout.servers_state import Reading, Server
from reasonrl.rollout.servers_weights import WeightFolders, write_weights
from reasonrl.rollout.stop_tokens import stop_tokens_of
from reasonrl.rollout.vllm_start import checkpoint_dtype, generation_config_of, require_vllm, write_skeleton
from reasonrl.rollout.weights import checkpoint_names, checkpoint_weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DEFAULT_BATCH = 256
_LOOK = 5.0
_GOODBYE = 10.0
_SLACK = 8


class ServersEngine:
    """vLLM servers.

    Give either `model` (a policy in training) or `path` (a checkpoint to evaluate: started servers load it from there,
    servers at `urls` load it, or have to be started with it), and either `urls` or `start`.

    Args:
        model: the trainer's policy, with LoRA layers or without.
        tokenizer: decodes the responses; its end token ends a sample, as do those of the generation config.
        path: folder or hub id of a checkpoint.
        urls: roots of running servers, such as `http://10.0.0.5:8000`; they should be this run's alone.
        start: servers to start on this machine, on loopback addresses, behind a random key; they are watched, started
            again, and ended with this process however it ends.
        served_model: name to ask servers at `urls` for; by default the only one they serve.
        api_key_env: environment variable with the key of the servers at `urls`.
        weights_dir: folder for weights on their way, seen under this path by all servers; by default shared memory, or
            the temporary folder.
        batch_size: requests that a server decodes together (`max_num_seqs` of started ones).
        dtype: of started servers' weights; by default the policy's or the checkpoint's.
        max_logprob_gap: largest mean difference (nats a token) that the reading after a transfer may show; by default
            1e-3 in float32 and 0.1 in half precision.
        limits: time limits and retries.
        command: program and first arguments of a server, in place of `python -m vllm.entrypoints.openai.api_server`.
        trust_remote_code: run code that the checkpoint ships.
        options: vLLM's own for started servers: max_model_len, gpu_memory_utilization, kv_cache_memory_bytes,
            max_num_batched_tokens, enforce_eager, enable_prefix_caching, tensor_parallel_size.

    Raises:
        ModelError: a server does not start or answer, or serves something else.
    """

    def __init__(
        self,
        model: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase,
        *,
        path: str | None = None,
        urls: Sequence[str] = (),
        start: int | None = None,
        served_model: str | None = None,
        api_key_env: str | None = None,
        weights_dir: str | None = None,
        batch_size: int | None = None,
        dtype: str | None = None,
        max_logprob_gap: float | None = None,
        limits: Limits | None = None,
        command: Sequence[str] = VLLM,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> None:
        if (model is None) == (path is None):
            raise ValueError("ServersEngine takes a model or a path, and not both")
        if bool(urls) == bool(start):
            raise ModelError("rollout: engine servers takes urls or start, and not both -> start: 2, or urls: [http…]")
        self.tokenizer, self.weight_version = tokenizer, 0
        self.last_gap: Gap | None = None
        self.limits = limits or Limits()
        self._trainer, self._path = model, path
        self._closed, self._streaming = False, False
        self._labels = (f"v{number}-{os.urandom(4).hex()}" for number in itertools.count())
        self._expectation = Expectation()
        self._most_open = (batch_size or _DEFAULT_BATCH) + max(2, (batch_size or _DEFAULT_BATCH) // _SLACK)
        config = model.generation_config if model is not None else None
        if path is not None:
            config = generation_config_of(path, trust_remote_code=trust_remote_code)
        self.stop_ids = stop_tokens_of(config, tokenizer)
        if dtype is None:
            dtype = str(model.dtype).removeprefix("torch.") if model is not None else None
            if path is not None and start:
                dtype = checkpoint_dtype(path, trust_remote_code=trust_remote_code)
        self.max_logprob_gap = max_logprob_gap or (LIMIT_FLOAT32 if dtype == "float32" else LIMIT_HALF)
        if model is not None and weights_dir is None:
            refuse_far_servers(urls)
        self._folders = WeightFolders(weights_dir, 0 if model is None else _bytes(model))
        self._filled = model is None
        self._loop = background_loop()
        self._processes: list[ServerProcess] = []
        self._finish = weakref.finalize(self, _finish, self._processes, self._folders)
        try:
            if start:
                options |= {"max_num_seqs": batch_size, "trust_remote_code": trust_remote_code or None}
                servers = self._start(start, command, {**_defaults(), **options, "dtype": dtype})
            else:
                key = key_of(api_key_env)
                servers = [Server(place, ServerApi(root_of(url), key, self.limits)) for place, url in enumerate(urls)]
            self._fleet = Fleet(servers, self.limits, served_model if urls else None, self._changed)
            self._drawing: Drawing | None = None
            if start and model is not None:
                self._fleet.label, self._fleet.folder = self._first
            self._wait(self._fleet.begin())
            if urls:
                self._wait(self._require_processed())
            if urls and path is not None:
                self._wait(self._fleet.serve(path, next(self._labels)))
        except BaseException:
            self.close()
            raise
        lengths = [server.max_model_len for server in self._fleet.servers if server.max_model_len]
        self.max_model_len: int | None = min(lengths) if lengths else None
        if start and model is not None:
            self._verify()
            self._filled = True

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield each sample as it finishes; see `RolloutEngine`. A reader that stops early ends the other samples.

        Raises:
            ModelError: a prompt is empty or too long, the temperature is one that vLLM changes, the weights give no
                numbers, a server refuses a request, a sample failed too often, or no server could draw for too long.
        """
        self._refuse(requests, params)
        if not self._filled:
            assert self._trainer is not None
            self.sync_weights(checkpoint_weights(self._trainer), self.weight_version)
        if self._streaming:
            raise ModelError("rollout: this engine is already drawing -> read one stream to its end before the next")
        self._streaming = True
        work: concurrent.futures.Future[None] | None = None
        arrivals: queue.SimpleQueue[Arrival | BaseException | None] = queue.SimpleQueue()
        try:
            if self._fleet.label is not None:
                self._wait(self._fleet.check())
            work = self._loop.submit(self._draw(requests, params, arrivals))
            while (arrival := self._next(arrivals)) is not None:
                if isinstance(arrival, BaseException):
                    raise arrival
                yield sample_of(arrival, self.tokenizer)
        finally:
            if work is not None:
                work.cancel()
                concurrent.futures.wait([work], _LOOK)
            self._streaming = False

    def sync_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Give all servers these weights (all of the policy's) as this version, and check that they have arrived.

        After it, no server answers with older weights: one that could not take them draws nothing until it has. What
        was being drawn is drawn again. With an empty iterator only the version moves on. The check compares the
        log-probabilities of a short text; it is left out where the engine has no trainer to compare with (`path`).

        Raises:
            ModelError: weights are missing or unknown, no server took them, or a server and the trainer read the text
                differently.
        """
        self._require_open()
        weights = iter(weights)
        first = next(weights, None)
        if first is None:
            self.weight_version = self._fleet.version = version
            return
        label = next(self._labels)
        folder = self._folders.new(label)
        self._write(itertools.chain([first], weights), folder)
        self._wait(self._fleet.sync(label, folder, version))
        self.weight_version, self._filled = version, True
        self._verify()
        starting = {server.process.model for server in self._fleet.servers if server.process and not server.in_service}
        self._folders.keep_only({str(folder), *map(str, starting)})

    def metrics(self) -> dict[str, float]:
        """Scalars for the run's metrics: how many servers are in service, and of each one what it has done so far
        (`servers/1/requests`, …), what it is drawing now (`open`, `outstanding_tokens`), whether it may draw (`up`).
        """
        servers = self._fleet.servers
        found = {"servers/up": float(sum(server.in_service for server in servers)), "servers/all": float(len(servers))}
        for server in servers:
            values = {name: float(value) for name, value in dataclasses.asdict(server.health).items()}
            calls = list(server.open.values())
            values |= {"open": float(len(calls)), "outstanding_tokens": sum(call.outstanding for call in calls)}
            values["up"] = float(server.in_service)
            found |= {f"servers/{server.place + 1}/{name}": value for name, value in values.items()}
        return found

    def health(self) -> list[dict[str, Any]]:
        """Every server in words: its address, process group if it is ours, whether it is in service and why not, and
        what it has done.
        """
        return [
            {
                "url": server.api.url,
                "group": server.process.group if server.process is not None else None,
                "in_service": server.in_service,
                "why_out": server.why_out,
                **dataclasses.asdict(server.health),
            }
            for server in self._fleet.servers
        ]

    def close(self) -> None:
        """End the servers that were started, remove the weights on disk; the engine cannot be used afterwards."""
        if self._closed:
            return
        self._closed = True
        try:
            if hasattr(self, "_fleet") and self._loop.thread.is_alive():
                self._wait(self._fleet.close())
        finally:
            self._finish()
            self._trainer = None

    def _start(self, count: int, command: Sequence[str], options: dict[str, Any]) -> list[Server]:
        if tuple(command) == VLLM:
            require_vllm()
        model, label = self._path, ""
        if self._trainer is not None:
            label = next(self._labels)
            folder = self._folders.new(label)
            self._write(checkpoint_weights(self._trainer), folder)
            self._first, model = (label, folder), str(folder)
        assert model is not None
        devices = device_environments(count, options.get("tensor_parallel_size") or 1)
        for place in range(count):
            log = self._folders.root / f"server-{place + 1}.log"
            self._processes.append(ServerProcess(command, options, devices[place], log, self._folders.root))

        async def start_all() -> None:  # in the loop's thread, which lives as long as the process
            for process in self._processes:
                process.start(self._first[1] if self._trainer is not None else model, label)

        self._wait(start_all())
        return [
            Server(place, ServerApi(process.url, process.key, self.limits), process)
            for place, process in enumerate(self._processes)
        ]

    def _write(self, weights: Iterable[tuple[str, torch.Tensor]], folder: Any) -> None:
        seen = write_weights(weights, folder)
        if self._trainer is not None:
            write_skeleton(self._trainer, folder)
            expected = checkpoint_names(self._trainer)
            if seen != expected:
                raise ModelError(
                    f"sync_weights: {len(expected - seen)} weights are missing ({_some(expected - seen)}) and"
                    f" {len(seen - expected)} are unknown ({_some(seen - expected)}) -> give all weights of the policy,"
                    " under the names of its checkpoint"
                )

    def _verify(self) -> None:
        """Compare what every server reads with what the trainer reads."""
        if self._trainer is None:
            return
        ids = reading_ids(self.tokenizer, most=(self.max_model_len or 10**6) - 1)
        values = teacher_forced(self._trainer, ids)
        reading = Reading(ids, values, self.max_logprob_gap, self.weight_version)
        found = [(server, gap_between(read, values)) for server, read in self._wait(self._fleet.readings(ids))]
        if not found:
            raise ModelError(f"rollout: no server could read the text of the self-test: {self._fleet.told()}")
        server, self.last_gap = max(found, key=lambda entry: entry[1].mean)
        require_agreement(self.last_gap, self.max_logprob_gap, self.weight_version, server.name)
        self._fleet.reading = reading

    async def _require_processed(self) -> None:
        ids = reading_ids(self.tokenizer)
        for server in self._fleet.servers:
            try:
                await require_processed(server, ids, self.limits.stall)
            except (ServerFault, TimeoutError) as fault:
                raise ModelError(
                    f"rollout: {server.name} draws no token: {fault or 'no answer in time'} -> see its log, and"
                    " docs/servers.md"
                ) from None

    async def _draw(self, requests: Sequence[Request], params: SamplingParams, out: queue.SimpleQueue[Any]) -> None:
        self._drawing = Drawing(self._fleet, requests, params, self.stop_ids, self._most_open, self._expectation, out)
        try:
            await self._drawing.run()
        finally:
            self._drawing = None

    def _changed(self) -> None:
        if self._drawing is not None:
            self._drawing.wake.set()

    def _next(self, arrivals: queue.SimpleQueue[Any]) -> Any:
        while True:
            try:
                return arrivals.get(timeout=_LOOK)
            except queue.Empty:
                if not self._loop.thread.is_alive():
                    raise ModelError("rollout: the thread that talks to the servers is gone") from None

    def _wait(self, work: Any) -> Any:
        loop: BackgroundLoop = self._loop
        return loop.wait(loop.submit(work))

    def _require_open(self) -> None:
        if self._closed:
            raise ModelError("rollout: this servers engine is closed -> build a new one")

    def _refuse(self, requests: Sequence[Request], params: SamplingParams) -> None:
        self._require_open()
        refuse_requests(requests, params, self.max_model_len)


def _finish(processes: list[ServerProcess], folders: WeightFolders) -> None:
    for process in processes:
        process.ask_to_end()
    for process in processes:
        process.end(_GOODBYE)
    folders.remove()


def _defaults() -> dict[str, Any]:
    import torch

    if torch.cuda.is_available():
        return {}
    from reasonrl.rollout.vllm_start import CPU_CACHE_BYTES

    cache = {} if "VLLM_CPU_KVCACHE_SPACE" in os.environ else {"kv_cache_memory_bytes": CPU_CACHE_BYTES}
    # A prompt that is read in two steps ends vLLM 0.31 on CPU: see `vllm_start`.
    return {"enforce_eager": True, "enable_chunked_prefill": False, **cache}


def _bytes(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _some(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)[:3]) or "none"
