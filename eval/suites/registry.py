"""From names to suites that can be run: shipped entries, a user's YAML, installed packages; protocol and overrides laid
over their defaults.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ConfigDict, ValidationError

from reasonrl.data_tools.loading import Rows
from reasonrl.errors import DataError, Problem, RecipeError
from reasonrl.eval.suites.entry import HEADLINES, SAMPLING, CompoundFrame, SuiteEntry
from reasonrl.eval.suites.files import read_models
from reasonrl.eval.suites.protocols import Protocol, get_protocol
from reasonrl.eval.suites.rows import RowCheck, suite_rows
from reasonrl.eval.suites.several import compound_sampling, prompts_of, reward_problem
from reasonrl.plugins import entry_point_names, load_entry_point
from reasonrl.recipe.fields import near
from reasonrl.recipe.messages import explain
from reasonrl.recipe.sources import DataSource
from reasonrl.recipe.stages import SuiteConfig

SUITES_GROUP = "reasonrl.suites"
"""Entry-point group of installed suites: an entry as a mapping, a suite of a recipe (with `data`), or a function that
returns one of them.
"""
DATA_ROOT = "REASONRL_DATA"
"""The environment variable that names the folder of local data sets."""
_IN_COMPOUND = re.compile(r"(?P<suite>.+)-cb(?P<k>[1-9]\d?)(?P<framed>-framed)?")
_IN_FILE = re.compile(r"(?P<file>.+\.ya?ml)(?::(?P<one>[^:/]+))?")
Entries: TypeAlias = dict[str, tuple[SuiteEntry | Mapping[str, Any], Path]]
"""Entries by name, each with the folder that its relative paths start at."""
OVERRIDES = (
    *(*SAMPLING, "stop_strings", "reward", "metrics", "limit", "check"),
    *("template", "system_prompt", "system_prompt_file"),
)
"""What an override may set, for all suites or below a suite's name."""


class Suite(SuiteConfig):
    """A suite of a recipe that was made from an entry: the same settings, and rows that are checked.

    Attributes:
        name: the suite's.
        entry: what it was made from; None for an installed suite that gives its data as a recipe does.
        check: refuse rows that are not the expected ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    entry: SuiteEntry | None = None
    check: bool = True

    @property
    def identity(self) -> str:
        """Hash of all that says what is asked and how it is judged: of the suite's settings without where its file
        lies, how many samples are drawn and what is told about it.
        """
        told = {"about", "settings_from", "used_by", "rows_from", "notes", "metric", *SAMPLING}
        kept = self.model_dump(
            mode="json", exclude={"n": True, "k": True, "metrics": True, "entry": told, "data": {"path", "format"}}
        )
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]

    def load(self, seed: int = 0, base_dir: str | Path | None = None) -> tuple[Rows, RowCheck | None]:
        """The rows to be asked, and how they compare with the entry (None without one).

        Raises:
            DataError: as `rows.suite_rows` does.
        """
        data = self.data
        assert isinstance(data, DataSource)
        keys = ("path", "hub", "world", "args", "format", "split", "name", "revision", "n")
        source = {key: value for key in keys if (value := getattr(data, key)) not in (None, {})}
        if isinstance(source.get("path"), tuple):
            source["path"] = list(source["path"])
        if self.entry is None:
            from reasonrl.data_tools.loading import load_rows

            more = {key: getattr(data, key) for key in ("columns", "keep", "limit", "shuffle")}
            return load_rows(**source, **more, seed=seed, base_dir=base_dir), None
        path = self.entry.source.path
        if path is not None and data.hub is None and not _there(Path(str(data.path))):
            told = f" ({self.entry.notes})" if self.entry.notes else ""
            raise DataError(
                f"suite {self.name!r}: there is no file {data.path}{told} -> put it there, or name in"
                f" {DATA_ROOT} the folder that holds {path}"
            )
        rows, found = suite_rows(self.name, self.entry, {**source, "base_dir": base_dir}, self.check)
        if data.limit is not None and len(rows) > data.limit:
            rows.report.beyond_limit, rows.report.kept = len(rows) - data.limit, data.limit
            rows = Rows(rows[: data.limit], rows.report)
        # Blocks are of the limited suite's problems, so that it asks the same ones alone.
        return prompts_of(self.name, self.entry, rows), found


@cache
def shipped_suites() -> dict[str, SuiteEntry]:
    """The shipped entries by name, in the order of their files."""
    folder = Path(__file__).parent
    found: dict[str, SuiteEntry] = {}
    for file in ("math", "knowledge", "vision", "perception", "code"):
        found |= read_models(folder / f"{file}.yaml", SuiteEntry)
    return found


def resolve(
    names: str | Iterable[str],
    protocol: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    base_dir: str | Path | None = None,
) -> dict[str, Suite]:
    """The suites of these names, by name.

    Args:
        names: of shipped suites or of installed ones; `my.yaml` (all its suites) or `my.yaml:name`. One text may name
            several, between commas.
        protocol: a protocol whose settings are laid over the entries' own.
        overrides: settings laid over both, for all suites (`{"n": 4}`) or for one (`{"math500": {"n": 4}}`): n,
            temperature, top_p, max_tokens, k, greedy, stop_strings, reward, metrics, limit (first problems), check,
            template, system_prompt.
        data_root: folder of local files; None takes the one that REASONRL_DATA names, if it is set.
        base_dir: where a relative `my.yaml` starts; the working directory if None.

    Raises:
        RecipeError: an unknown name or protocol, an entry or override that is wrong, a suite that needs a judge and has
            no `reward`; all problems at once.
    """
    wanted = names.split(",") if isinstance(names, str) else list(names)
    chosen = get_protocol(protocol) if protocol is not None else None
    entries: Entries = {}
    root = Path(data_root or os.environ.get(DATA_ROOT) or ".")
    problems: list[Problem] = []
    for name in filter(None, (item.strip() for item in wanted)):
        try:
            for key, found_entry in _entries_of(name, root, Path(base_dir or ".")).items():
                if entries.setdefault(key, found_entry) != found_entry:
                    fix = "rename one: a suite's name is its folder's"
                    problems.append(Problem("suites", f"two different suites are named {key!r}", fix=fix))
        except RecipeError as error:
            problems += error.problems
    shared, single = _split_overrides(overrides or {}, entries, problems)
    found: dict[str, Suite] = {}
    for name, (entry, folder) in entries.items():
        stated = chosen.settings_of(name) if chosen is not None else {}
        try:
            given = {**stated, **shared, **single.get(name, {})}
            found[name] = _suite(name, entry, folder, given, chosen)
        except RecipeError as error:
            problems += error.problems
    if not problems and not found:
        problems = [
            Problem("suites", "names no suite", fix="name one, such as math500; `reasonrl suites ls` lists them")
        ]
    if problems:
        raise RecipeError(problems)
    return found


def find_entry(name: str, base_dir: str | Path | None = None) -> dict[str, SuiteEntry]:
    """The entries that a name means (several for a file); raises RecipeError as `resolve` does."""
    found = _entries_of(name, Path(os.environ.get(DATA_ROOT) or "."), Path(base_dir or "."))
    return {key: entry for key, (entry, _) in found.items() if isinstance(entry, SuiteEntry)}


def local_file(entry: SuiteEntry, root: str | Path | None = None) -> Path | None:
    """The entry's file below a data root (by default REASONRL_DATA), if it is there."""
    folder = root or os.environ.get(DATA_ROOT)
    if folder is None or entry.source.path is None:
        return None
    path = Path(folder) / entry.source.path
    return path if _there(path) else None


