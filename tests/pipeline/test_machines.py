"""Two machines, as two network namespaces with a cable between them: the same run, a cut cable, and its end.

`ip netns` needs root. What is not there is skipped, saying so.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

SILENCE = 20
RECIPE = """
recipe: pair
output: {output}
model: tiny:qwen2
stages:
  rl:
    kind: ppo
    data: {{world: arithmetic, n: 16}}
    reward: math
    prompts_per_step: 4
    num_generations: 2
    max_completion_length: 8
    max_steps: 4
    save_steps: 1
    actor_steps: 2
    critic_steps: 2
    learning_rate: 1.0e-3
    critic_learning_rate: 1.0e-3
    tokens_per_microbatch: 90
    adam_epsilon: 1.0e-6
"""
PAIR = f"launch={{num_processes: 2, num_machines: 2, limits: {{silence: {SILENCE}}}}}"
SPLIT = "launch={num_processes: 2, num_machines: 2, %s, limits: {silence: 20}}"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and ip"),
]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def cable():
    """Names of two namespaces, 10.77.0.1 and 10.77.0.2, joined by a virtual cable."""
    mark = uuid.uuid4().hex[:6]
    names = (f"rr{mark}a", f"rr{mark}b")
    ends = (f"va{mark}", f"vb{mark}")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for number, (name, end) in enumerate(zip(names, ends, strict=True), start=1):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", end)
            for device in ("lo", end):
                ip("-n", name, "link", "set", device, "up")
        yield names, ends
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def start(where: str | None, *words: str, **more: str) -> subprocess.Popen[str]:
    inside = [] if where is None else ["ip", "netns", "exec", where]
    command = [*inside, sys.executable, "-m", "reasonrl", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(**more)
    )


def start_pair(names, recipe: Path, launch: str, output: Path):
    port = 29000 + os.getpid() % 900
    address, key = f"10.77.0.1:{port}", uuid.uuid4().hex
    head = start(names[0], "train", str(recipe), launch, f"output={output}", REASONRL_ADDRESS=address, REASONRL_KEY=key)
    node = start(names[1], "node", address, "--rank", "1", "--patience", "90", REASONRL_KEY=key)
    return head, node


def end_pair(head, node, timeout: float = 1500) -> tuple[int, str, int, str]:
    try:
        out, _ = head.communicate(timeout=timeout)
        said, _ = node.communicate(timeout=300)
    finally:
        for process in (head, node):
            if process.poll() is None:
                process.kill()
    return head.returncode, out, node.returncode, said


def weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    found = {}
    for part in ("model", "critic"):
        for file in sorted((folder / "stages/rl" / part).glob("*.safetensors")):
            found.update({f"{part}/{name}": tensor for name, tensor in load_file(file).items()})
    return found


def gap(start_weights: dict, ours: dict, theirs: dict) -> float:
    """|ours - theirs| / |theirs - start|, over the policy."""
    names = [name for name in theirs if name.startswith("model/")]
    assert names and set(ours) == set(theirs)
    apart = sum(float((ours[name] - theirs[name]).double().square().sum()) for name in names) ** 0.5
    moved = sum(float((theirs[name] - start_weights[name]).double().square().sum()) for name in names) ** 0.5
    assert moved > 0
    return apart / moved


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pair") / "pair.yaml"
    path.write_text(RECIPE.format(output=path.parent / "unused"))
    return path


@pytest.fixture(scope="module")
def alone(recipe):
    """The run of one process, and the weights that it began with."""
    from safetensors.torch import load_file

    from reasonrl.models import resolve_model

    output = recipe.parent / "alone"
    done = start(None, "train", str(recipe), f"output={output}")
    out, _ = done.communicate(timeout=1500)
    assert done.returncode == 0, out
    begun = load_file(Path(resolve_model("tiny:qwen2")) / "model.safetensors")
    return {f"model/{name}": tensor for name, tensor in begun.items()}, weights(output)


@pytest.fixture(scope="module")
def together(cable, recipe):
    """The run of two machines under DDP."""
    output = recipe.parent / "together"
    status, out, node_status, said = end_pair(*start_pair(cable[0], recipe, PAIR, output))
    assert status == 0 and node_status == 0, out + said
    assert "starting 1 of 2" in said
    return weights(output)


def test_two_machines_walk_the_path_of_one_process(alone, together):
    assert gap(alone[0], together, alone[1]) < 1e-3


NEEDS_DEEPSPEED = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


@pytest.mark.parametrize("way", [pytest.param("deepspeed: zero3", marks=NEEDS_DEEPSPEED), "fsdp: full_shard"])
def test_two_machines_that_share_the_model(cable, recipe, alone, way):
    output = recipe.parent / way.split(": ")[1]
    status, out, node_status, said = end_pair(*start_pair(cable[0], recipe, SPLIT % way, output))
    assert status == 0 and node_status == 0, out + said
    assert gap(alone[0], weights(output), alone[1]) < 1e-3


def test_a_cut_cable_is_named_within_the_limit_and_the_run_goes_on_exactly(cable, recipe, together):
    names, ends = cable
    output = recipe.parent / "cut"
    head, node = start_pair(names, recipe, PAIR, output)
    lines = output / "stages/rl/metrics.jsonl"
    while not any(output.glob("stages/rl/checkpoints/checkpoint-*/complete.json")):
        assert head.poll() is None, head.communicate()[0]
        time.sleep(0.02)
    ip("-n", names[1], "link", "set", ends[1], "down")
    cut = time.monotonic()
    try:
        out, _ = head.communicate(timeout=600)
        took = time.monotonic() - cut
        said, _ = node.communicate(timeout=300)
    finally:
        ip("-n", names[1], "link", "set", ends[1], "up")
    assert head.returncode == 1, out
    assert "nothing heard of rank 1 on" in out and "(machine 1)" in out, out
    print(f"\nhead ended {took:.1f} s after the cut (limit {SILENCE} s)")
    assert took < SILENCE + 20
    assert node.returncode == 1 and "the head was lost" in said, said
    assert len(lines.read_text().splitlines()) < 4
    status, again, node_status, said = end_pair(*start_pair(names, recipe, PAIR, output))
    assert status == 0 and node_status == 0, again + said
    assert "resumed at step" in again
    ours = weights(output)
    assert all(bool((ours[name] == together[name]).all()) for name in together)


WATCHING = """
import time
from reasonrl.pipeline.watch import Limits, Watch
watch = Watch("10.77.0.1", 29990, "k", everywhere=True)
watch.begin(2, Limits(silence=%d))
while len(watch.ranks) < 2:
    time.sleep(0.1)
