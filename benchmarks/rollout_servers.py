"""One vLLM server against two, each held to one core: `python benchmarks/rollout_servers.py [--fast]`.

Both arms get the same requests and seeds, so they draw the same tokens (checked), and take turns (A B A B). Arm A is
the first of the two servers of arm B, so that nothing else differs. Prefix caching is off, and no length is predicted:
requests go to the server that owes the fewest tokens. Beside wall time stands CPU time, of the servers' processes and
of ours, which other load on the machine disturbs less. With two cores our process has none of its own in arm B.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
from rollout_load import CASES, LENGTH, requests_of

from reasonrl.models import load_tokenizer, resolve_model
from reasonrl.rollout import Request, SamplingParams, build_engine

MODELS = {
    "3.9 M": "tiny:qwen2:hidden_size=256,intermediate_size=1024,num_hidden_layers=4,num_attention_heads=4",
    "25 M": "tiny:qwen2:hidden_size=512,intermediate_size=2048,num_hidden_layers=8,num_attention_heads=8",
}
ROUNDS = 12
KEY = "ROLLOUT_SERVERS_KEY"


class Arms:
    """Two started servers, and an engine over the first of them alone."""

    def __init__(self, model: str) -> None:
        self.tokenizer, path = load_tokenizer(model), resolve_model(model)
        self.two: Any = build_engine(
            "servers",
            None,
            self.tokenizer,
            path=path,
            start=2,
            max_model_len=LENGTH,
            enable_prefix_caching=False,
            kv_cache_memory_bytes=1 << 30,
        )
        first = self.two._processes[0]
        os.environ[KEY] = first.key
        self.one: Any = build_engine("servers", None, self.tokenizer, path=path, urls=[first.url], api_key_env=KEY)
        self.processes = [members(row["group"]) for row in self.two.health()]
        cores = sorted(os.sched_getaffinity(0))
        for place, processes in enumerate(self.processes):
            hold(processes, cores[place % len(cores)])

    def draw(self, arm: str, requests: list[Request], most: int) -> dict[str, float | list[tuple[int, ...]]]:
        """Wall and CPU seconds of one batch, its tokens and their number."""
        engine = self.one if arm == "one" else self.two
        theirs = self.cpu_seconds()
        wall, ours = time.perf_counter(), time.process_time()
        samples = {int(sample.request.id): sample.token_ids for sample in engine.stream(requests, SamplingParams(most))}
        wall, ours = time.perf_counter() - wall, time.process_time() - ours
        theirs = self.cpu_seconds() - theirs
        drawn = [samples[place] for place in range(len(requests))]
        return {"wall": wall, "ours": ours, "theirs": theirs, "tokens": sum(map(len, drawn)), "drawn": drawn}

    def cpu_seconds(self) -> float:
        """CPU seconds that both servers have spent so far."""
        times = [process.cpu_times() for processes in self.processes for process in processes]
        return sum(spent.user + spent.system for spent in times)

    def close(self) -> None:
        """End the servers."""
        self.one.close()
        self.two.close()


def members(group: int) -> list[psutil.Process]:
    """Processes of a group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group:
                found.append(process)
        except (ProcessLookupError, PermissionError):
            continue
    return found


def hold(processes: list[psutil.Process], core: int) -> None:
    """Keep all threads of some processes on one core; later ones inherit it."""
    for process in processes:
        for thread in process.threads():
            os.sched_setaffinity(thread.id, {core})


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="the first model alone, 2 rounds")
    parser.add_argument("--rounds", type=int, help=f"rounds a case (default: {ROUNDS}, with --fast 2)")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    fast, rounds = options.fast, options.rounds or (2 if options.fast else ROUNDS)
    for size, model in list(MODELS.items())[: 1 if fast else None]:
        arms = Arms(model)
        print(f"{size} parameters, {rounds} rounds, a core a server; medians", flush=True)
        for name, case in CASES.items():
            for arm in ("one", "two"):
                arms.draw(arm, requests_of(case, len(arms.tokenizer), -1), 8)
            seen: dict[str, list[dict[str, Any]]] = {"one": [], "two": []}
            for turn in range(rounds):
                requests = requests_of(case, len(arms.tokenizer), turn)
                for arm in ("one", "two") if turn % 2 == 0 else ("two", "one"):
                    seen[arm].append(arms.draw(arm, requests, case[3]))
                assert seen["one"][-1]["drawn"] == seen["two"][-1]["drawn"], "the arms did not draw the same tokens"
            print(f"  {name}")
            for arm, drawn in seen.items():
                rate = statistics.median(batch["tokens"] / batch["wall"] for batch in drawn)
                cost = {who: statistics.median(b[who] / b["tokens"] for b in drawn) * 1e6 for who in ("theirs", "ours")}
                print(
                    f"    {arm} server{'s' if arm == 'two' else ' '}  {rate:6.0f} tokens/s   CPU microseconds a token:"
                    f" servers {cost['theirs']:.0f}, this process {cost['ours']:.0f}",
                    flush=True,
                )
            gains = sorted(one["wall"] / two["wall"] for one, two in zip(seen["one"], seen["two"], strict=True))
            quarter = len(gains) // 4
            print(
                f"    two / one {statistics.median(gains):.2f} (half of the rounds: {gains[quarter]:.2f} to"
                f" {gains[-1 - quarter]:.2f})",
                flush=True,
            )
        arms.close()


if __name__ == "__main__":
    main()
