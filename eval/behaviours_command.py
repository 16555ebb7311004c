"""The work of `reasonrl behaviours`: which responses, the counts, the tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonrl.errors import Interrupted, RunError
from reasonrl.eval.behaviours.catalogue import SIDES, Catalogue, Side, read_catalogue
from reasonrl.eval.behaviours.counting import LEXICAL, Asked, count_by_judge, count_lexically, tasks_of
from reasonrl.eval.behaviours.figures import Block, Options, behaviour_figures
from reasonrl.eval.behaviours.judge import BehaviourJudge
from reasonrl.eval.behaviours.responses import Response, stored_responses, suite_folders
from reasonrl.eval.behaviours.store import CountStore
from reasonrl.eval.behaviours.tables import as_markdown, as_text
from reasonrl.eval.labelled_folders import labelled_folders
from reasonrl.observe.metrics import write_atomically
from reasonrl.observe.progress import Progress


@dataclass(frozen=True)
class Selection:
    """Which responses are read.

    Attributes:
        suites: only these; none takes all of an evaluation.
        language, vision: suites that the two sides are counted on, where they are not the same.
        metric: `sample` or `greedy`.
        per_problem: the first so many responses of each problem; 0 takes all.
    """

    suites: tuple[str, ...] = ()
    language: str | None = None
    vision: str | None = None
    metric: str = "sample"
    per_problem: int = 1


@dataclass(frozen=True)
class JudgeArguments:
    """The judge as the command line names it; `endpoint` None asks none."""

    endpoint: str | None = None
    model: str | None = None
    settings: tuple[str, ...] = ()
    name: str = "judge"
    votes: int = 1
    temperature: float | None = None
    max_tokens: int = 2048
    seed: int = 0
    re_asks: int = 2
    reply: str = "json_schema"
    prompt: Path | None = None
    restart: bool = False


def count_behaviours(
    folders: Sequence[str],
    selection: Selection,
    judge: JudgeArguments,
    *,
    catalogue: Path | None = None,
    confidence: float = 0.95,
    quoted: bool = False,
    out: Path | None = None,
    say: Callable[[str], None],
) -> None:
    """Counts behaviours in evaluations, writes `behaviours.json` and `behaviours.md` into each of them (and of all into
    `out`), and says the tables.

    Args:
        folders: each the folder of an evaluation or of a suite, `label=folder` to give it another name in the tables.
        selection: which of its responses.
        judge: whom to ask, if anybody.
        catalogue: behaviours of the user's own.
        confidence: coverage of the intervals.
        quoted: count only occurrences whose quote stands in the response, where the judge quotes.
        out: where the figures of all evaluations together go.
        say: writes the tables.

    Raises:
        RunError: no such evaluation or suite, arguments that do not go together.
        Interrupted: Ctrl-C; the counts so far are kept.
        DataError, RewardError, EndpointError: as of `read_catalogue`, `stored_responses`, `count_by_judge`.
    """
    known = read_catalogue(catalogue)
    asked = _judge(judge)
    options = Options(confidence, quoted)
    blocks = _blocks(folders, selection)
    suites = _suites(blocks)
    with Progress(description="behaviours") as bar:
        bar.report(0, sum(map(len, suites.values())), "responses", "patterns")
        for folder, responses in suites.items():
            count_lexically(folder, responses, known, bar.advance)
        if asked is not None:
            try:
                _ask(suites, known, asked, judge, bar)
            finally:
                asked.close()
    every = behaviour_figures([block for block, _ in blocks], known, options)
    for directory in dict.fromkeys(directory for _, directory in blocks):
        own = [block for block, of in blocks if of == directory]
        _write(directory, behaviour_figures(own, known, options))
    if out is not None:
        _write(out, every)
    say(as_text(every).rstrip("\n"))


def _write(directory: Path, figures: Mapping[str, Any]) -> None:
    text = json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(directory / "behaviours.json", f"{text}\n".encode("utf-8", "backslashreplace"))
    write_atomically(directory / "behaviours.md", as_markdown(figures).encode("utf-8", "backslashreplace"))


def _judge(arguments: JudgeArguments) -> BehaviourJudge | None:
    if arguments.endpoint is None:
        if arguments.model is not None or arguments.settings:
            raise RunError("--model and --set belong to a judge, and there is no --endpoint -> give its address")
        return None
    if arguments.model is None:
        raise RunError("--endpoint needs --model: the name that the server knows the judge by")
    name = arguments.name
    if not name or name != Path(name).name or name.startswith(".") or name == LEXICAL:
        raise RunError(f"--name {name!r} -> give the judge a name that can be a file's, other than {LEXICAL!r}")
    return BehaviourJudge(
        {"base_url": arguments.endpoint, "model": arguments.model, **_settings(arguments.settings)},
        votes=arguments.votes,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
        re_asks=arguments.re_asks,
        reply=arguments.reply,
        prompt=None if arguments.prompt is None else str(arguments.prompt),
    )


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """`a.b=value` words as nested settings, the values read as YAML."""
    import yaml

    found: dict[str, Any] = {}
    for word in given:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise RunError(f"--set {word!r} -> give name=value, such as max_concurrency=64")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        *path, last = name.split(".")
        inner = found
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise RunError(f"--set {word!r}: {part} has a value already")
        inner[last] = value
    return found


def _blocks(folders: Sequence[str], selection: Selection) -> list[tuple[Block, Path]]:
    """What the tables are about, with the folder of each evaluation."""
    if (selection.language is None) != (selection.vision is None):
        raise RunError("--language and --vision go together: the suites that the two sides are counted on")
    if selection.language is not None and selection.suites:
        raise RunError("--suite takes whole suites, --language and --vision one side of each -> give either")
    per_problem = selection.per_problem or None
    read: dict[Path, list[Response]] = {}
    blocks: list[tuple[Block, Path]] = []
    for label, directory in labelled_folders(folders).items():
        wanted = [selection.language, selection.vision] if selection.language else selection.suites
        found = suite_folders(directory, [name for name in dict.fromkeys(wanted) if name is not None])
        for folder in found.values():
            if folder not in read:
                read[folder] = stored_responses(folder, metric=selection.metric, per_problem=per_problem)
        sides: list[dict[Side, str]] = [{"language": name, "vision": name} for name in found]
        if selection.language is not None and selection.vision is not None:
            sides = [{"language": selection.language, "vision": selection.vision}]
        for names in sides:
            of = {side: found[names[side]] for side in SIDES}
            blocks.append((Block(label, names, of, {side: read[of[side]] for side in SIDES}), directory))
    return blocks


def _suites(blocks: Sequence[tuple[Block, Path]]) -> dict[Path, Sequence[Response]]:
    """Each suite's folder once, with its responses."""
    return {block.folders[side]: block.responses[side] for block, _ in blocks for side in SIDES}


