"""The work of `reasonrl pacore run`: rounds over the problems of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import Interrupted, StageFailed
from reasonrl.pacore.batch import Batch, Done, Problem
from reasonrl.pacore.errors import PacoreError
from reasonrl.pacore.spec import PlanSpec
from reasonrl.pacore.store import CallStore

if TYPE_CHECKING:
    from reasonrl.observe.progress import Progress

ENGINES = ("transformers", "vllm")
_OURS = ("id", "problem", "prompt", "images", "solution")


@dataclass(frozen=True)
class Source:
    """What answers.

    Attributes:
        model: the name that the servers know; with an engine a folder or hub id.
        endpoint: addresses up to `/v1`.
        engine: draws the samples here instead.
        settings: of the endpoint, or of the engine (`batch_size`).
    """

    model: str
    endpoint: tuple[str, ...] = ()
    engine: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.endpoint) == (self.engine is not None):
            raise PacoreError("give --endpoint, the address of a server, or --engine, and not both")


def run_file(
    path: Path,
    out: Path,
    source: Source,
    spec: PlanSpec,
    *,
    seed: int = 0,
    solo: int = 0,
    limit: int | None = None,
    problems_at_once: int | None = None,
    say: Callable[[str], None],
) -> Done:
    """Runs the rounds over a file's problems; the same command goes on after a kill, and after the file has grown.

    Args:
        path: rows with `problem`, `prompt`, `messages` or `conversation`; other columns are carried over.
        out: the run's folder.
        source: what answers.
        spec: what is asked.
        seed: of the run.
        solo: answers to the bare problem in all, for the baselines.
        limit: only the first so many problems.
        problems_at_once: under way together.
        say: takes lines for the user.

    Raises:
        DataError: no usable row.
        PacoreError, RunError: settings that cannot be, or that the folder's calls were not made with.
        StageFailed: problems without a result.
        Interrupted: Ctrl-C; every call that had ended is kept.
    """
    from reasonrl.observe.progress import Progress

    problems = read_problems(path, limit, say)
    plan = spec.plan()
    shared = {"max_concurrency", "timeout", "api_key_env", "base_url", "batch_size"}
    fixed = {name: value for name, value in source.settings.items() if name not in shared}
    # An endpoint may move; another engine draws other texts from the same seeds.
    settings = {**spec.settings(), "model": source.model, "engine": source.engine, "seed": seed, **fixed}
    with CallStore(out, settings) as store, Progress(len(problems), "pacore", unit="problem") as bar:
        batch = Batch(problems, plan, store, seed=seed, solo=solo, on_progress=_teller(bar, plan.calls))
        bar.update(batch.done.finished)
        if store.finished or len(store):
            bar.line(f"{out}: {batch.done.finished} of {len(problems)} problems are done, {len(store)} calls are there")
        try:
            if source.engine is None:
                done = _over_endpoint(batch, source, spec, problems_at_once)
            else:
                done = _over_engine(batch, source, spec, problems_at_once)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; all calls so far are in {out} -> the same command goes on") from None
    _say_done(done, out, say)
    return done


def read_problems(path: Path, limit: int | None, say: Callable[[str], None]) -> list[Problem]:
    """The problems of a file of rows.

    Raises:
        DataError: it cannot be read, or has no usable row.
    """
    from reasonrl.data_tools.files import BadRow, read_paths
    from reasonrl.data_tools.loading import load_rows

    first = next((row for _, row in read_paths(path, None, None, None) if not isinstance(row, BadRow)), {})
    known = ("prompt", "messages", "problem", "question")
    columns = {"prompt": "conversation"} if "conversation" in first and not any(name in first for name in known) else {}
    rows = load_rows(path=path, require=("problem",), columns=columns, limit=limit)
    if rows.report.dropped:
        say(str(rows.report))
    return [Problem(row["id"], _conversation(row), _columns(row)) for row in rows]


def _conversation(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a row asks, its pictures as data URLs in their places."""
    from reasonrl.data_tools.pictures import pictures_of, with_pictures
    from reasonrl.data_tools.prompts import as_messages

    turns, pictures = as_messages(row), pictures_of(row)
    if not pictures:
        return turns
    turns, placed = with_pictures(turns, pictures, row["id"])
    urls = [_data_url(picture, row["id"]) for picture in placed]
    for turn in turns:
        turn["content"] = [
            {"type": "image_url", "image_url": {"url": urls.pop(0)}} if part["type"] == "image" else part
            for part in turn["content"]
        ]
        if all(part["type"] == "text" for part in turn["content"]):
            turn["content"] = "".join(part["text"] for part in turn["content"])
    return turns


def _data_url(picture: Any, owner: str) -> str:
    """A picture as a PNG, which keeps every pixel."""
    import base64
    import io

    from reasonrl.data_tools.pictures import open_picture

    buffer = io.BytesIO()
    open_picture(picture, owner).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    plain = (str, int, float, bool, type(None))
    return {name: value for name, value in row.items() if name not in _OURS and isinstance(value, plain)}


def _teller(bar: Progress, calls: int) -> Callable[[int, int], None]:
    def told(ended: int, finished: int) -> None:
        bar.update(finished)
        bar.phase(f"{ended} calls")

    return told


def _over_endpoint(batch: Batch, source: Source, spec: PlanSpec, at_once: int | None) -> Done:
    from reasonrl.endpoints import EndpointClient
    from reasonrl.pacore.over_endpoint import asking

    settings = {"max_concurrency": 64, "timeout": 7200.0, "call_timeout": 14400.0, **source.settings}
    with EndpointClient({**settings, "base_url": list(source.endpoint), "model": source.model}) as client:
        # So many that the rounds of one call do not leave the servers idle.
        work = batch.over_endpoint(
            asking(client, spec.temperature, spec.top_p), at_once or client.config.max_concurrency
        )
        return client.run(work)


def _over_engine(batch: Batch, source: Source, spec: PlanSpec, at_once: int | None) -> Done:
    if spec.max_tokens is None:
        raise PacoreError("an engine needs --max-tokens, the most tokens of one call")
    if source.engine not in ENGINES:
        raise PacoreError(f"engine {source.engine!r} -> {' or '.join(ENGINES)}")
    for problem in batch.open.values():
        if any(not isinstance(turn["content"], str) for turn in problem.conversation):
            raise PacoreError(
                f"problem {problem.id!r} has pictures -> an --endpoint takes them, an engine here does not"
            )
    from reasonrl.data_tools.prompts import prompt_ids
    from reasonrl.models import load_policy, load_tokenizer, resolve_model
    from reasonrl.rollout import build_engine

    tokenizer = load_tokenizer(source.model)
    if source.engine == "vllm":
        engine = build_engine("vllm", None, tokenizer, path=resolve_model(source.model), **source.settings)
    else:
        import torch

        policy, tokenizer = load_policy(source.model, dtype="auto")
        policy.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        engine = build_engine("transformers", policy, tokenizer, **source.settings)
    try:
        return batch.over_engine(
            engine, lambda messages: prompt_ids(tokenizer, messages), spec.max_tokens, at_once or 256
        )
    finally:
        engine.close()


def _say_done(done: Done, out: Path, say: Callable[[str], None]) -> None:
    made = f"{done.asked} calls made, {done.reused} reused"
    say(f"{done.finished} problems have a result in {out / 'results.jsonl'}; {made}")
    if done.failed:
        name, why = next(iter(done.failed.items()))
        raise StageFailed(
            f"{len(done.failed)} problems have none, such as {name!r}: {why} -> the same command asks what failed again"
        )
