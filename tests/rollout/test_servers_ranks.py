"""Two real processes over the same servers: the first one starts them and gives them weights, each draws its share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from servers_help import checkpoint, expected, fakes, fingerprint, free_port, gone, requests_of
from test_servers_sync import DEVELOPER, of_weights

from reasonrl.errors import ModelError
from reasonrl.models.tiny import build_tokenizer
from reasonrl.rollout.servers import ServersEngine
from reasonrl.rollout.servers_ranks import combined

SCRIPT = Path(__file__).with_name("servers_rank.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model"))


def two_ranks(out: Path, model: Path, where: str, script: Path = SCRIPT) -> list[dict]:
    port = str(free_port())
    ranks = []
    for rank in range(2):
        variables = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, str(script), str(out), str(model), where]
        ranks.append(
            subprocess.Popen(
                command, env={**os.environ, **variables, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        errors = [rank.communicate(timeout=100)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)[-4000:]
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(2)]


def require_drawn(ranks: list[dict], what: str, weights: str, version: int) -> None:
    """Each process drew its own requests, all with these weights."""
    requests = requests_of(48)
    wanted = expected(requests, weights)
    for rank, found in enumerate(ranks):
        mine = {request.id: [version, list(wanted[request.id])] for request in requests[rank::2]}
        assert found[what] == mine, (what, rank)


def require_either(ranks: list[dict], old: str, new: str) -> None:
    """Each sample came whole from the weights whose version it names, and both processes saw both."""
    requests = requests_of(48)
    of = {0: expected(requests, old), 1: expected(requests, new)}
    for rank, found in enumerate(ranks):
        assert sorted(found["changing"]) == sorted(request.id for request in requests[rank::2])
        for name, (version, tokens) in found["changing"].items():
            assert tuple(tokens) == of[version][name], (rank, name, version)
        assert {version for version, _ in found["changing"].values()} == {0, 1}


def test_started_servers_are_shared_and_a_restarted_one_is_found_by_both(folder, tmp_path):
    ranks = two_ranks(tmp_path, folder, "start")
    require_drawn(ranks, "first", fingerprint(folder), 0)
    require_either(ranks, fingerprint(folder), of_weights(1, tmp_path))
    require_drawn(ranks, "killed", of_weights(1, tmp_path), 1)
    require_drawn(ranks, "later", of_weights(1, tmp_path), 1)
    require_drawn(ranks, "last", of_weights(2, tmp_path), 2)
    assert ranks[0]["urls"] == ranks[1]["urls"] and len(set(ranks[0]["urls"])) == 2
    assert len(ranks[0]["groups"]) == 2 and ranks[1]["groups"] == [], "the first process alone has started servers"
    metrics = ranks[0]["metrics"]
    assert metrics == ranks[1]["metrics"]
    assert metrics["servers/up"] == metrics["servers/all"] == 2 and metrics["servers/1/restarts"] == 1
    total = sum(metrics[f"servers/{number}/samples"] for number in (1, 2))
    assert total == sum(rank["own"]["samples"] for rank in ranks) == 5 * 48
    assert 0 < metrics["servers/first_token_seconds"] < 10
    assert all(gone(pid) for pid in ranks[0]["members"]) and len(ranks[0]["members"]) == 6
    logs = [(tmp_path / f"server-{number}.log").read_text() for number in (1, 2)]
    assert "server ended with status -9" in logs[0] and all(logs)


def test_servers_at_urls_are_shared(folder, tmp_path):
    with fakes(folder, 2, "--token-seconds", "0.01", **DEVELOPER) as found:
        ranks = two_ranks(tmp_path, folder, ",".join(fake.url for fake in found))
        require_drawn(ranks, "first", fingerprint(folder), 0)
        require_either(ranks, fingerprint(folder), of_weights(1, tmp_path))
        require_drawn(ranks, "later", of_weights(1, tmp_path), 1)
        for fake in found:
            seen = fake.script()
            loads = seen["calls"].count("/pause")
            assert loads == 3, "the checkpoint, and two later versions, once each"
            assert seen["seen"]


def test_what_the_first_process_is_refused_the_others_are_told(folder, tmp_path):
    with fakes(folder, 1) as found:  # takes no weights, and serves another checkpoint
        ranks = two_ranks(tmp_path, checkpoint(tmp_path / "other"), found[0].url)
    assert "was started with" in ranks[0]["error"] and ranks[0]["error"] in ranks[1]["error"]
    assert "found by the first process" in ranks[1]["error"]


def test_what_fails_in_one_process_ends_the_call_in_all_and_the_next_one_works(folder, tmp_path):
    with fakes(folder, 1, **DEVELOPER) as found:
        script = SCRIPT.with_name("servers_rank_faults.py")
        first, second = two_ranks(tmp_path, folder, found[0].url, script)
    for what, said in (
        ("no folder", "takes no new folder"),
        ("full", "the weights cannot be written"),
    ):
        assert said in first[what] and "found by process 0 of 2" in second[what], what
        assert first[what] in second[what]
    for what, said in (("no key", "REASONRL_TEST_KEY is not set"), ("broken weights", "planted")):
        assert said in second[what] and "found by process 1 of 2" in first[what], what
        assert second[what] in first[what]
    assert first["seconds"] < 30 and second["seconds"] < 30
    require_drawn([first, second], "later", of_weights(1, tmp_path), 1)


def test_built_before_the_process_group_it_is_refused(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ModelError, match=r"WORLD_SIZE = 2 .*before their process group exists"):
        ServersEngine(None, build_tokenizer(), path=str(folder), start=1)


def test_metrics_of_several_processes():
    one = {"servers/up": 2.0, "servers/1/samples": 3.0, "servers/1/restarts": 1.0, "servers/1/open": 2.0}
    two = {"servers/up": 1.0, "servers/1/samples": 4.0, "servers/1/restarts": 0.0, "servers/1/open": 0.0}
    assert combined([one, two]) == {**one, "servers/1/samples": 7.0}
