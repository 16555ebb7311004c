"""What the documents show is true: recipes load, Python runs, commands exist, links lead somewhere, figures match.

A YAML block is a whole recipe if it has `stages`, a verbatim part of the quickstart, or is laid over the small recipe
below. A block that begins with `# name.py` or `# name.yaml` is a file that blocks of the same document may name.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from reasonrl.cli import main
from reasonrl.eval.suites.entry import SuiteEntry
from reasonrl.eval.suites.files import read_models
from reasonrl.observe.metrics import TIME_FIELDS
from reasonrl.recipe import expand_stages, load_recipe, print_config
from reasonrl.rewards import get_reward

TREE = Path(__file__).resolve().parents[2]
DOCUMENTS = [TREE / "README.md", *sorted(TREE.glob("docs/*.md")), *sorted(TREE.glob("recipes/*.md"))]
QUICKSTART = (TREE / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STANDING = """\
model: tiny:qwen2
stages:
  train: {kind: sft, data: {world: arithmetic, n: 64}, max_steps: 2}
"""


def blocks(language: str) -> list[pytest.param]:
    """Every fenced block of a language, named by document and number."""
    return [
        pytest.param(document, found, id=f"{document.relative_to(TREE)}:{number}")
        for document in DOCUMENTS
        for number, found in enumerate(
            (text for kind, text in BLOCK.findall(document.read_text(encoding="utf-8")) if kind == language), start=1
        )
    ]


def write_files(document: Path, folder: Path) -> None:
    """The files that a document's recipes name: its own Python files, and rows under the usual names."""
    for kind, text in BLOCK.findall(document.read_text(encoding="utf-8")):
        name = re.match(r"# ([\w/]+\.(?:py|yaml))\n", text)
        if kind in ("python", "yaml") and name:
            (folder / name[1]).write_text(text, encoding="utf-8")
    row = {"question": "1+1?", "problem": "1+1?", "answer": "2", "solution": "2", "pass_rate": 0.5, "result": "2"}
    for name in ("train.jsonl", "test.jsonl"):
        (folder / name).write_text(json.dumps(row) + "\n")
    (folder / "standing.yaml").write_text(STANDING)
    for recipe in (TREE / "recipes").glob("*.yaml"):
        (folder / recipe.name).write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")


def write_shown(text: str, folder: Path) -> Path:
    (folder / "shown.yaml").write_text(text, encoding="utf-8")
    return folder / "shown.yaml"


@pytest.mark.parametrize(("document", "text"), blocks("yaml"))
def test_a_recipe_shown_is_a_recipe(document, text, tmp_path, monkeypatch):
    if text in QUICKSTART:
        return
    if document.name == "suites.md" and text.startswith("# "):  # a file of suites, which the Python beside it reads
        assert read_models(write_shown(text, tmp_path), SuiteEntry)
        return
    monkeypatch.chdir(tmp_path)
    write_files(document, tmp_path)
    whole = re.search(r"^stages:", text, re.MULTILINE) is not None
    (tmp_path / "shown.yaml").write_text(text if whole else f"base: standing.yaml\n{text}", encoding="utf-8")
    resolved = load_recipe("./shown.yaml")
    assert expand_stages(resolved.recipe) and print_config(resolved)
    for arm in resolved.recipe.arms:
        assert load_recipe("./shown.yaml", arm=arm).recipe != resolved.recipe


def test_the_tour_shows_the_whole_quickstart():
    tour = (TREE / "docs" / "quickstart_tour.md").read_text(encoding="utf-8")
    parts = [text for kind, text in BLOCK.findall(tour) if kind == "yaml"]
    shown = [part for part in parts if part in QUICKSTART]
    written = [line for line in QUICKSTART.splitlines() if line.strip() and not line.startswith("#")]
    assert [line for part in shown for line in part.splitlines() if line.strip()] == written


@pytest.mark.parametrize(("document", "text"), blocks("python"))
def test_python_shown_runs(document, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(document, tmp_path)
    exec(compile(text, str(document), "exec"), {"__name__": "shown"})


@pytest.mark.parametrize(("document", "text"), blocks("sh"))
def test_a_command_shown_is_understood(document, text):
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] != "reasonrl" or words[1].startswith("-"):
            continue
        command = main.commands[words[1]]
        words = words[2:]
        while words and hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        command.make_context(words[0] if words else "", list(words))  # raises on an unknown option or a missing word
    targets = [word for line in text.splitlines() if line.startswith("make ") for word in line.split()[1:2]]
    makefile = (TREE / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TREE)))
def test_links_lead_somewhere_and_documents_stay_short(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not target.startswith("https://"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}, which is not there"
    assert len(text.splitlines()) <= (300 if document.name == "README.md" else 160)


def glossary() -> dict[str, str]:
    """Metric name -> its line in docs/metrics.md."""
    rows = {}
    for line in (TREE / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            rows.update(dict.fromkeys(re.findall(r"`([^`\s]+)`", line.split("|")[1]), line))
    return rows


def test_the_glossary_explains_only_names_that_exist():
    source = "".join(
        path.read_text(encoding="utf-8")
        for room in (
            "reasonrl/algorithms",
            "reasonrl/trainers",
            "reasonrl/rollout",
            "reasonrl/pipeline",
            "rewards",
            "eval",
            "prm",
        )
        for path in (TREE / room).rglob("*.py")
    )
    theirs = {"loss", "epoch", "num_tokens", "mean_token_accuracy"}  # TRL's
    for name in glossary():
        assert name in theirs or name.rsplit("/", 1)[-1] in source or "<" in name, name


def test_every_entry_of_the_glossary_says_what_it_is():
    for name, line in glossary().items():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert len(cells) == 3 and cells[1], f"{name}: {line}"


def test_the_list_of_fields_that_may_differ_on_resume_is_the_codes_own():
    text = (TREE / "docs" / "run_directory.md").read_text(encoding="utf-8")
    assert all(f"`{prefix}`" in text for prefix in ("time/", "memory/", "rate/"))
    assert all(f"`{name}`" in text for name in TIME_FIELDS)


def test_the_reward_of_the_readme_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(TREE / "README.md", tmp_path)
    reward = get_reward("my_rewards.py:brief_and_right", tmp_path)
    said = [[{"role": "assistant", "content": text}] for text in ("It is 4", "It is 5", "x" * 500 + " 4")]
    assert reward(prompts=["2+2?"] * 3, completions=said, answer=["4", "4", "4"]) == [1.0, 0.0, 0.5]
