"""Hooks of mkdocs: pages that stand elsewhere in the tree or are made from the code, links between them, the menu.

README.md is the home page, `recipes/*.md` the page of each system, RESULTS.md and CHANGELOG.md come along, and the
recipe reference is made from the schema.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parent.parent
#: Source in the tree -> page in the site.
ELSEWHERE = {"README.md": "index.md", "benchmarks/RESULTS.md": "results.md", "CHANGELOG.md": "changelog.md"}
SECTIONS = {
    "Training": [
        "ppo",
        "algorithms",
        "sampling",
        "packing",
        "length_aware",
        "rollout",
        "rollouts",
        "images",
        "bcpg",
        "schedules",
        "metrics",
        "averaging",
    ],
    "Data": ["curation", "compound"],
    "Reasoning together": ["dialogue", "pacore", "pacore_server", "pacore_training"],
    "Rewards": ["rewards", "reward_functions", "reward_pool", "judges", "verifier", "verify_command", "endpoints"],
    "Step labels and reward models": [
        "prm",
        "prm_labels",
        "annotation",
        "segment",
        "mined_steps",
        "label_quality",
        "prm_eval",
    ],
    "Evaluation": ["evaluation", "suites", "eval_metrics", "eval_report", "behaviours", "gates"],
}
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?://|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def _pages() -> dict[str, Path]:
    pages = {page: TREE / source for source, page in ELSEWHERE.items()}
    for path in sorted(TREE.glob("recipes/**/*.md")):
        pages[f"systems/{'_'.join(path.relative_to(TREE / 'recipes').with_suffix('').parts)}.md"] = path
    return pages


def on_config(config: Any) -> Any:
    """Fill the menu: the sections above, the systems, whatever page has no place yet, and the reference."""
    there = {path.stem for path in (TREE / "docs").glob("*.md")}
    named = {
        page.removesuffix(".md")
        for entry in config.nav
        for pages in entry.values()
        if isinstance(pages, list)
        for page in pages
    }
    systems = [page for page in _pages() if page.startswith("systems/")]
    config.nav.append({"Systems": systems})
    for section, pages in SECTIONS.items():
        config.nav.append({section: [f"{page}.md" for page in pages if page in there]})
        named |= set(pages)
    config.nav.append({"Further": sorted(f"{page}.md" for page in there - named)})
    config.nav.append({"Reference": ["recipe_reference.md", "api.md", "results.md", "changelog.md"]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    for page, path in _pages().items():
        files.append(File.generated(config, page, content=path.read_text(encoding="utf-8")))
    files.append(File.generated(config, "recipe_reference.md", content=_recipe_reference()))
    files.append(File.generated(config, "api.md", content=_api()))
    return files


def _recipe_reference() -> str:
    """By the environment that reasonrl is installed in: mkdocs has one of its own."""
    own = TREE / ".venv" / "bin" / "python"
    python = os.environ.get("REASONRL_PYTHON") or (str(own) if own.exists() else sys.executable)
    program = "from reasonrl.recipe.reference import recipe_reference; print(recipe_reference())"
    return subprocess.run([python, "-c", program], cwd=TREE, capture_output=True, text=True, check=True).stdout


def _api() -> str:
    """What the rooms offer: their docstrings, and the first line of every public name."""
    import ast

    lines = ["# API", "", "Public names of the rooms' `__init__`; everything else is the code's own affair.", ""]
    for room in sorted((TREE / "reasonrl").iterdir()):
        init = room / "__init__.py"
        if not init.is_file():
            continue
        tree = ast.parse(init.read_text(encoding="utf-8"))
        exported = [
            node
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reasonrl.")
        ]
        if not exported:
            continue
        lines += [f"## `reasonrl.{room.name}`", "", ast.get_docstring(tree) or "", "", "| name | what |", "|---|---|"]
        for node in exported:
            told = _first_lines(node.module or "")
            lines += [f"| `{alias.name}` | {told.get(alias.name, '')} |" for alias in node.names]
        lines.append("")
    return "\n".join(lines)


def _first_lines(module: str) -> dict[str, str]:
    """The first sentence of each class's and function's docstring."""
    import ast

    path = TREE.joinpath(*module.split("."))
    path = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    if not path.is_file():
        return {}
    nodes = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
    ]
    texts = {node.name: " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split()) for node in nodes}
    return {name: text.replace("|", "\\|") for name, text in texts.items()}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at where the site has their targets; files that it does not have become plain code."""
    pages = {path.resolve(): name for name, path in _pages().items()}
    source = _pages().get(page.file.src_uri, TREE / "docs" / page.file.src_uri)
    depth = page.file.src_uri.count("/")

    def place(match: re.Match[str]) -> str:
        target = (source.parent / match[2]).resolve()
        if target in pages:
            found = pages[target]
        elif target.parent == TREE / "docs" and target.exists():
            found = target.name
        elif page.file.src_uri == "recipe_reference.md":
            found = match[2]
        else:
            return match[1]
        return f"[{match[1]}]({'../' * depth}{found}{match[3] or ''})"

    return LINK.sub(place, markdown)
