"""The commands of coordinated reasoning: argument parsing and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from reasonrl.cli_eval import reports_errors

_SHARE = click.FloatRange(0, 1)
_COUNT = click.IntRange(min=1)
_PLAN = (
    *("temperature", "top_p", "max_tokens", "compaction", "prompt", "window", "reserve", "fit", "tokenizer"),
    *("tolerate", "budget"),
)


def _plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What is asked: the options that `run` and `serve` share."""
    for option in reversed(
        (
            click.option("--temperature", type=click.FloatRange(min=0), default=1.0, show_default=True),
            click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True),
            click.option("--max-tokens", type=_COUNT, help="Of one call (default: the server's)."),
            click.option(
                "--compaction",
                default="after_think",
                show_default=True,
                help="after_think, none, after:TAG or file.py:function.",
            ),
            click.option("--prompt", metavar="FILE", help="A synthesis prompt of your own (Jinja: problem, messages)."),
            click.option("--window", type=_COUNT, help="Tokens of prompt and answer that the model takes."),
            click.option("--reserve", type=_COUNT, help="Of them kept for an answer without --max-tokens."),
            click.option(
                "--fit",
                type=click.Choice(["longest", "last", "shorten"]),
                default="longest",
                show_default=True,
                help="Which messages give way to the window.",
            ),
            click.option("--tokenizer", metavar="FILE", help="tokenizer.json that counts for --window."),
            click.option("--tolerate", type=_SHARE, default=0.5, show_default=True, help="Of a round that may fail."),
            click.option("--budget", type=_COUNT, help="Tokens that all calls of a problem may generate together."),
        )
    ):
        command = option(command)
    return command


def _spec(options: dict[str, Any], rounds: str) -> Any:
    from reasonrl.pacore.plan import read_rounds
    from reasonrl.pacore.spec import PlanSpec

    return PlanSpec(rounds=read_rounds(rounds), **{name: options.pop(name) for name in _PLAN})


def _settings(words: tuple[str, ...]) -> dict[str, Any]:
    """`a.b=value` words as nested settings, the values read as YAML."""
    from omegaconf import OmegaConf

    if wrong := [word for word in words if "=" not in word]:
        raise click.UsageError(f"--set {wrong[0]!r}: give name=value, such as max_concurrency=64")
    return OmegaConf.to_container(OmegaConf.from_dotlist(list(words)))  # type: ignore[return-value]


@click.group()
def pacore() -> None:
    """Reasoning in coordinated rounds: many answers, compacted and read by the next round."""


@pacore.command("run", options_metavar="[OPTIONS]")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run's folder; resumed.")
@click.option("--model", required=True, metavar="NAME", help="As the server calls it; with --engine a folder or id.")
@click.option("--endpoint", multiple=True, metavar="URL", help="An OpenAI-compatible server, up to /v1; repeatable.")
@click.option("--engine", type=click.Choice(["transformers", "vllm"]), help="Draw the samples here instead.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Of the endpoint or engine; repeatable.")
@click.option("--rounds", default="medium", show_default=True, help="low, medium, high, or numbers such as 32,4.")
@_plan_options
@click.option("--seed", default=0, show_default=True, help="Of all calls' seeds.")
@click.option("--solo", type=click.IntRange(min=0), default=0, help="Answers to the bare problem, for baselines.")
@click.option("--limit", type=_COUNT, help="Only the first so many problems.")
@click.option("--at-once", "problems_at_once", type=_COUNT, help="Problems under way together.")
@reports_errors
def run(file: Path, out: Path, model: str, rounds: str, settings: tuple[str, ...], **options: Any) -> None:
    """Run the rounds over the problems of FILE; killed at any moment, the same command goes on."""
    from reasonrl.pacore.run_command import Source, run_file

    spec = _spec(options, rounds)
    source = Source(model, options.pop("endpoint"), options.pop("engine"), _settings(settings))
    run_file(file, out, source, spec, say=click.echo, **options)


