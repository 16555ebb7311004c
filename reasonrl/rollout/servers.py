"""The rollout engine over a fleet of vLLM servers: given addresses, or started on this machine.

Requests go out as token ids to vLLM's own OpenAI-compatible server and come back as a stream of token ids; each sample
is handed over the moment it ends. What a lost server was drawing is drawn again elsewhere with the same seed. Weights
are written once, into shared memory where there is room, and every server loads them behind a barrier: none answers
with old weights after `sync_weights` has returned.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import math
import os
import queue
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.endpoints.loop import BackgroundLoop, background_loop
from reasonrl.errors import ModelError
from reasonrl.rollout.adapters import LoraTransfer, adapter_room
from reasonrl.rollout.agreement import LIMIT_FLOAT32, LIMIT_HALF, Gap, reading_ids
from reasonrl.rollout.engine import Request, Sample, SamplingParams
from reasonrl.rollout.request_rules import refuse_requests
from reasonrl.rollout.servers_checks import check_given, key_of, refuse_far_servers, root_of, sample_of
from reasonrl.rollout.servers_drawing import Arrival, Drawing, Expectation, next_arrival
from reasonrl.rollout.servers_fleet import Fleet
from reasonrl.rollout.servers_http import Limits, ServerApi
from reasonrl.rollout.servers_images import Outgoing, Pictures
from reasonrl.rollout.servers_logprobs import reading_of, require_agreement_of_all, require_processed
from reasonrl.rollout.servers_outbox import Outbox
from reasonrl.rollout.servers_prefix import PrefixWatch
from reasonrl.rollout.servers_process import VLLM, ServerProcess
from reasonrl.rollout.servers_ranks import Board, Ranks, combined
from reasonrl.rollout.servers_start import default_options, finish, plan_processes
from reasonrl.rollout.servers_state import Reading, Server, figures_of, in_words
from reasonrl.rollout.servers_weights import WeightFolders, bytes_of
from reasonrl.rollout.stamps import now
from reasonrl.rollout.stop_strings import StopStrings
from reasonrl.rollout.stop_tokens import stop_tokens_of
from reasonrl.rollout.vllm_folder import startable
from reasonrl.rollout.vllm_start import checkpoint_dtype, generation_config_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DEFAULT_BATCH, _SLACK = 256, 8
_LOOK = 5.0


class ServersEngine:
    """vLLM servers.

    Where several processes train together (torch's process group), all build the engine, and share the servers: the
    first process starts them and gives them weights, and each draws its own requests. `sync_weights` and `metrics` are
    then collective calls: every process makes them, at the same places.

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
        log_dir: folder for the output of started servers (`server-1.log`, …), which stays; by default a folder that is
            removed with them.
        lora: how a LoRA policy goes over: `merge` sends merged weights at every step; `adapter` the base once, then the
            adapter alone. Servers at `urls` need `--enable-lora` for it.
        max_lora_rank: room for the adapter, where the policy gets its LoRA layers after the engine is built.
        processor: a vision-language model's, of transformers; needed for such a model.
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
        log_dir: str | None = None,
        lora: LoraTransfer = "merge",
        max_lora_rank: int | None = None,
        processor: Any = None,
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
        self._pictures = Pictures(model, path, processor, trust_remote_code=trust_remote_code)
        self._closed, self._streaming = False, False
        self._arrivals: queue.SimpleQueue[Arrival | BaseException | None] | None = None
        self._labels = (f"v{number}-{os.urandom(4).hex()}" for number in itertools.count())
        self._expectation, self._prefix = Expectation(), PrefixWatch()
        self._drawing: Drawing | None = None
        self._synced: float | None = None
        self._first_token: float | None = None
        self._ranks = Ranks.here()
        batch = -(-(batch_size or _DEFAULT_BATCH) // self._ranks.count)
        self._most_open = batch + max(2, batch // _SLACK)
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
        needed, leads = 0 if model is None else bytes_of(model), self._ranks.leads
        self._folders = self._ranks.together(lambda: WeightFolders(weights_dir, needed) if leads else None)
        room = adapter_room(lora, model, max_lora_rank)
        self._outbox = Outbox(model, self._folders, self._labels, lora, processor)
        self._filled = model is None
        self._loop = background_loop()
        self._processes: list[ServerProcess] = []
        self._finish = weakref.finalize(self, finish, self._processes, self._folders)
        try:
            if start:
                options |= self._pictures.options(model, path)
                options |= {"max_num_seqs": batch_size, "trust_remote_code": trust_remote_code or None}
                self._start(start, command, {**default_options(), **options, **room, "dtype": dtype}, log_dir)
            else:
                key = self._ranks.together(lambda: key_of(api_key_env))
                self._connect([(root_of(url), key) for url in urls], served_model)
        except BaseException:
            self.close()
            raise
        lengths = [server.max_model_len for server in self._fleet.servers if server.max_model_len]
        self.max_model_len: int | None = min(lengths) if lengths else None
        if start and model is not None and lora == "merge":
            reading = self._ranks.together(lambda: self._reading(self.weight_version))
            self._ranks.by_first(lambda: self._verify(reading))
            self._filled = True

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield each sample as it finishes; see `RolloutEngine`. A reader that stops early ends the other samples.

        Raises:
            ModelError: a prompt is empty or too long, the temperature is one that vLLM changes, the weights give no
                numbers, a server refuses a request, a sample failed too often, or no server could draw for too long.
        """
        self._require_open()
        refuse_requests(requests, params, self.max_model_len, "the servers hold")
        outgoing = self._pictures.of(requests)
        if not self._filled:
            assert self._trainer is not None
            self.sync_weights(self.weights_of(self._trainer), self.weight_version)
        if self._streaming:
            raise ModelError("rollout: this engine is already drawing -> read one stream to its end before the next")
        self._streaming = True
        work: concurrent.futures.Future[None] | None = None
        self._arrivals = arrivals = queue.SimpleQueue[Arrival | BaseException | None]()
        try:
            if self._fleet.label is not None:
                self._wait(self._fleet.check())
            self._wait(self._prefix.begin(self._fleet.able()))
            work = self._loop.submit(self._draw(requests, params, arrivals, outgoing))
            while (arrival := next_arrival(arrivals, self._loop.thread, _LOOK)) is not None:
                if isinstance(arrival, BaseException):
                    raise arrival
                if arrival.stamp.started >= (self._synced or 0.0):
                    self._first_token = min(self._first_token or math.inf, arrival.stamp.started)
                yield sample_of(arrival, self.tokenizer)
            self._wait(self._prefix.end())
        finally:
            if work is not None:
                work.cancel()
                concurrent.futures.wait([work], _LOOK)
            self._streaming, self._arrivals = False, None

    def interrupt(self) -> None:
        """End the stream that is being read; from any thread."""
        if (arrivals := self._arrivals) is not None:
            arrivals.put(None)

    def held_weights(self) -> Iterator[tuple[str, torch.Tensor]] | None:
        """In the first process: what servers draw with, as `sync_weights` takes it; None where that is an adapter."""
        folder = self._fleet.folder
        return None if folder is None or self._fleet.base else self._outbox.read(folder)

    def weights_of(self, policy: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """What `sync_weights` takes of a policy now: all weights, merged; with `lora="adapter"` the base, the first
        time only, and the adapter.
        """
        return self._outbox.weights_of(policy)

    def sync_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int, *, compare: bool = True) -> None:
        """Give all servers these weights (`weights_of`) as this version, and check that they have arrived.

        After it, no server answers with older weights: one that could not take them draws nothing until it has. What
        was being drawn is drawn again. With an empty iterator only the version moves on. The check compares the
        log-probabilities of a short text; it is left out without a trainer (`path`), and where the weights are not the
        trainer's (`compare` false).

        Raises:
            ModelError: weights are missing or unknown, no server took them, or a server and the trainer read the text
                differently.
        """
        self._require_open()
        self._synced, self._first_token = now(), None
        weights = iter(weights)
        first = next(weights, None)
        if first is None:
            self.weight_version = self._fleet.version = version
            return

        def prepare() -> tuple[str, Path | None, Reading | None]:
            written = self._outbox.write(itertools.chain([first], weights))
            reading = self._reading(version) if compare else None
            self._wait(self._fleet.hold())
            return *written, reading

        try:  # after `prepare` no process draws any more
            label, folder, reading = self._ranks.together(prepare)
            label = self._ranks.by_first(lambda: self._give(label, folder, version, reading))
            self._ranks.together(lambda: None if self._ranks.leads else self._wait(self._fleet.follow(label, version)))
        finally:
            self._fleet.release()  # where it failed, servers come back with what the run holds
        self.weight_version, self._filled = version, True

    def _give(self, label: str, folder: Path | None, version: int, reading: Reading | None) -> str:
        """In the first process: all servers load the folder, and read what the trainer reads."""
        assert folder is not None and self._folders is not None
        self._fleet.base = self._outbox.base
        self._wait(self._fleet.sync(label, folder, version))
        self._verify(reading)
        starting = {server.process.model for server in self._fleet.servers if server.process and not server.in_service}
        self._folders.keep_only({*self._outbox.kept(folder), *map(str, starting)})
        return label

    def metrics(self, figures: Mapping[str, float] | None = None) -> dict[str, float]:
        """`figures`, given or of now, over all processes that share the servers; a collective call."""
        return combined(self._ranks.gathered(dict(self.figures() if figures is None else figures)))

    def figures(self) -> dict[str, float]:
        """Scalars for the run's metrics: how many servers are in service, and of each one what it has done so far
        (`servers/1/requests`, …), what it is drawing now (`open`, `outstanding_tokens`), whether it may draw (`up`);
        of the last batch, servers kept for the predicted longest (`servers/long`) and the share of prompt tokens found
        in the prefix cache (`rate/prefix_hits`); seconds from the begin of the last `sync_weights` to the first token
        afterwards (`first_token_seconds`). Of this process.
        """
        found = figures_of(self._fleet.servers)
        if self._synced is not None and self._first_token is not None:
            found["servers/first_token_seconds"] = self._first_token - self._synced
        found |= {"servers/long": float(self._expectation.long_servers), **self._prefix.metrics()}
        return found

    def health(self) -> list[dict[str, Any]]:
        """Every server in words: its address, process group if ours, whether in service and why not, what it did."""
        return [in_words(server) for server in self._fleet.servers]

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

    def _start(self, count: int, command: Sequence[str], options: dict[str, Any], log_dir: str | None) -> None:
        """Start servers with the policy's weights, in the first process; the others learn where they are."""
        if self._ranks.count > 1:
            self._ranks.require_one_machine()
        label, folder = "", None
        if self._trainer is not None:
            label, folder = self._ranks.together(self._outbox.write_base)

        def launch() -> tuple[list[tuple[str, str | None]], str, Path]:
            assert self._folders is not None
            owned, logs = self._folders.root, None if log_dir is None else Path(log_dir)
            self._processes += plan_processes(count, command, options, owned, logs, self._ranks.count)
            model = folder if folder is not None else startable(str(self._path), owned)

            async def start_all() -> None:  # in the loop's thread, which lives as long as the process
                for process in self._processes:
                    process.start(model, label)

            self._wait(start_all())
            servers = [
                Server(place, ServerApi(process.url, process.key, self.limits), process)
                for place, process in enumerate(self._processes)
            ]
            self._fleet = Fleet(servers, self.limits, None, self._changed, self._ranks, Board(owned))
            if self._trainer is not None:
                self._fleet.label, self._fleet.folder, self._fleet.base = label, folder, self._outbox.base
            self._fleet.tell()
            self._wait(self._fleet.begin())
            return [(server.api.url, server.api.key) for server in servers], label, owned

        addresses, label, owned = self._ranks.by_first(launch)
        self._ranks.together(lambda: self._follow(addresses, None, label, Board(owned)))

    def _connect(self, addresses: list[tuple[str, str | None]], served_model: str | None) -> None:
        """Find out what servers at `urls` are."""
        if self._ranks.leads:
            servers = [Server(place, ServerApi(*address, self.limits)) for place, address in enumerate(addresses)]
            self._fleet = Fleet(servers, self.limits, served_model, self._changed, self._ranks)

        def look() -> str:
            self._wait(self._fleet.begin())
            self._wait(check_given(self._fleet.servers, self._trainer is not None, self._pictures.processor))
            self._wait(require_processed(self._fleet.servers, reading_ids(self.tokenizer), self.limits.stall))
            if self._path is not None:
                self._wait(self._fleet.serve(self._path, next(self._labels)))
            return self._fleet.label or ""

        label = self._ranks.by_first(look)
        self._ranks.together(lambda: self._follow(addresses, served_model, label, None))

    def _follow(
        self, addresses: list[tuple[str, str | None]], served_model: str | None, label: str, board: Board | None
    ) -> None:
        """In all processes but the first."""
        if self._ranks.leads:
            return
        servers = [Server(place, ServerApi(*address, self.limits)) for place, address in enumerate(addresses)]
        self._fleet = Fleet(servers, self.limits, served_model, self._changed, self._ranks, board)
        self._fleet.label = label or None
        self._wait(self._fleet.begin())

    def _reading(self, version: int) -> Reading | None:
        limits = self.max_model_len, self.max_logprob_gap
        return reading_of(self._trainer, self.tokenizer, self._pictures, *limits, version)

    def _verify(self, reading: Reading | None) -> None:
        if reading is not None:
            self.last_gap = self._wait(require_agreement_of_all(self._fleet, reading))

    async def _draw(
        self, requests: Sequence[Request], params: SamplingParams, out: queue.SimpleQueue[Any], outgoing: Outgoing
    ) -> None:
        stops = StopStrings(self.tokenizer, params.stop_strings)
        told = (self.stop_ids, self._most_open, self._expectation, out, outgoing, stops)
        mine = Drawing(self._fleet, requests, params, *told)
        self._drawing = mine
        try:
            await mine.run()
        finally:
            if self._drawing is mine:  # one that ended late must not hide the next
                self._drawing = None

    def _changed(self) -> None:
        if self._drawing is not None:
            self._drawing.wake.set()

    def _wait(self, work: Any) -> Any:
        loop: BackgroundLoop = self._loop
        return loop.wait(loop.submit(work))

    def _require_open(self) -> None:
        if self._closed:
            raise ModelError("rollout: this servers engine is closed -> build a new one")
