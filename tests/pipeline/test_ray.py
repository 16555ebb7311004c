"""The file for Ray on a real cluster: two nodes of it on this machine, one process each, the path of one process.

Wants `ray` installed. The nodes are said to have a GPU each, which the file asks for and nothing uses.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_machines import alone, environment, gap, recipe, weights  # noqa: F401  fixtures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]


def ray(*words: str, **more: str) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", *words]
    done = subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def cluster(tmp_path):
    """The address of two nodes whose tasks find `reasonrl` on their PATH."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "reasonrl"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m reasonrl "$@"\n')
    command.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    path = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "RAY_DISABLE_IMPORT_WARNING": "1"}
    room = ["--num-cpus=1", "--num-gpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
    try:
        ray(
            "start",
            "--head",
            f"--port={port}",
            "--node-ip-address=127.0.0.1",
            "--include-dashboard=false",
            *room,
            **path,
        )
        ray("start", f"--address=127.0.0.1:{port}", "--node-ip-address=127.0.0.1", *room, **path)
        yield f"127.0.0.1:{port}"
    finally:
        subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "stop", "--force"], capture_output=True, check=False
        )


def test_two_nodes_walk_the_path_of_one_process(cluster, recipe, alone, tmp_path):  # noqa: F811
    output = tmp_path / "run"
    launch = "launch={num_processes: 2, num_machines: 2}"
    words = ["launch", str(recipe), launch, f"output={output}", "--ray", "--out", str(tmp_path / "job")]
    subprocess.run([sys.executable, "-m", "reasonrl", *words], check=True, env=environment(), timeout=300)
    (script,) = (tmp_path / "job").glob("*_ray.py")
    for attempt in ("first", "again, with nothing left to do"):
        done = subprocess.run(
            [sys.executable, str(script)],
            env=environment(RAY_ADDRESS=cluster),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=1500,
        )
        assert done.returncode == 0, f"{attempt}: {done.stdout}{done.stderr}"
    assert gap(alone[0], weights(output), alone[1]) < 1e-3
