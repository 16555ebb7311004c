"""One of several processes that share servers: `python servers_rank.py FOLDER MODEL start|URL[,URL]`, with torch's
variables in the environment. What it drew goes to `FOLDER/rank-N.json`. Used by test_servers_ranks.py.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
from servers_help import FAKE, QUICK, group_members, requests_of
from test_servers_sync import server_of, weights

from reasonrl.errors import ModelError
from reasonrl.models.tiny import build_tokenizer
from reasonrl.rollout import SamplingParams
from reasonrl.rollout.servers import ServersEngine

PARAMS = SamplingParams(32)


def by_id(samples):
    return {sample.request.id: [sample.weight_version, list(sample.token_ids)] for sample in samples}


def main(folder: Path, model: str, where: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    options = {"start": 2, "command": [*FAKE, "--token-seconds", "0.01"]} if where == "start" else {}
    options = options or {"urls": where.split(",")}
    out: dict = {"pid": os.getpid()}
    try:
        engine = ServersEngine(None, build_tokenizer(), path=model, limits=QUICK, log_dir=str(folder), **options)
    except ModelError as problem:
        (folder / f"rank-{rank}.json").write_text(json.dumps({"error": str(problem)}))
        return
    mine = requests_of(48)[rank::2]
    out["first"] = by_id(engine.stream(mine, PARAMS))
    # In the middle of one stream, weights change: what is drawn after that comes from the new ones, in all processes.
    drawn = []
    for number, sample in enumerate(engine.stream(mine, PARAMS)):
        if number == 3 + 4 * rank:
            engine.sync_weights(weights(1), 1)
        drawn.append(sample)
    out["changing"] = by_id(drawn)
    if where == "start":
        dist.barrier()
        drawn = []
        for number, sample in enumerate(engine.stream(mine, PARAMS)):
            if rank == 0 and number == 3:
                os.kill(server_of(group_members(engine.health()[0]["group"])), signal.SIGKILL)
            drawn.append(sample)
        out["killed"] = by_id(drawn)
        until = time.monotonic() + 30
        while not all(row["in_service"] for row in engine.health()) or (not rank and not restarts(engine)):
            assert time.monotonic() < until, engine.health()
            time.sleep(0.05)
    dist.barrier()
    out["later"] = by_id(engine.stream(mine, PARAMS))
    try:
        engine.sync_weights([("only", weights(2)[0][1])] if where != "start" else weights(2), 2)
        out["last"] = by_id(engine.stream(mine, PARAMS))
    except ModelError as problem:
        out["refused"] = str(problem)
    out["urls"], out["metrics"] = [row["url"] for row in engine.health()], engine.metrics()
    out["own"] = {name: engine.health()[0][name] + engine.health()[1][name] for name in ("samples", "requests")}
    dist.barrier()
    groups = [row["group"] for row in engine.health() if row["group"]]
    out["groups"], out["members"] = groups, [pid for group in groups for pid in group_members(group)]
    engine.close()
    (folder / f"rank-{rank}.json").write_text(json.dumps(out))
    dist.barrier()  # none leaves, and takes the store along, while another still ends
    dist.destroy_process_group()


def restarts(engine: ServersEngine) -> int:
    return sum(row["restarts"] for row in engine.health())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
