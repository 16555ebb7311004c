"""The site: the recipe reference holds every key, and MkDocs builds it without a warning."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reasonrl.recipe import Recipe
from reasonrl.recipe.reference import recipe_reference
from reasonrl.recipe.stages import STAGES

TREE = Path(__file__).resolve().parents[2]
MKDOCS = os.environ.get("REASONRL_MKDOCS") or shutil.which("mkdocs") or str(TREE / ".venv-docs" / "bin" / "mkdocs")


def test_the_reference_holds_every_key_of_every_kind():
    page = recipe_reference()
    sections = dict(re.findall(r"^## (?:Stage kind )?`?(.*?)`?\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    for kind, model in {**STAGES, "Top level": Recipe}.items():
        rows = set(re.findall(r"^\| `(\w+)` \|", sections[kind], re.MULTILINE))
        assert rows == set(model.model_fields), kind
    assert "| `learning_rate` | number |" in sections["ppo"]
    assert "`gae` or `group`" in sections["ppo"] and "| extensible |" in sections["ppo"]
    told = re.search(r"^\| `num_machines` .*$", sections["launch"], re.MULTILINE)[0]
    assert "operational" in told and "share them equally" in told


@pytest.mark.slow
@pytest.mark.skipif(not Path(MKDOCS).exists(), reason="mkdocs is not there: make docs, or set REASONRL_MKDOCS")
def test_the_site_builds_without_warnings_and_needs_no_network(tmp_path):
    environment = {**os.environ, "REASONRL_PYTHON": sys.executable, "NO_MKDOCS_2_WARNING": "1"}
    command = [MKDOCS, "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=TREE, env=environment, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    pages = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "launch.html", "recipe_reference.html", "systems/text_rl.html", "api.html"} <= pages
    for path in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', path.read_text())
        assert not [one for one in loaded if "canonical" not in one], path
