"""`reasonrl launch`: what starts a recipe's run on several machines, as scripts for Slurm, for any shell, and for Ray.

Existing schedulers and launchers do the work. Machine 0 walks the recipe (`reasonrl train`), the others join it
(`reasonrl node`), and each training stage is one `accelerate launch` (torchrun) over all of them; further machines may
hold vLLM servers. Every start resumes what the run directory holds.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import RunError
from reasonrl.pipeline.launch_templates import RAY, SERVERS, SHELL_HEAD, SHELL_NODE, SHELL_SERVER, SLURM

if TYPE_CHECKING:
    from reasonrl.recipe import ResolvedRecipe

FIRST_PORT = 8000


@dataclass(frozen=True)
class Job:
    """What is to be started.

    Attributes:
        name: of the recipe.
        train: words of the command that machine 0 runs.
        machines: that train; devices: of each.
        servers: further machines that draw; engines: servers on each, of `tensor_parallel` devices.
        model: what servers begin with.
        folder: the working directory, the same on all machines.
        weights: the folder that weights go through.
        flags: further words of `vllm serve`; nulls: overrides that take out of the recipe what servers are told.
        restarts: of a failed job; slurm: further options of sbatch.
    """

    name: str
    train: tuple[str, ...]
    machines: int
    devices: int
    servers: int = 0
    engines: int = 1
    tensor_parallel: int = 1
    model: str = ""
    folder: Path = field(default_factory=Path.cwd)
    weights: str = ""
    flags: tuple[str, ...] = ()
    nulls: tuple[str, ...] = ()
    restarts: int = 0
    slurm: tuple[tuple[str, str], ...] = ()

    @property
    def command(self) -> str:
        """As a shell reads it."""
        return shlex.join(self.train)

    def urls(self, hosts: Sequence[str]) -> str:
        """Of the servers, as a recipe's list; `hosts` may be shell variables."""
        ports = range(FIRST_PORT, FIRST_PORT + self.engines)
        return ",".join(f"http://{host}:{port}" for host in hosts for port in ports)


