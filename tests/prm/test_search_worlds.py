"""Guided search among the lines of a world's law, by scores whose worth is known."""

from __future__ import annotations

import pytest

from reasonrl.data_tools.worlds import get_world
from reasonrl.data_tools.worlds.reflective import answer_of, gold_of, read_trace
from reasonrl.errors import DataError
from reasonrl.prm.search import Chain, SearchSettings, Wanted, search_with
from reasonrl.prm.search_worlds import LawWriter, world_writer

PROBLEMS = get_world("reflective").rows(150, split="test", operators=7)
ARGS = {"preset": "prm", "operators": 7}


def settings(candidates: int, width: int = 1) -> SearchSettings:
    return SearchSettings(candidates, width, 24, 16, "\n")


def share_right(scorer, candidates: int, width: int = 1, seed: int = 0) -> float:
    asked = settings(candidates, width)
    found = search_with(LawWriter(PROBLEMS, asked, seed, ARGS), scorer, PROBLEMS, asked)
    assert all(result.best.finished for result in found)
    return sum(
        answer_of(result.best.text) == gold_of(row["problem"]) for row, result in zip(PROBLEMS, found, strict=True)
    ) / len(PROBLEMS)


def sound(solutions):
    """The truth about the last line: it is right if no error stands after it."""
    standing = [bool(read_trace(one["problem"], one["text"]).wrong_operations) for one in solutions]
    return [[0.0] * (len(one["steps"]) - 1) + [1.0 - wrong] for one, wrong in zip(solutions, standing, strict=True)]


def blind(solutions):
    return [[0.5] * len(one["steps"]) for one in solutions]


def test_true_scores_find_the_answer_and_blind_ones_what_the_law_finds():
    law = sum(row["correct"] for row in PROBLEMS) / len(PROBLEMS)
    assert abs(share_right(blind, 4) - law) < 0.15
    alone, two, four = (share_right(sound, n) for n in (1, 2, 4))
    assert abs(alone - law) < 0.15
    assert alone + 0.15 < two < four
    assert four > 0.85
    assert share_right(sound, 4, 2) > 0.85


def test_a_chain_is_scored_when_there_is_a_choice_and_at_the_end():
    """The same chains as by scoring every line as it is written, for fewer solutions read."""
    read = []

    def counted(solutions):
        read.append(len(solutions))
        return sound(solutions)

    rows = PROBLEMS[:60]
    asked = settings(2)
    found = search_with(LawWriter(rows, asked, 0, ARGS), counted, rows, asked)
    greedy, everything = _scoring_all(rows, LawWriter(rows, asked, 0, ARGS))
    assert [one.best.text for one in found] == greedy
    assert sum(read) < 0.75 * everything
    for one in found:
        assert one.best.step_scores[-1] == one.best.score
        assert len(one.best.step_scores) == len(one.best.pieces)
    read.clear()
    search_with(LawWriter(rows, settings(1), 0, ARGS), counted, rows, settings(1))
    assert read == [len(rows)]  # without a choice the solutions alone


def _scoring_all(rows, writer):
    """Two candidates a line, the better kept, the first of equals; and how many distinct candidates there were."""
    texts, read = [], 0
    for number, row in enumerate(rows):
        chain = Chain()
        for step in range(24):
            drawn = writer.write([Wanted(number, chain, step, 0, turn) for turn in range(2)])
            chains = [one.chain for one in drawn]
            read += len({one.text for one in chains})
            truth = [sound([{**row, "text": one.text, "steps": one.steps}])[0][-1] for one in chains]
            chain = chains[truth.index(max(truth))]
            if chain.finished:
                break
        texts.append(chain.text)
    return texts, read


def test_lines_hang_on_the_seed_and_the_problem_alone():
    texts = []
    for seed, rows in ((0, PROBLEMS[:40]), (0, PROBLEMS[20:40]), (1, PROBLEMS[20:40])):
        asked = settings(2)
        texts.append([one.best.text for one in search_with(LawWriter(rows, asked, seed, ARGS), blind, rows, asked)])
    assert texts[0][20:] == texts[1] != texts[2]
    for row, text in zip(PROBLEMS[20:40], texts[1], strict=True):
        assert read_trace(row["problem"], text).answer is not None


@pytest.mark.parametrize(
    ("world", "separator", "args", "said"),
    [
        ("arithmetic", "\n", {}, "policy.world = 'arithmetic', allowed are reflective"),
        ("reflective", "\n\n", {}, "a step of the reflective world is a line"),
        ("reflective", "\n", {"hard": 1}, "allowed are preset, shares, teacher_seed, operators"),
        ("reflective", "\n", {"operators": 99}, "operators = 99"),
    ],
)
def test_what_no_law_writes_is_refused(world, separator, args, said):
    with pytest.raises(DataError, match=said):
        world_writer(world, PROBLEMS, SearchSettings(2, 1, 24, 16, separator), 0, args)
