"""The card of a trained model: what it was made of, by which recipe, and how it did, with intervals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from reasonrl.pipeline.directory import CONFIG

_ROLE = {
    "model": "The trained model.",
    "critic": "A value model (critic): a backbone and one linear head that gives a number for every token.",
    "adapter": "A LoRA adapter alone; the base model is named above.",
}


def model_card(run: Path, stage: str, part: str, done: Mapping[str, Any]) -> str:
    """Markdown with the hub's front matter.

    Args:
        run: the run directory; stage: what made the model; part: `model`, `critic` or `adapter`.
        done: the stage's `done.json`.
    """
    tree = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    config = tree["stages"][stage.partition(".")[0]]
    base = _base(tree, config)
    kind = str(config.get("kind"))
    role = _ROLE[part]
    if kind == "prm" and part == "model":
        role = "A process reward model: a backbone and a linear head; the sigmoid at a step's last token is P(right)."
    front: dict[str, Any] = {
        "library_name": "peft" if part == "adapter" else "transformers",
        "tags": ["reasonrl", kind],
    }
    if "/" in str(base) and not str(base).startswith((".", "/")):
        front["base_model"] = base
    seed = tree.get("seed", 0)
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).rstrip(),
        "---",
        f"# {tree['recipe']} / {stage}",
        "",
        role,
        "",
        f"Trained by reasonrl, stage `{stage}` of kind `{kind}`, from `{base}`, with seed {seed}.",
        "",
        "## Evaluation",
        "",
        *_evaluation(run, tree, stage),
        "",
        "## Training",
        "",
        *_training(done),
        "",
        "## Data",
        "",
        "```yaml",
        yaml.safe_dump(_data(tree, config), sort_keys=False, allow_unicode=True).rstrip(),
        "```",
        "",
        "## Recipe",
        "",
        "```yaml",
        yaml.safe_dump({stage: _without_data(config)}, sort_keys=False, allow_unicode=True).rstrip(),
        "```",
        "",
        "What is not stated here (licence, intended use, risks) is for the one who publishes to say.",
    ]
    return "\n".join(lines) + "\n"


def _base(tree: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The model that training began with in the end, through references to earlier stages."""
    model = str(config.get("model") or tree.get("model") or "?")
    for _ in tree["stages"]:
        if not model.startswith("${stage:"):
            break
        name = model.removeprefix("${stage:").split("}")[0].split("@")[0].split(".")[0]
        model = str((tree["stages"].get(name) or {}).get("model") or tree.get("model") or "?")
    return model


def _data(tree: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    return config.get("data") or (tree.get("data") or {}).get("train") or "see the recipe"


def _without_data(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if value is not None and key not in ("data", "launch")}


def _training(done: Mapping[str, Any]) -> list[str]:
    result, versions = done["result"], done.get("versions", {})
    metrics = {name: value for name, value in result["metrics"].items() if isinstance(value, (int, float))}
    told = [f"- {name}: {value:.6g}" for name, value in sorted(metrics.items())][:40]
    hours = result["wall_seconds"] / 3600
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [f"- finished {done['finished']}, {hours:.2f} h on the clock", f"- versions: {named}", *told]


def _evaluation(run: Path, tree: Mapping[str, Any], stage: str) -> list[str]:
    rows = list(_figures(run, tree, stage))
    if not rows:
        return ["This run holds no evaluation of it."]
    header = ["| suite | problems | samples a problem | accuracy, 95 % interval over problems |", "|---|---|---|---|"]
    return [*header, *rows]


def _figures(run: Path, tree: Mapping[str, Any], stage: str) -> Iterator[str]:
    """A row a suite of every finished evaluation of this very stage."""
    for name, config in tree["stages"].items():
        asked = str(config.get("model") or "")
        if config.get("kind") != "eval" or asked not in (
            f"${{stage:{stage}}}",
            f"${{stage:{stage.partition('.')[0]}}}",
        ):
            continue
        path = run / "stages" / name / "results.json"
        try:
            suites = json.loads(path.read_text(encoding="utf-8"))["suites"]
        except (OSError, ValueError, KeyError):
            continue
        for suite, entry in suites.items():
            accuracy = entry.get("accuracy")
            if accuracy is None:
                continue
            low, high = accuracy["low"], accuracy["high"]
            bounds = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
            samples = entry["decoding"]["n"]
            yield f"| {suite} | {entry['n_problems']} | {samples} | {100 * accuracy['value']:.1f} %{bounds} |"
