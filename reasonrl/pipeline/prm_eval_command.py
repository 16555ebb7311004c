"""The work of `reasonrl prm-eval`: examinations of a process reward model without a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reasonrl.errors import Problem, RecipeError, RunError
from reasonrl.recipe import LaunchConfig, PRMEvalStage
from reasonrl.recipe.alone import read_settings, stage_alone

Say = Callable[[str], None]
ABOUT = "exam.json"


def examine_model(
    model: str | None,
    overrides: Sequence[str] = (),
    *,
    output: Path | None = None,
    seed: int = 0,
    restart: bool = False,
    dry_run: bool = False,
    say: Say,
    **asked: Any,
) -> Path:
    """Runs examinations and says their tables; the same call goes on where a killed one stopped.

    Args:
        model: folder of a trained process reward model; None where rows bring their scores (`best_of.scores=COLUMN`).
        overrides: `KEY=VALUE` of the stage's keys, such as `segment.method=lines` or `search.step_end="\\n"`.
        output: folder of the results; None makes `evaluations/<model>`.
        seed: of all draws.
        restart: begin anew; what is there is removed.
        dry_run: say what would be examined and write nothing.
        say: takes lines for the user.
        asked: `steps`, `best_of`, `search` (files of label rows, of sample rows, of problems with answers), `k` and
            `candidates` (numbers between commas), `policy`, `processbench` and `prmbench` (names between commas) and
            their folder `data_root`; None is not asked.

    Returns:
        The folder.

    Raises:
        RecipeError: settings that cannot be; all at once.
        RunError: the folder holds scores of other settings, or another process writes there.
        Interrupted: Ctrl-C or SIGTERM; all scores so far are on the disk.
    """
    from reasonrl.pipeline.stages import prm_eval as stage

    config = _config(_tree(model, **asked), overrides)
    folder = output if output is not None else Path("evaluations") / _named(model)
    context = _context(folder, seed)
    if dry_run:
        for line in stage.dry_run(config, context):
            say(line)
        return folder
    from reasonrl.pipeline.eval_command import held_folder

    with held_folder(folder, context, say, "prm-eval", "solution") as held:
        _same_settings(folder, config, seed, restart)
        stage.run(config, held)
    say(f"figures in {folder / 'results.json'}, values and scores in {folder}/<suite>/")
    return folder


def _tree(
    model: str | None,
    steps: Path | None = None,
    best_of: Path | None = None,
    k: str | None = None,
    search: Path | None = None,
    policy: str | None = None,
    candidates: str | None = None,
    processbench: str | None = None,
    prmbench: str | None = None,
    data_root: Path | None = None,
) -> dict[str, Any]:
    """The stage as a recipe would say it."""
    tree: dict[str, Any] = {"kind": "prm_eval", "model": model}
    for exam, key, value in (
        ("steps", "data", None if steps is None else {"path": str(steps)}),
        ("best_of", "data", None if best_of is None else {"path": str(best_of)}),
        ("best_of", "k", _numbers("--k", k)),
        ("search", "data", None if search is None else {"path": str(search)}),
        ("search", "policy", policy),
        ("search", "candidates", _numbers("--candidates", candidates)),
        ("benchmarks", "processbench", _names(processbench)),
        ("benchmarks", "prmbench", _names(prmbench)),
    ):
        if value is not None:
            tree.setdefault(exam, {})[key] = value
    if data_root is not None and "benchmarks" in tree:
        tree["benchmarks"]["folder"] = str(data_root)
    return tree


def _named(model: str | None) -> str:
    return "scores" if model is None else Path(model.rstrip("/")).name.replace(":", "-") or "model"


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _numbers(option: str, text: str | None) -> list[int] | None:
    names = _names(text)
    if names is None or all(name.isdigit() for name in names):
        return None if names is None else [int(name) for name in names]
    raise RecipeError([Problem(option, f"is {text!r}, not numbers between commas", fix="write 2,4,8")])


def _config(tree: dict[str, Any], overrides: Sequence[str]) -> PRMEvalStage:
    problems: list[Problem] = []
    for key, value in read_settings(overrides, "segment.method=lines", problems):
        *above, last = key.split(".")
        place: Any = tree
        for part in above:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place[last] = value
        else:
            problems.append(Problem(key, "goes below a value that is no mapping", fix="check the dots"))
    if problems:
        raise RecipeError(problems)
    return stage_alone(PRMEvalStage, tree, "prm-eval")


def _context(folder: Path, seed: int) -> Any:
    from reasonrl.pipeline.context import StageContext

    return StageContext("prm-eval", folder, "prm-eval", seed, folder, LaunchConfig())


def _same_settings(folder: Path, config: PRMEvalStage, seed: int, restart: bool) -> None:
    """Refuses scores of other settings, or removes them; a suite that is new may join those that are there."""
    import shutil

    from reasonrl.observe import write_atomically
    from reasonrl.pipeline.keys import differences

    now = _settings(config, seed)
    path = folder / ABOUT
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"suites": {}}
    shared = {name: own for name, own in before["suites"].items() if name in now["suites"]}
    odd = differences({**before, "suites": shared}, {**now, "suites": {name: now["suites"][name] for name in shared}})
    if odd and path.exists():
        if not restart:
            told = "; ".join(odd)
            raise RunError(
                f"{folder} holds examinations with other settings ({told}) -> another --output, or --restart"
            )
        for values in folder.glob("*/"):
            if any((values / name).exists() for name in ("scores.jsonl", "found.jsonl", "values.jsonl")):
                shutil.rmtree(values)
        (folder / "results.json").unlink(missing_ok=True)
        before = {"suites": {}}
    record = {**now, "suites": {**before["suites"], **now["suites"]}}
    write_atomically(path, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def _settings(config: PRMEvalStage, seed: int) -> dict[str, Any]:
    """What scores depend on: of all suites, and suite by suite."""
    from reasonrl.pipeline.fingerprints import fingerprints
    from reasonrl.pipeline.keys import plain
    from reasonrl.pipeline.stages.prm_eval import identity_extra
    from reasonrl.recipe import identity_of

    identity, files = identity_of(config), fingerprints(config, Path.cwd())
    versions = identity_extra(config)
    cuts = {"segmenter": versions.pop("segmenter")}
    suites: dict[str, Any] = {}
    for kind in ("steps", "best_of", "search", "benchmarks"):
        own = identity.pop(kind, None)
        if own is None:
            continue
        named = isinstance(getattr(config, kind), dict)
        for name, exam in own.items() if named else ((kind, own),):
            above = f"{kind}.{name}." if named else f"{kind}."
            its = {key: found for key, found in files.items() if key.startswith(above)}
            suites[name] = {**exam, "files": its, **({"rules": versions} if "reward" in exam else {})}
    model = {key: found for key, found in files.items() if key == "model"}
    return dict(plain({**identity, "files": model, "seed": seed, **cuts, "suites": suites}))
