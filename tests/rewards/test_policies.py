"""The table of rules: every example under every policy, and the document that shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reasonrl.rewards.math import GRADER_VERSION, verify
from reasonrl.rewards.policy import POLICIES, RULES, Rule, rules_table

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "verifier.md"
NAMES = tuple(POLICIES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.topic}: {rule.says}"[:70])
def test_a_rule_holds_for_its_example(rule: Rule) -> None:
    verdicts = {name: verify(rule.gold, rf"so \boxed{{{rule.answer}}}", policy=name) for name in NAMES}
    assert {name: verdict.correct for name, verdict in verdicts.items()} == {
        name: getattr(rule, name) for name in NAMES
    }, {name: verdict.reason for name, verdict in verdicts.items()}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.topic}: {rule.says}"[:70])
def test_every_example_is_itself_under_every_policy(rule: Rule) -> None:
    for text in (rule.gold, rule.answer):
        assert all(verify(text, rf"\boxed{{{text}}}", policy=name).correct for name in NAMES)


def test_a_looser_policy_takes_all_that_a_stricter_one_takes() -> None:
    for rule in RULES:
        assert rule.strict <= rule.default <= rule.lenient, rule


def test_the_policies_differ_and_the_table_shows_it() -> None:
    columns = list(zip(*[(rule.strict, rule.default, rule.lenient) for rule in RULES], strict=True))
    assert len(set(columns)) == 3
    for flag in (
        "optional_percent",
        "optional_unit",
        "unordered_lists",
        "ratio_as_value",
        "solved_equations",
        "key_words",
    ):
        assert getattr(POLICIES["default"], flag) and not getattr(POLICIES["strict"], flag)
    assert POLICIES["lenient"].convertible_units and not POLICIES["default"].convertible_units


def test_the_document_shows_the_table_as_it_is() -> None:
    assert rules_table() in DOCUMENT.read_text(encoding="utf-8")


def test_a_verdict_is_plain_values_and_the_grader_has_a_version() -> None:
    verdict = verify("1/2", r"\boxed{0.5}")
    assert json.loads(json.dumps(vars(verdict)))["status"] == "correct"
    assert GRADER_VERSION