@pacore.command("serve", options_metavar="[OPTIONS]")
@click.option("--upstream", "upstreams", multiple=True, required=True, metavar="URL", help="Up to /v1; repeatable.")
@click.option("--model", metavar="NAME", help="As the upstreams call it (default: their first).")
@click.option("--served-name", metavar="NAME", help="What our models' names begin with (default: the model's).")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8100, show_default=True, help="0: a free one.")
@click.option("--api-key-env", metavar="VARIABLE", help="Environment variable with the keys of clients, by commas.")
@click.option("--rounds", default="medium", show_default=True, help="For requests that name no level.")
@_plan_options
@click.option("--concurrency", type=_COUNT, default=256, show_default=True, help="Calls at the upstreams at once.")
@click.option("--max-requests", type=_COUNT, default=1024, show_default=True, help="Under way at once.")
@click.option("--max-body-mb", type=click.FloatRange(min=0, min_open=True), default=32.0, show_default=True)
@click.option("--max-calls", type=_COUNT, default=64, show_default=True, help="Of one request.")
@click.option("--max-budget", type=_COUNT, help="Tokens that one request's calls may generate together.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Of the endpoint; repeatable.")
@reports_errors
def serve(rounds: str, settings: tuple[str, ...], **options: Any) -> None:
    """Serve an OpenAI-compatible API in front of other servers: each request is answered by rounds of calls."""
    from reasonrl.pacore.server.serve_command import serve as run_it

    spec = _spec(options, rounds)
    run_it(spec=spec, settings=_settings(settings), say=click.echo, **options)


@pacore.command("table", options_metavar="[OPTIONS]")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--policy", default="default", show_default=True, help="Rules of comparison of the verifier.")
@click.option("--workers", type=click.IntRange(min=0), help="Of the verifier.")
@click.option("--draws", type=_COUNT, default=64, show_default=True, help="Orders of each pool that are averaged.")
@click.option("--answer-column", default="answer", show_default=True, metavar="NAME", help="Column of the golds.")
@reports_errors
def table(directory: Path, **options: Any) -> None:
    """Grade the run in DIR: the rounds against plain answers and votes at equal tokens."""
    from reasonrl.eval.pacore_table import pacore_table

    pacore_table(directory, say=click.echo, **options)


@pacore.command("pool", options_metavar="[OPTIONS]")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The filtered pool (JSON lines or .json).")
@click.option("--keep", multiple=True, default=("0 < acc < 9/24",), show_default=True, help="Or KIND:…, repeatable.")
@click.option("--column", default="category", show_default=True, help="That holds the KIND.")
@click.option("--least", type=_COUNT, default=24, show_default=True, help="Messages that a problem must have.")
@click.option("--compaction", default="after_think", show_default=True, help="As of run.")
@click.option("--policy", default="default", show_default=True, help="Rules of comparison of the verifier.")
@click.option("--workers", type=click.IntRange(min=0), help="Of the verifier.")
@reports_errors
def pool(file: Path, out: Path, **options: Any) -> None:
    """Grade the messages of FILE (conversation, responses, ground_truth; or rollouts) and filter by accuracy."""
    from reasonrl.pacore.pool_command import make_pool

    make_pool(file, out, say=click.echo, **options)


@pacore.command("episodes", options_metavar="[OPTIONS]")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Rows for training, in their order.")
@click.option("--steps", type=_COUNT, default=250, show_default=True, help="Iterations of the training.")
@click.option("--instances", type=_COUNT, default=16, show_default=True, help="Of an iteration.")
@click.option("--messages", default="16..24", show_default=True, help="Of an instance: uniform, or one number.")
@click.option("--seed", default=0, show_default=True)
@click.option("--prompt", metavar="FILE", help="A synthesis prompt of your own.")
@reports_errors
def episodes(file: Path, out: Path, **options: Any) -> None:
    """Draw the episodes of a training from the pool FILE: fresh messages in fresh order at every visit."""
    from reasonrl.pacore.pool_command import make_episodes

    make_episodes(file, out, say=click.echo, **options)
