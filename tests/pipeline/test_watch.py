"""The watch over real sockets and processes: who is silent, who is behind; machines that join, are told, and lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from reasonrl.errors import RunError
from reasonrl.pipeline.watch import Limits, Watch
from reasonrl.pipeline.wire import interface_of, parse_address, read_line, say_line

BEATING = """
import os, sys, time
from reasonrl.observe import phases
from reasonrl.pipeline.heartbeat import start_heartbeat
beat = start_heartbeat(int(sys.argv[1]))
phases.step_done()
with phases.phase(sys.argv[2]):
    time.sleep(float(sys.argv[3]))
beat.finish()
"""


@pytest.fixture
def watch():
    one = Watch()
    yield one
    one.close()


class Ranks:
    """Connections that report as processes do."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.connections = watch, {}

    def beat(self, rank: int, phase: str = "actor", step: int = 1, changes: int = 5, seconds: float = 0.0, done=False):
        if rank not in self.connections:
            connection = socket.create_connection((self.watch.host, self.watch.port))
            say_line(connection, {"key": self.watch.key, "role": "rank", "rank": rank, "host": f"h{rank}"})
            self.connections[rank] = (connection, connection.makefile("rb"))
        connection, stream = self.connections[rank]
        beat = {"phase": phase, "step": step, "changes": changes, "seconds": seconds, "done": done}
        say_line(connection, beat)
        return read_line(stream)


def test_a_silent_process_is_named_with_those_that_wait(watch):
    watch.begin(2, Limits(silence=0.6))
    ranks = Ranks(watch)
    for _ in range(4):
        ranks.beat(0, "values", 2)
    ranks.beat(1, "generate", 1)
    assert watch.look() is None
    began = time.monotonic()
    while watch.look() is None:
        ranks.beat(0, "values", 2)
        time.sleep(0.05)
        assert time.monotonic() - began < 30
    said = watch.look()
    assert said.startswith("nothing heard of rank 1 on h1") and "in generate after step 1" in said
    assert "waiting: rank 0 on h0 in values after step 2" in said
    assert ranks.beat(0)["stop"] == said, "the others are told"
    watch.begin(2, Limits())
    assert watch.look() is None


def test_of_all_that_are_late_the_one_behind_is_named(watch):
    watch.begin(3, Limits(phase=100, phases={"generate": 50}))
    ranks = Ranks(watch)
    ranks.beat(0, "actor", 3, changes=20, seconds=120)
    ranks.beat(2, "actor", 3, changes=20, seconds=110)
    ranks.beat(1, "generate", 3, changes=17, seconds=130)
    said = watch.look()
    assert said.startswith("rank 1 on h1 in generate after step 3 for 130 s (limit 50 s); waiting: rank 0 on h0")


def test_finished_processes_may_be_silent_and_missing_ones_have_a_limit(watch):
    watch.begin(2, Limits(silence=0.2, start=0.4))
    Ranks(watch).beat(0, done=True)
    time.sleep(0.3)
    assert watch.look() is None
    time.sleep(0.3)
    assert "rank 1 has not started within 0 s" in watch.look()


def test_a_wrong_key_is_not_heard(watch):
    watch.begin(1, Limits())
    connection = socket.create_connection((watch.host, watch.port))
    say_line(connection, {"key": "guess", "role": "rank", "rank": 0, "host": "x"})
    assert connection.recv(10) == b"" and not watch.ranks


def started(watch: Watch, rank: int, phase: str, seconds: float, silence: float) -> subprocess.Popen:
    variables = {"REASONRL_WATCH": watch.address, "REASONRL_KEY": watch.key, "REASONRL_SILENCE": str(silence)}
    command = [sys.executable, "-c", BEATING, str(rank), phase, str(seconds)]
    return subprocess.Popen(command, env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True)


def until(condition, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_processes_report_end_each_other_and_notice_the_runs_death(watch):
    """One that is stopped (as a machine that hangs) is named to the other, which ends itself."""
    watch.begin(3, Limits(silence=12.0))
    hanging, waiting, done = (
        started(watch, 0, "generate", 600, 12.0),
        started(watch, 1, "actor", 600, 12.0),
        started(watch, 2, "actor", 0.1, 12.0),
    )
    try:
        until(lambda: len(watch.ranks) == 3 and watch.ranks[2].done and watch.ranks[0].phase == "generate")
        assert done.wait(30) == 0 and watch.look() is None
        os.kill(hanging.pid, signal.SIGSTOP)
        until(lambda: watch.look() is not None)
        assert "rank 0" in watch.look() and "in generate after step 1" in watch.look()
        assert waiting.wait(60) == 75
        assert "rank 1 stops: nothing heard of rank 0" in waiting.stderr.read()
        watch.begin(1, Limits())
        watch.close()
        os.kill(hanging.pid, signal.SIGCONT)
        assert hanging.wait(60) == 75
        assert "this machine is cut off, or the run has ended" in hanging.stderr.read()
    finally:
        for process in (hanging, waiting, done):
            process.kill()


def test_a_machine_joins_reports_and_is_sent_home(watch):
    environment = {**os.environ, "REASONRL_KEY": watch.key}
    command = [sys.executable, "-m", "reasonrl", "node", watch.address, "--rank", "1"]
    node = subprocess.Popen(command, env=environment)
    try:
        until(lambda: 1 in watch.machines)
        heard = watch.machines[1].heard
        until(lambda: watch.machines[1].heard > heard)
        watch.machines[1].send({"bye": 7})
        assert node.wait(30) == 7
    finally:
        node.kill()


def test_a_machine_without_a_head_gives_up_saying_so():
    command = [sys.executable, "-m", "reasonrl", "node", "127.0.0.1:9", "--rank", "1", "--patience", "0.5"]
    lost = subprocess.run(command, env={**os.environ, "REASONRL_KEY": "k"}, capture_output=True, text=True, timeout=60)
    assert lost.returncode == 1 and "no run at 127.0.0.1:9" in lost.stderr
    bare = {name: value for name, value in os.environ.items() if name != "REASONRL_KEY"}
    keyless = subprocess.run(command, env=bare, capture_output=True, text=True, timeout=60)
    assert keyless.returncode == 1 and "REASONRL_KEY is not set" in keyless.stderr


def test_addresses():
    assert parse_address("[::1]:80") == ("[::1]", 80) and interface_of("127.0.0.1") == "lo"
    for wrong in ("host", "host:", ":80", "host:99999", "host:x"):
        with pytest.raises(RunError, match="HOST:PORT"):
            parse_address(wrong)
