"""A machine with far too much to do: what waits for a CPU has not hung."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reasonrl.rewards.pool import RewardPool

sys.path.insert(0, str(Path(__file__).parent))  # where workers find the graders


@pytest.fixture
def crowd() -> Iterator[None]:
    """Twenty processes a CPU that take all the time there is."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(20 * (os.cpu_count() or 1))]
    time.sleep(0.5)
    yield
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the CPU time of another process is unknown here")
def test_an_item_that_waits_for_a_cpu_is_given_longer(crowd: None) -> None:
    limit = 0.4
    with RewardPool(1, time_limit=limit, grader="pool_graders:obey") as pool:
        pool.map([("1", "1")])
        longest = 0.0
        for number in range(60):
            verdict = pool.submit(str(number), "work 0.03").result(60)
            assert verdict.status == "wrong", verdict  # 0.03 s of CPU, however long it took
            longest = max(longest, verdict.seconds)
            if longest > 0.6:
                break
        stuck = pool.submit("1", "sleep 60").result(60)
        assert stuck.status == "timeout" and stuck.seconds < limit + 1  # it does not wait for a CPU
        spinning = pool.submit("1", "spin").result(60)
        assert spinning.status == "timeout" and spinning.seconds < 3 * 1.2 * limit + 1  # the cap
    if longest < 0.45:
        pytest.skip(f"this machine has CPUs to spare: the longest item took {longest:.2f} s")