def _there(path: Path) -> bool:
    return path.exists() or bool(glob.glob(str(path)))


def _entries_of(name: str, root: Path, base: Path) -> Entries:
    """Entries with the folder that their relative paths start at."""
    if of_file := _IN_FILE.fullmatch(name):
        path, one = base / Path(of_file["file"]).expanduser(), of_file["one"]
        entries = read_models(path, SuiteEntry)
        of_compound = _IN_COMPOUND.fullmatch(one or "")
        if of_compound and one not in entries and of_compound["suite"] in entries:
            return _compound_entries(name, _IN_COMPOUND.fullmatch(name), root, base)
        if one and one not in entries:
            raise RecipeError([_unknown(one, entries, str(path))])
        kept = {one: entries[one]} if one else entries
        # Files stand beside the YAML, or below the data root.
        return {
            key: (entry, path.parent if _there(path.parent / (entry.source.path or "")) else root)
            for key, entry in kept.items()
        }
    shipped = shipped_suites()
    if name in shipped:
        return {name: (shipped[name], root)}
    if of_compound := _IN_COMPOUND.fullmatch(name):
        return _compound_entries(name, of_compound, root, base)
    installed = load_entry_point(name, SUITES_GROUP, error=_PluginError)
    if installed is None:
        raise RecipeError([_unknown(name, [*shipped, *entry_point_names(SUITES_GROUP)], "")])
    given = installed() if callable(installed) else installed
    if isinstance(given, Mapping) and "data" in given:
        return {name: (given, root)}
    return {name: (_validated(name, given, SuiteEntry), root)}


def _compound_entries(name: str, parts: re.Match[str] | None, root: Path, base: Path) -> Entries:
    """`math500-cb5` from `math500`: five problems in a prompt, in all orders; `-framed` puts one into the frame too."""
    assert parts is not None
    found = _entries_of(parts["suite"], root, base)
    made: Entries = {}
    for key, (entry, folder) in found.items():
        own = key + name[len(parts["suite"]) :]
        if not isinstance(entry, SuiteEntry) or entry.answer not in ("math", "choice") or entry.pictured:
            message = f"{key!r} cannot be asked several problems at a time: that needs text with short answers"
            raise RecipeError([Problem("suites", message, fix="name a suite of type math or choice without pictures")])
        k = int(parts["k"])
        compound = CompoundFrame(k=k, framed=True if parts["framed"] else None)
        more = {"compound": compound, "rows": entry.rows, "group": None, **compound_sampling(k)}
        made[own] = (entry.model_copy(update=more), folder)
    return made


