"""System prompts from files, compound prompts of training data, suites of several problems in a stage."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from reasonrl.recipe.sources import SYSTEM_PROMPTS, DataSource, system_prompt_path
from reasonrl.recipe.stages import EvalStage


@pytest.mark.parametrize("name", SYSTEM_PROMPTS)
def test_shipped_system_prompts_are_taken_by_name(name: str) -> None:
    source = DataSource(path="a.jsonl", system_prompt_file=name)
    assert source.system_prompt == system_prompt_path(name).read_text(encoding="utf-8").strip()
    assert ("<play>" in (source.system_prompt or "")) == (name == "dialogue")
    stage = EvalStage(model="tiny:qwen2", suites=("math500-cb5",), system_prompt_file=name)
    assert stage.system_prompt == source.system_prompt


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.md"
    mine.write_text("Talk.\n")
    assert DataSource(path="a.jsonl", system_prompt_file=str(mine)).system_prompt == "Talk."
    with pytest.raises(ValidationError, match="there is no file"):
        DataSource(path="a.jsonl", system_prompt_file=str(tmp_path / "none.md"))
    with pytest.raises(ValidationError, match="and system_prompt too"):
        DataSource(path="a.jsonl", system_prompt_file=str(mine), system_prompt="Sing.")


def test_compound_prompts_of_training_data() -> None:
    source = DataSource(path="a.jsonl", compound={"k": 2})
    assert source.compound is not None and source.compound.k == (2,) and source.compound.framed
    for wrong in ({"k": [0]}, {"k": ["two"]}, {"kind": "code"}, {"ks": [1]}):
        with pytest.raises(ValidationError):
            DataSource(path="a.jsonl", compound=wrong)


def test_a_system_prompt_of_the_stage_belongs_to_named_suites() -> None:
    suites = {"mine": {"data": {"path": "a.jsonl"}, "max_tokens": 8}}
    with pytest.raises(ValidationError, match="suites that are named"):
        EvalStage(model="tiny:qwen2", suites=suites, system_prompt="Talk.")
