"""The commands around a run: argument parsing and nothing else. `cli` puts `COMMANDS` into its group."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from reasonrl.cli_eval import reports_errors


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.option("--self-test/--no-self-test", default=True, help="Train a tiny model too (about half a minute).")
@click.option("--output", type=click.Path(path_type=Path), default=Path("runs"), help="Where runs are to be written.")
@reports_errors
def doctor(as_json: bool, self_test: bool, output: Path) -> None:
    """Look whether this machine can run recipes, and say how to mend what is wrong.

    The exit status is 1 if something failed that a run needs, else 0.
    """
    from reasonrl.pipeline.doctor import examine, report

    sys.exit(report(examine(self_test=self_test, output=output), click.echo, as_json=as_json))


@click.command(options_metavar="[OPTIONS]")
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--gpus", type=click.IntRange(min=1), help="Devices to plan a recipe for.")
@click.option(
    "--gpu", default="h100-80", show_default=True, help="Which: h100-80, a100-80, …, or NAME:GIB:TFLOPS:TB_PER_S."
)
@click.option("--arm", metavar="NAME", help="Lay one of the recipe's arms over it.")
@click.option("--mean-length", type=float, help="Mean response tokens (default: half of what is allowed).")
@click.option("--longest", type=float, help="Longest response of a batch (default: what is allowed).")
@click.option("--prompt-tokens", default=256.0, show_default=True, help="Mean prompt tokens.")
@click.option("--efficiency", metavar="NAME=SHARE,…", help="Of train, read, decode, transfer, usable.")
@click.option("--stand-in", metavar="MODEL", help="Whose sizes to take for models that are not known here.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a picture of memory and time.")
@click.option("--rollout-log", type=click.Path(path_type=Path), help="A run, stage, parquet or JSONL of samples.")
@click.option("--servers", type=int, help="Without RECIPE: how many engines to replay the log over.")
@click.option("--ptl", help="Seconds a decode step by batch, as 1:0.010,64:0.018; else fitted to the log's stamps.")
@click.option("--max-batch", default=256, show_default=True, help="Most samples an engine decodes together.")
@click.option("--prefill-seconds-per-token", default=0.0, show_default=True, help="Cost of an uncached prompt token.")
@click.option("--prompts-per-step", type=int, help="Replay steps of so many prompts drawn from the log.")
@click.option("--verify-seconds", type=float, help="Time of checking one answer; the log's if absent.")
@click.option("--verify-workers", default=1, show_default=True, help="Checks at a time.")
@click.option("--train-seconds", type=float, help="Training time of a step; the log's if absent.")
@click.option("--seed", default=0, show_default=True, help="Of the resampling behind the intervals.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@reports_errors
def plan(
    recipe: str | None,
    overrides: tuple[str, ...],
    gpus: int | None,
    rollout_log: Path | None,
    servers: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """What RECIPE needs on --gpus devices: memory by part, tokens, FLOPs, time, placement, and what does not fit.

    Lengths come from --mean-length or --rollout-log. Without RECIPE, --rollout-log and --servers replay a log over a
    fleet of engines: makespan, idle time and gain of every dispatch policy.
    """
    hardware = ("gpu", "arm", "mean_length", "longest", "prompt_tokens", "efficiency", "stand_in", "plot")
    of_recipe = {name: options.pop(name) for name in hardware}
    if recipe is None:
        if rollout_log is None or servers is None:
            raise click.UsageError("give RECIPE and --gpus, or --rollout-log and --servers")
        from reasonrl.rollout.simulate_table import plan_report

        click.echo(plan_report(rollout_log, as_json=as_json, servers=servers, **options))
        return
    if gpus is None:
        raise click.UsageError("--gpus is missing: how many devices the recipe is planned for")
    from reasonrl.plan.command import recipe_report

    lengths = None
    if rollout_log is not None:
        from reasonrl.rollout.simulate_log import read_rollout_log

        lengths = [one.length for step in read_rollout_log(rollout_log).steps.values() for one in step]
    click.echo(recipe_report(recipe, overrides, gpus=gpus, lengths=lengths, as_json=as_json, **of_recipe))


@click.command()
@click.argument("address", metavar="HOST:PORT")
@click.option("--rank", required=True, type=click.IntRange(min=1), help="Of this machine; the head is 0.")
@click.option("--patience", default=600.0, show_default=True, help="Seconds to look for the head.")
@reports_errors
def node(address: str, rank: int, patience: float) -> None:
    """Work as one machine of a run whose head is at HOST:PORT, until the run ends; see `reasonrl launch`.

    The exit status is the run's.
    """
    from reasonrl.pipeline.node import join_run

    sys.exit(join_run(address, rank, patience, click.echo))


@click.command(options_metavar="[OPTIONS]")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--slurm", "form", flag_value="slurm", help="An sbatch script, with requeue and resume.")
@click.option("--torchrun", "form", flag_value="torchrun", help="A shell script a machine.")
@click.option("--ray", "form", flag_value="ray", help="A Python file for `ray job submit`.")
@click.option("--arm", metavar="NAME", help="Lay one of the recipe's arms over it.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("launch"), show_default=True, help="A folder.")
@click.option("--address", metavar="HOST:PORT", help="Of machine 0, for --torchrun (default: its variable HEAD).")
@click.option("--submit", is_flag=True, help="Hand the job to the scheduler.")
@reports_errors
def launch(
    recipe: str,
    overrides: tuple[str, ...],
    form: str | None,
    arm: str | None,
    out: Path,
    address: str | None,
    submit: bool,
) -> None:
    """Write what starts RECIPE on `launch.num_machines` machines: for Slurm, for any shell, or for Ray.

    On one machine `reasonrl train RECIPE` starts the processes itself.
    """
    if form is None:
        raise click.UsageError("give --slurm, --torchrun or --ray")
    from reasonrl.pipeline.launch_scripts import job_of, write_job
    from reasonrl.recipe import load_recipe

    job = job_of(load_recipe(recipe, overrides, arm=arm), recipe, overrides, arm)
    write_job(job, form, out, click.echo, submit=submit, address=address)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("stage")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--part", type=click.Choice(["model", "critic", "adapter"]), default="model", show_default=True)
@click.option("--max-shard-size", default="5GB", show_default=True, help="Of one file of weights.")
@click.option("--push", metavar="OWNER/NAME", help="Push it to the hub.")
@click.option("--private/--public", default=True, help="A new repository there (default: private).")
@reports_errors
def export(
    run: Path, stage: str, target: Path, part: str, max_shard_size: str, push: str | None, private: bool
) -> None:
    """Write what STAGE of the run directory RUN has made to TARGET: sharded weights and a model card."""
    from reasonrl.pipeline.export_model import export_stage

    options = {"part": part, "max_shard_size": max_shard_size, "push": push, "private": private}
    export_stage(run, stage, target, click.echo, **options)  # type: ignore[arg-type]


COMMANDS: tuple[click.Command, ...] = (doctor, export, launch, node, plan)