class _PluginError(RecipeError):
    """A RecipeError made from a message alone, as `load_entry_point` makes its errors."""

    def __init__(self, message: str) -> None:
        super().__init__([Problem("suites", message)])


def _unknown(name: str, known: Iterable[str], place: str) -> Problem:
    close = near(name, known)
    fix = (
        f"did you mean {close!r}?" if close else "`reasonrl suites ls` lists the shipped ones; a file is named my.yaml"
    )
    if place:
        fix = f"did you mean {close!r}?" if close else f"it holds: {', '.join(known)}"
    return Problem("suites", f"there is no suite {name!r}", place, fix)


def _validated(name: str, raw: Any, model: type[Any]) -> Any:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        tree = raw if isinstance(raw, Mapping) else {}
        raise RecipeError(
            [
                Problem(f"suites.{name}.{key}" if key else f"suites.{name}", message, fix=fix)
                for key, message, fix in explain(error, tree, model)
            ]
        ) from error


def _split_overrides(
    overrides: Mapping[str, Any], entries: Mapping[str, Any], problems: list[Problem]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Overrides of all suites, and those of single ones."""
    names_fail = bool(problems)
    shared: dict[str, Any] = {}
    single: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        if key in OVERRIDES:
            shared[key] = value
        elif key in entries and isinstance(value, Mapping):
            single[key] = dict(value)
        elif not names_fail:  # else it may name the suite that was not found
            known = [*OVERRIDES, *entries]
            close = near(key, known)
            fix = f"did you mean {close!r}?" if close else f"allowed: {', '.join(known)}"
            problems.append(Problem(key, "is neither a setting of suites nor one of the suites", fix=fix))
    for name, given in single.items():
        for key in [key for key in given if key not in OVERRIDES]:
            close = near(key, OVERRIDES)
            fix = f"did you mean {close!r}?" if close else f"allowed: {', '.join(OVERRIDES)}"
            problems.append(Problem(f"{name}.{key}", "is no setting of a suite", fix=fix))
            del given[key]
    return shared, single


def _suite(
    name: str,
    entry: SuiteEntry | Mapping[str, Any],
    folder: Path,
    given: Mapping[str, Any],
    protocol: Protocol | None,
) -> Suite:
    settings = dict(given)
    limit, check = settings.pop("limit", None), settings.pop("check", True)
    asked = {key: settings.pop(key) for key in ("template", "system_prompt", "system_prompt_file") if key in settings}
    if not isinstance(entry, SuiteEntry):
        data = {**entry["data"], **asked, **({} if limit is None else {"limit": limit})}
        return _validated(name, {**entry, **settings, "data": data, "name": name}, Suite)
    own = {key: getattr(entry, key) for key in SAMPLING}
    # pass@k of an entry that has fewer samples now is no mistake of whoever asked for fewer.
    if "n" in settings and "k" not in settings and isinstance(settings["n"], int):
        own["k"] = tuple(k for k in entry.k if k <= settings["n"]) or (1,)
    if "metrics" in SuiteConfig.model_fields and "metrics" not in settings:
        own["metrics"] = _metrics(entry, protocol, settings.get("n", entry.n))
    reward = settings.pop("reward", None) or entry.reward_spec()
    if reward is None:
        message = "is judged by a model, and no judge is named"
        raise RecipeError(
            [Problem(f"suites.{name}.reward", message, fix="set reward: {name: llm_verifier, args: {…}}")]
        )
    if unfit := reward_problem(name, entry, reward):
        raise RecipeError([unfit])
    data = {**_source(entry, folder), "system_prompt": entry.system_prompt, "template": entry.user_template(), **asked}
    if limit is not None:
        data["limit"] = limit
    raw = {**own, **settings, "reward": reward, "data": data, "name": name, "entry": entry, "check": check}
    return _validated(name, raw, Suite)


def _metrics(entry: SuiteEntry, protocol: Protocol | None, n: Any) -> list[str]:
    """The figures that the entry's headline and the protocol's votes ask for; votes only from a whole pool."""
    votes = protocol.self_consistency if protocol is not None else None
    wanted = list(HEADLINES[entry.metric])
    if entry.compound is not None:
        wanted += ["acc_item", "answered"]
    if votes is not None and isinstance(n, int) and n >= votes.pool and entry.answer not in ("code", "judge"):
        wanted += [f"self_consistency@{k}:{votes.resamplings}" for k in votes.k]
    return wanted


def _source(entry: SuiteEntry, folder: Path) -> dict[str, Any]:
    """The local file if it is there or if there is nothing else, else the hub's data set."""
    source = entry.source
    if source.path is not None:
        path = folder / Path(source.path).expanduser()
        if source.hub is None or path.exists():
            split = {"split": source.split} if path.is_dir() and source.split else {}
            # A reader of ours, which needs no installed entry point.
            ours = Path(__file__).parent / f"{source.format}.py"
            own = f"{ours}:rows" if source.format == "livecodebench" else source.format
            return {"path": str(path), "format": own, **split}
    return {"hub": source.hub, "name": source.name, "split": source.split or "test", "revision": source.revision}
