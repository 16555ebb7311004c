"""New weights over a fleet: no server answers with old ones, whoever misses the barrier, comes back, or is started
again. The servers are fakes whose tokens depend on the weights' bytes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from servers_help import (
    FAKE,
    PARAMS,
    QUICK,
    check,
    checkpoint,
    engine_over,
    fakes,
    fingerprint,
    gone,
    group_members,
    requests_of,
    script,
    start_fake,
    wait_for,
)

from reasonrl.errors import ModelError
from reasonrl.models.tiny import build_tokenizer
from reasonrl.rollout.servers import ServersEngine
from reasonrl.rollout.servers_weights import WeightFolders, write_weights

DEVELOPER = {"VLLM_SERVER_DEV_MODE": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model"))


def weights(value: float):
    return [("a", torch.full((3,), value)), ("b", torch.full((2, 2), value + 1))]


def of_weights(value: float, tmp_path: Path) -> str:
    """The fingerprint that a server with these weights has."""
    folder = tmp_path / f"expected-{value}"
    folder.mkdir(exist_ok=True)
    write_weights(weights(value), folder)
    return fingerprint(folder)


@pytest.fixture
def started(folder):
    engine = started_engine(folder)
    yield engine
    engine.close()


def started_engine(folder: Path, *arguments: str, count: int = 2, **options) -> ServersEngine:
    command = [*FAKE, "--token-seconds", "0.005", *arguments]
    return ServersEngine(
        None, build_tokenizer(), path=str(folder), start=count, command=command, limits=QUICK, **options
    )


def up(engine: ServersEngine, count: int, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while engine.metrics()["servers/up"] != count:
        assert time.monotonic() < until, engine.health()
        time.sleep(0.02)


def test_all_draw_with_the_new_weights(folder, tmp_path):
    requests = requests_of(24)
    with fakes(folder, 2, **DEVELOPER) as found:
        engine = engine_over(found)
        check(list(engine.stream(requests, PARAMS)), requests, fingerprint(folder))
        for version in (1, 2, 3):
            engine.sync_weights(weights(version), version)
            samples = list(engine.stream(requests, PARAMS))
            check(samples, requests, of_weights(version, tmp_path))
            assert {sample.weight_version for sample in samples} == {version}
        engine.sync_weights([], 4)
        assert {sample.weight_version for sample in engine.stream(requests, PARAMS)} == {4}
        for fake in found:
            calls = [call for call in fake.script()["calls"] if call in ("/pause", "/reset_prefix_cache", "/resume")]
            assert calls == ["/pause", "/reset_prefix_cache", "/resume"] * 4, "the checkpoint's, and three later ones"
        root = engine._folders.root
        assert len(list(root.glob("v*"))) == 1 and root.stat().st_mode & 0o777 == 0o700
        engine.close()
        assert not root.exists()


@pytest.mark.parametrize("fault", ["500", "hang", "forgets"])
def test_who_misses_the_barrier_draws_nothing_until_it_has_caught_up(folder, tmp_path, fault):
    requests = requests_of(24)
    with fakes(folder, 2, **DEVELOPER) as found:
        engine = engine_over(found)
        found[0].script(load_fault=fault)
        start = time.monotonic()
        engine.sync_weights(weights(1), 1)
        assert time.monotonic() - start < QUICK.sync + 5
        drawn_before = len(found[0].script()["seen"])
        check(list(engine.stream(requests, PARAMS)), requests, of_weights(1, tmp_path))
        assert engine.metrics()["servers/1/up"] == 0 and len(found[0].script()["seen"]) == drawn_before
        found[0].script(load_fault="none")
        up(engine, 2)
        check(list(engine.stream(requests, PARAMS)), requests, of_weights(1, tmp_path))
        assert engine.metrics()["servers/1/samples"] > 0 and engine.metrics()["servers/1/catch_ups"] == 1
        engine.close()


def test_nobody_takes_the_weights(folder):
    with fakes(folder, 2) as found:
        engine = engine_over(found)
        with pytest.raises(ModelError, match=r"no server has taken over.*VLLM_SERVER_DEV_MODE=1"):
            engine.sync_weights(weights(1), 1)
        engine.close()


def test_a_checkpoint_to_be_evaluated_is_loaded_or_has_to_be_served(folder, tmp_path):
    requests, other = requests_of(8), checkpoint(tmp_path / "other")
    write_weights(weights(9), other)
    with fakes(folder, 2, **DEVELOPER) as found:
        found[0].folder = other
        engine = engine_over(found)
        check(list(engine.stream(requests, PARAMS)), requests, fingerprint(other))
        engine.close()
        assert other.exists(), "it is read where it lies, and stays"
    with fakes(folder, 1) as only:
        only[0].folder = other
        with pytest.raises(ModelError, match=rf"was started with '{folder}'.*from '{other}'"):
            engine_over(only)


def test_a_server_with_other_weights_is_found_before_it_draws(folder, tmp_path):
    """Somebody restarts a server between two steps: it answers well, with the weights of its start."""
    requests = requests_of(24)
    with fakes(folder, 2, **DEVELOPER) as found:
        engine = engine_over(found)
        engine.sync_weights(weights(1), 1)
        os.killpg(found[0].process.pid, signal.SIGKILL)
        found[0].process.wait()
        again = start_fake(folder, port=found[0].port, **DEVELOPER)
        try:
            wait_for(again)
            check(list(engine.stream(requests, PARAMS)), requests, of_weights(1, tmp_path))
            up(engine, 2)
            assert script(again.url)["weights"] == of_weights(1, tmp_path)
        finally:
            engine.close()
            os.killpg(again.process.pid, signal.SIGKILL)
            again.process.wait()


def test_what_is_being_drawn_is_drawn_again_with_the_new_weights(folder, tmp_path):
    requests = requests_of(64)
    with fakes(folder, 2, "--token-seconds", "0.02", **DEVELOPER) as found:
        engine = engine_over(found)
        old, new = {}, {}
        for sample in engine.stream(requests, PARAMS):
            (new if sample.weight_version else old)[sample.request.id] = sample
            if len(old) == 5 and not new:
                engine.sync_weights(weights(1), 1)
        assert len(old) + len(new) == 64 and not set(old) & set(new)
        check(list(old.values()), [r for r in requests if r.id in old], fingerprint(folder))
        check(list(new.values()), [r for r in requests if r.id in new], of_weights(1, tmp_path))
        figures = engine.metrics()
        assert len(new) > 30 and figures["servers/1/retries"] + figures["servers/2/retries"] == len(new)
        engine.close()


def test_a_started_server_that_is_killed_is_started_again_with_the_present_weights(started, tmp_path, caplog):
    requests = requests_of(64)
    started.sync_weights(weights(1), 1)
    rows = started.health()
    members = group_members(rows[0]["group"])
    assert len(members) == 3, "keeper, server, engine process"
    samples = []
    for sample in started.stream(requests, PARAMS):
        samples.append(sample)
        if len(samples) == 8:
            os.kill(server_of(members), signal.SIGKILL)
    check(samples, requests, of_weights(1, tmp_path))
    assert all(gone(member) for member in members)
    until = time.monotonic() + 30
    while not started.metrics()["servers/1/restarts"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    up(started, 2)
    figures = started.metrics()
    assert figures["servers/1/restarts"] == 1 and figures["servers/1/losses"] == 1
    said = [record.getMessage() for record in caplog.records]
    for words in ("its process has ended", "is being restarted; its log:", "is back"):
        assert [text for text in said if "rollout: server 1 " in text and words in text], (words, said)
    before = figures["servers/1/samples"]
    check(list(started.stream(requests, PARAMS)), requests, of_weights(1, tmp_path))
    assert started.metrics()["servers/1/samples"] > before


def server_of(members: list[int]) -> int:
    """The fake server among the processes of its group."""
    named = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in members}
    return next(pid for pid, words in named.items() if b"fake_vllm" in words and b"servers_keeper" not in words)


def test_a_server_that_dies_again_and_again_is_given_up(folder):
    engine = started_engine(folder)
    try:
        for _ in range(QUICK.restarts + 1):
            up(engine, 2)
            os.kill(server_of(group_members(engine.health()[0]["group"])), signal.SIGKILL)
            up(engine, 1)
        until = time.monotonic() + 10
        while "given up after 2 restarts" not in engine.health()[0]["why_out"]:
            assert time.monotonic() < until, engine.health()
            time.sleep(0.05)
        requests = requests_of(8)
        check(list(engine.stream(requests, PARAMS)), requests, fingerprint(folder))
    finally:
        engine.close()


def test_started_servers_are_behind_a_key_on_the_loopback_address(started):
    for row in started.health():
        assert row["url"].startswith("http://127.0.0.1:")
        with pytest.raises(OSError, match="401"):
            script(row["url"])
        arguments = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in group_members(row["group"]))
        assert all(process.key.encode() not in arguments for process in started._processes)
    assert len({process.key for process in started._processes}) == 2


def test_closing_leaves_nothing(folder):
    engine = started_engine(folder)
    members = [pid for row in engine.health() for pid in group_members(row["group"])]
    root = engine._folders.root
    assert len(members) == 6
    start = time.monotonic()
    engine.close()
    assert time.monotonic() - start < 20
    assert all(gone(pid, 0.5) for pid in members) and not root.exists()


TRAINER = """
import sys, time
sys.path.insert(0, {tests!r})
from test_servers_sync import started_engine, group_members, weights
from pathlib import Path
engine = started_engine(Path({folder!r}))
engine.sync_weights(weights(1), 1)
print(engine._folders.root, *(pid for row in engine.health() for pid in group_members(row["group"])), flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["kill", "exit", "exception"])
def test_a_trainer_that_ends_in_any_way_leaves_nothing(folder, end):
    import subprocess

    code = {"kill": "time.sleep(600)", "exit": "sys.exit(0)", "exception": "raise RuntimeError"}[end]
    program = TRAINER.format(tests=str(Path(__file__).parent), folder=str(folder), end=code)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as trainer:
        root, *members = trainer.stdout.readline().decode().split()
        assert len(members) == 6
        if end == "kill":
            trainer.kill()
        trainer.wait(30)
    assert all(gone(int(pid)) for pid in members)
    until = time.monotonic() + 30
    while Path(root).exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_server_that_does_not_start_is_told_with_its_own_words(folder):
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"server 1 ended while it started(.|\n)*no such model architecture"):
        started_engine(folder, "--dies-at-start", count=1)
    assert time.monotonic() - start < 60


def test_weights_on_disk(tmp_path):
    big = torch.arange(12.0)
    folder = tmp_path / "f"
    folder.mkdir()
    names = write_weights([("whole", big), ("view", big[2:5]), ("turned", big.view(3, 4).T)], folder)
    from safetensors.torch import load_file

    loaded = load_file(folder / "model-00000.safetensors")
    assert names == set(loaded) == {"whole", "view", "turned"}
    assert torch.equal(loaded["view"], big[2:5]) and torch.equal(loaded["turned"], big.view(3, 4).T)
    with pytest.raises(ModelError, match="'a' came twice"):
        write_weights([("a", big), ("a", big)], folder)
    with pytest.raises(ModelError, match=r"weights_dir: .*takes no new folder"):
        WeightFolders(str(tmp_path / "missing"), 0)


def test_folders_of_dead_runs_are_swept(tmp_path):
    left = tmp_path / "reasonrl-servers-4194303-abc"
    kept = tmp_path / f"reasonrl-servers-{os.getpid()}-abc"
    left.mkdir(), kept.mkdir()
    folders = WeightFolders(str(tmp_path), 0)
    assert not left.exists() and kept.exists() and folders.root.parent == tmp_path
