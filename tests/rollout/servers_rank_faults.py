"""One of two processes that share servers, where now the one fails and now the other: `python servers_rank_faults.py
FOLDER MODEL URL`, with torch's variables in the environment. Used by test_servers_ranks.py.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
from servers_help import QUICK, requests_of
from servers_rank import PARAMS, by_id
from test_servers_sync import weights

from reasonrl.errors import ModelError
from reasonrl.models.tiny import build_tokenizer
from reasonrl.rollout.servers import ServersEngine


def build(model: str, url: str, **options: Any) -> ServersEngine:
    return ServersEngine(None, build_tokenizer(), path=model, limits=QUICK, urls=[url], **options)


def broken() -> Iterator[Any]:
    yield weights(1)[0]
    raise ModelError("planted")


def error_of(work: Any) -> str:
    try:
        work()
    except ModelError as problem:
        return str(problem)
    return "no error"


def main(folder: Path, model: str, url: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    started = time.monotonic()
    out: dict[str, Any] = {}
    missing = str(folder / "missing") if rank == 0 else None
    out["no folder"] = error_of(lambda: build(model, url, weights_dir=missing))
    if rank == 0:
        os.environ["REASONRL_TEST_KEY"] = "key"
    out["no key"] = error_of(lambda: build(model, url, api_key_env="REASONRL_TEST_KEY"))
    engine = build(model, url)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 0:  # as a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    out["full"] = error_of(lambda: engine.sync_weights(weights(1), 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    out["broken weights"] = error_of(lambda: engine.sync_weights(broken() if rank else weights(1), 1))
    out["seconds"] = time.monotonic() - started
    engine.sync_weights(weights(1), 1)
    out["later"] = by_id(engine.stream(requests_of(48)[rank::2], PARAMS))
    engine.close()
    (folder / f"rank-{rank}.json").write_text(json.dumps(out))
    dist.barrier()  # none leaves, and takes the store along, while another still ends
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