def _ask(
    suites: Mapping[Path, Sequence[Response]],
    catalogue: Catalogue,
    judge: BehaviourJudge,
    arguments: JudgeArguments,
    bar: Progress,
) -> None:
    definitions = {one.name: one.fingerprint for one in catalogue.behaviours() if one.definition}
    total = sum(len(tasks_of(responses, catalogue, judge.votes)) for responses in suites.values())
    done = Asked()
    bar.report(0, total, "counts", arguments.name)
    try:
        for folder, responses in suites.items():
            store = CountStore(folder, arguments.name, judge.settings(), definitions, restart=arguments.restart)
            with store:
                one = count_by_judge(responses, catalogue, judge, store, bar.advance)
            bar.advance(one.there)
            done = _sum(done, one)
    except KeyboardInterrupt:
        again = "the same command without --restart" if arguments.restart else "the same command"
        raise Interrupted(f"stopped; the counts so far are kept -> {again} goes on") from None
    used = judge.client.counters()
    bar.line(
        f"{arguments.name}: {done.counted:,} counts made, {done.there:,} were there; {done.failed:,} questions failed,"
        f" {done.re_asked:,} replies were asked for again; {used.prompt_tokens:,} + {used.completion_tokens:,} tokens,"
        f" cost {used.cost:.2f}"
    )
    if done.failed:
        bar.line(f"the first failure: {done.first_failure} -> the same command asks the failed ones again")


def _sum(one: Asked, two: Asked) -> Asked:
    return Asked(
        one.there + two.there,
        one.counted + two.counted,
        one.empty + two.empty,
        one.failed + two.failed,
        one.re_asked + two.re_asked,
        one.first_failure or two.first_failure,
    )