def job_of(resolved: ResolvedRecipe, recipe: str, overrides: Sequence[str], arm: str | None = None) -> Job:
    """The job of a recipe: as many machines and devices as its largest stage wants.

    Raises RunError if servers are wanted and the recipe names no model.
    """
    from reasonrl.recipe import expand_stages
    from reasonrl.recipe.sources import STARTED_OPTIONS

    launches: list[Any] = [instance.config.launch for instance in expand_stages(resolved.recipe)]
    machines = max(launch.num_machines for launch in launches)
    devices = max(-(-launch.num_processes // launch.num_machines) for launch in launches)
    servers, rollout = resolved.recipe.launch.server_machines, resolved.recipe.rollout
    if servers and not resolved.recipe.model:
        raise RunError("launch.server_machines needs the recipe's `model`: servers begin with it -> add model: NAME")
    tensor = rollout.tensor_parallel_size or 1
    options = [name for name in STARTED_OPTIONS if name != "tensor_parallel_size"]
    told = [name for name in options if getattr(rollout, name) is not None]
    words = ["reasonrl", "train", "--if-needed", recipe, *overrides, *(["--arm", arm] if arm else [])]
    return Job(
        name=resolved.recipe.recipe,
        train=tuple(words),
        machines=machines,
        devices=devices,
        servers=servers,
        engines=max(1, devices // tensor),
        tensor_parallel=tensor,
        model=resolved.recipe.model or "",
        weights=str(Path(resolved.recipe.output).absolute() / "weights"),
        flags=tuple(word for name in told for word in _flag(name, getattr(rollout, name))),
        nulls=tuple(f"rollout.{name}=null" for name in ("start", *told, "tensor_parallel_size")),
        restarts=max(launch.max_restarts for launch in launches),
        slurm=tuple((name, str(value)) for name, value in resolved.recipe.launch.slurm.items()),
    )


def _flag(name: str, value: Any) -> tuple[str, ...]:
    """An option of the recipe as `vllm serve` takes it."""
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return (flag if value else flag.replace("--", "--no-", 1),)
    return flag, str(value)


def slurm_script(job: Job) -> str:
    """An sbatch script: requeued when its time ends or a machine is taken away, resumed then."""
    options = {
        "job-name": job.name,
        "nodes": str(job.machines + job.servers),
        "ntasks-per-node": "1",
        "gpus-per-node": str(job.devices),
        "output": f"{job.name}-%j.log",
        "signal": "B:TERM@180",
        **dict(job.slurm),
    }
    if "gres" in options or options["gpus-per-node"] == "0":
        options.pop("gpus-per-node")
    lines = [f"#SBATCH --{name}={value}" if value else f"#SBATCH --{name}" for name, value in options.items()]
    return _filled(SLURM, job, options="\n".join([*lines, "#SBATCH --requeue", "#SBATCH --open-mode=append"]))


def shell_scripts(job: Job, address: str | None = None) -> dict[str, str]:
    """A script a machine, by file name; every one is run on its machine.

    Args:
        job: what is started.
        address: `HOST:PORT` of machine 0; None leaves HEAD to be set there.
    """
    import secrets

    place = address or "${HEAD:?set HEAD to the address of machine 0}:29400"
    words: dict[str, str] = {"address": place, "key": secrets.token_hex(16)}
    scripts = {"machine-0.sh": _filled(SHELL_HEAD, job, **words)}
    for rank in range(1, job.machines):
        scripts[f"machine-{rank}.sh"] = _filled(SHELL_NODE, job, rank=str(rank), **words)
    if job.servers:
        scripts["server.sh"] = _filled(SHELL_SERVER, job, rank=f"$(({job.machines} + ${{1:-0}}))", **words)
    return scripts


def ray_script(job: Job) -> str:
    """A Python file for `ray job submit`: one task a machine, spread strictly.

    Raises RunError for servers on machines of their own, which this form does not place.
    """
    if job.servers:
        raise RunError("--ray places no server machines -> use --slurm, or start servers and give rollout.urls")
    return _filled(RAY, job)


def _filled(template: str, job: Job, **words: str) -> str:
    """A template with `@NAME@` replaced; shell and Python have their own uses for braces and dollars."""
    known = {
        "name": job.name,
        "command": job.command,
        "words": repr(list(job.train)),
        "machines": str(job.machines),
        "devices": str(job.devices),
        "servers": str(job.servers),
        "engines": str(job.engines),
        "tensor": str(job.tensor_parallel),
        "model": shlex.quote(job.model),
        "folder": shlex.quote(str(job.folder)),
        "folder_text": repr(str(job.folder)),
        "weights": shlex.quote(job.weights),
        "flags": shlex.join(job.flags),
        "nulls": shlex.join(job.nulls),
        "restarts": str(job.restarts),
        "first_port": str(FIRST_PORT),
        "server_urls": "1" if job.servers else "0",
        **words,
    }
    known = {"address": "$REASONRL_ADDRESS", "rank": "$SLURM_PROCID", **known}
    known["start_servers"] = _replace(SERVERS, known) if job.servers else ":"
    return _replace(template, known)


def _replace(text: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        text = text.replace(f"@{name.upper()}@", value)
    return text


def write_job(
    job: Job, form: str, out: Path, say: Callable[[str], None], *, submit: bool = False, address: str | None = None
) -> None:
    """Write a job's scripts, and hand them to the scheduler if asked to.

    Args:
        job: from `job_of`.
        form: `slurm`, `torchrun` or `ray`.
        out: the folder that scripts go to.
        say: takes lines.
        submit: run sbatch, or `ray job submit`.
        address: `HOST:PORT` of machine 0, for `torchrun`.

    Raises RunError if the scheduler is not here or refuses.
    """
    scripts = {
        "slurm": lambda: {f"{job.name}.sbatch": slurm_script(job)},
        "torchrun": lambda: shell_scripts(job, address),
        "ray": lambda: {f"{job.name}_ray.py": ray_script(job)},
    }[form]()
    out.mkdir(parents=True, exist_ok=True)
    for name, text in scripts.items():
        (out / name).write_text(text, encoding="utf-8")
        (out / name).chmod(0o700)  # the key of a job is in it
        say(f"wrote {out / name}")
    first = out / next(iter(scripts))
    command = {
        "slurm": ["sbatch", str(first)],
        "torchrun": ["bash", str(first)],
        "ray": ["ray", "job", "submit", "--working-dir", ".", "--", "python", str(first)],
    }[form]
    if not submit:
        say(f"start it with: {shlex.join(command)}" + (", and each other script there" if len(scripts) > 1 else ""))
        return
    if form == "torchrun":
        raise RunError("--submit belongs to --slurm and --ray -> run each script on its machine")
    if shutil.which(command[0]) is None:
        raise RunError(f"{command[0]} is not on this machine -> without --submit the script is written only")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"{shlex.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    say(done.stdout.strip())