print("both are there", flush=True)
while watch.look() is None:
    time.sleep(0.1)
print(watch.look(), flush=True)
time.sleep(30)
"""
BEATING = """
import sys, time
from reasonrl.observe import phases
from reasonrl.pipeline.heartbeat import start_heartbeat
beat = start_heartbeat(int(sys.argv[1]))
with phases.phase("actor"):
    time.sleep(3000)
"""


def test_a_cut_cable_is_noticed_on_both_sides(cable):
    """Without any training: the head names the rank beyond the cable, and both ranks end."""
    names, ends = cable
    variables = environment(REASONRL_WATCH="10.77.0.1:29990", REASONRL_KEY="k", REASONRL_SILENCE=str(SILENCE))

    def inside(where: str, *words: str) -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", where, sys.executable, "-c", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables)

    head = inside(names[0], WATCHING % SILENCE)
    near, far = inside(names[0], BEATING, "0"), inside(names[1], BEATING, "1")
    try:
        assert head.stdout.readline() == "both are there\n"
        ip("-n", names[1], "link", "set", ends[1], "down")
        cut = time.monotonic()
        said = head.stdout.readline()
        took = time.monotonic() - cut
        assert said.startswith("nothing heard of rank 1 on") and "waiting: rank 0 on" in said, said
        print(f"\nnamed {took:.1f} s after the cut (limit {SILENCE} s)")
        assert SILENCE - 5 < took < SILENCE + 20
        assert near.wait(120) == 75 and "rank 0 stops: nothing heard of rank 1" in near.stdout.read()
        assert far.wait(120) == 75 and "this machine is cut off" in far.stdout.read()
    finally:
        ip("-n", names[1], "link", "set", ends[1], "up")
        for process in (head, near, far):
            process.kill()
