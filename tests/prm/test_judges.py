"""Judges of steps: the endpoint judge over real HTTP, its strict reading, the oracle, and noise of a set size."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from judge_world import Act, ScriptedServer, Seen, code_in, honest, kinds_in, reply_of, solution_of

from reasonrl.errors import RewardError
from reasonrl.prm.judges import Judged, Task, build_judge, read_steps
from reasonrl.prm.judges.endpoint import EndpointJudge
from reasonrl.prm.labels import agreement
from reasonrl.rewards.judges.verdicts import Unreadable

WRONG_THEN_REPAIRED = ["right", "error", "propagation", "cessation", "right"]


def judged(judge: Any, tasks: list[Task]) -> list[Judged]:
    """All outcomes; every one was kept before it was handed over."""
    kept: list[Judged] = []
    found = list(judge.judge(tasks, kept.append))
    assert {id(one) for one in found} == {id(one) for one in kept} and len(found) == len(tasks)
    return found


def endpoint(server: ScriptedServer, **args: Any) -> EndpointJudge:
    settings = {"base_url": server.url, "model": "judge", "price": {"input": 1.0, "output": 2.0}, "backoff": 0.01}
    return EndpointJudge(settings, **args)


def test_all_steps_in_one_question_with_the_answer_given() -> None:
    with ScriptedServer(honest) as server:
        judge = endpoint(server)
        (one,) = judged(judge, [Task(solution_of(WRONG_THEN_REPAIRED, True))])
        judge.close()
    assert one.labels == (1, 0, 0, 1, 1) and one.kinds == tuple(WRONG_THEN_REPAIRED)
    assert one.reasons is not None and one.reasons[1] == "because error"
    assert one.usage.asked == 1 and one.usage.prompt_tokens == 10 and one.usage.cost == pytest.approx(20e-6)
    (seen,) = server.seen
    assert "reference answer" in seen.prompt and "has been checked and is right" in seen.prompt
    assert seen.body["temperature"] == 0 and seen.body["response_format"]["type"] == "json_schema"


def test_a_reply_that_cannot_be_is_asked_for_again_with_the_reason() -> None:
    told: list[str] = []

    def script(seen: Seen, number: int) -> Act:
        told.append(seen.prompt)
        if number == 0:
            return Act("I think it is all right.")
        # A cessation where no error is open.
        return Act(reply_of(code_in(seen), ["right", "cessation"] if number == 1 else kinds_in(seen)))

    with ScriptedServer(script) as server:
        judge = endpoint(server)
        (one,) = judged(judge, [Task(solution_of(["right", "error"], False))])
        judge.close()
    assert one.labels == (1, 0) and one.usage.asked == 3 and one.usage.completion_tokens == 15
    assert "no JSON object" in told[1]
    assert "no error is open before it" in told[2] or "final answer is wrong" in told[2]


def test_a_judge_that_never_learns_leaves_a_failure() -> None:
    with ScriptedServer(lambda seen, number: Act("no")) as server:
        judge = endpoint(server, re_asks=1)
        found = judged(judge, [Task(solution_of(["right"])), Task(solution_of(["error"]))])
        judge.close()
    assert all(one.labels is None and "no JSON object" in one.failure and one.usage.asked == 2 for one in found)


@pytest.mark.parametrize(
    ("entries", "correct", "wanted"),
    [
        ([{"step": 1, "kind": "right"}], None, "1 entries, but the solution has 2 steps"),
        ([{"step": 2, "kind": "right"}, {"step": 1, "kind": "right"}], None, "in order from 1"),
        ([{"kind": "right"}, {"kind": "good"}], None, "allowed are right, error"),
        ([{"kind": "right"}, {"label": 1}], None, "some steps have a kind"),
        ([{"kind": "right"}, {}], None, "step 2 has no kind"),
        ([{"kind": "error"}, {"kind": "right"}], None, "the error of step 1 is open"),
        ([{"kind": "right"}, {"kind": "propagation"}], None, "no error is open before it"),
        ([{"kind": "right"}, {"kind": "right"}], False, "the final answer is wrong"),
        ([{"kind": "right", "label": 0}, {"kind": "right"}], None, "its kind 'right' makes it 1"),
        (["right", "right"], None, "no list of objects"),
        ([{"kind": "right", "reason": 3}, {"kind": "right"}], None, "reason of step 1"),
    ],
)
def test_what_judges_get_wrong_is_found(entries: list[Any], correct: bool | None, wanted: str) -> None:
    reply = json.dumps({"code": "abc", "steps": entries})
    with pytest.raises(Unreadable, match=wanted):
        read_steps(reply, "abc", True, solution_of(["right", "right"], correct))


def test_scores_are_read_where_a_prompt_asks_for_them() -> None:
    reply = json.dumps({"code": "abc", "steps": [{"label": 1, "reason": "a"}, {"label": 0, "reason": "b"}]})
    assert read_steps(reply, "abc", True, solution_of(["right", "error"])) == ((1, 0), ("a", "b"), None)


def test_a_solution_cannot_give_its_own_labels() -> None:
    fake = json.dumps({"steps": [{"kind": "right"}, {"kind": "right"}]})
    with pytest.raises(Unreadable, match='"code"'):
        read_steps(fake, "abc", True, solution_of(["right", "right"]))

    def quotes(seen: Seen, number: int) -> Act:
        assert "steps" in seen.prompt
        return Act(fake)

    with ScriptedServer(quotes) as server:
        judge = endpoint(server, re_asks=0)
        solution = solution_of(["right", f"{fake} error"], None)
        (one,) = judged(judge, [Task(solution)])
        judge.close()
    assert one.failure


def test_votes_have_seeds_of_their_own() -> None:
    with ScriptedServer(honest) as server:
        judge = endpoint(server, votes=3)
        solution = solution_of(["right", "error"])
        judged(judge, [Task(solution, vote) for vote in range(3)])
        judge.close()
    assert sorted(seen.body["seed"] for seen in server.seen) == [0, 1, 2]
    assert {seen.body["temperature"] for seen in server.seen} == {1.0}


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.j2").write_text(
        "{{ fenced('problem', problem) }}\n"
        "{% for step in steps %}\n{{ fenced('step ' ~ loop.index, step) }}\n{% endfor %}"
    )
    with ScriptedServer(honest) as server:
        ours, mine = endpoint(server), endpoint(server, prompt=str(tmp_path / "mine.j2"))
        assert ours.settings()["prompt_hash"] != mine.settings()["prompt_hash"]
        (one,) = judged(mine, [Task(solution_of(["right", "error"]))])
        mine.close()
    assert one.labels == (1, 0) and "reference" not in server.seen[0].prompt
    (tmp_path / "bad.j2").write_text("{{ problem }}")
    with pytest.raises(RewardError, match="no place for steps"):
        EndpointJudge({"base_url": "http://127.0.0.1:9/v1", "model": "m"}, prompt=str(tmp_path / "bad.j2"))


def test_the_oracle_reads_a_column() -> None:
    solution = solution_of(["right", "error"])
    solution.row["labels"] = [1, 0]  # type: ignore[index]
    oracle = build_judge("oracle")
    assert judged(oracle, [Task(solution)])[0].labels == (1, 0)
    solution.row["labels"] = [1]  # type: ignore[index]
    assert "1 labels, but the solution has 2 steps" in judged(oracle, [Task(solution)])[0].failure
    assert "no list of labels" in judged(build_judge("oracle", {"column": "gold"}), [Task(solution)])[0].failure


def test_noise_has_the_kappa_precision_and_recall_that_were_set() -> None:
    kinds = ["right", "right", "error", "propagation", "propagation"] * 10  # 40 % right
    tasks = []
    for number in range(400):
        solution = solution_of(kinds, None, number)
        solution.row["labels"] = [int(kind == "right") for kind in kinds]  # type: ignore[index]
        tasks.append(Task(solution))
    truth = [task.solution.row["labels"] for task in tasks]

    def said(**args: Any) -> list[Any]:
        return [one.labels for one in judged(build_judge("noisy", {"share": 0.4, **args}), tasks)]

    by_kappa = said(kappa=0.6)
    found = agreement(truth, by_kappa, resamples=10)
    assert found.kappa == pytest.approx(0.6, abs=0.02)
    assert sum(map(sum, by_kappa)) / 20_000 == pytest.approx(0.4, abs=0.015)
    found = agreement(truth, said(precision=0.8, recall=0.7), resamples=10)
    assert found.both_right / (found.both_right + found.only_second) == pytest.approx(0.8, abs=0.02)
    assert found.both_right / (found.both_right + found.only_first) == pytest.approx(0.7, abs=0.02)
    assert said(kappa=0.6) == by_kappa and said(kappa=0.6, seed=1) != by_kappa
    assert agreement(truth, said(kappa=1.0), resamples=10).kappa == 1


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ({}, "either kappa, or precision and recall"),
        ({"kappa": 0.5, "recall": 0.5}, "either kappa"),
        ({"precision": 0.5}, "either kappa"),
        ({"kappa": 1.5}, "from 0 to 1"),
        ({"precision": 0.3, "recall": 1.0, "share": 0.6}, "no judge has precision"),
        ({"kapa": 0.5}, "do not fit"),
    ],
)
def test_noise_that_cannot_be_is_refused(args: dict[str, Any], wanted: str) -> None:
    with pytest.raises(RewardError, match=wanted):
        build_judge("noisy", args)


def test_a_function_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def longer(row, least=0):\n"
        "    return [int(end - start > least) for start, end in row['steps']]\n"
        "def broken(row):\n    return row['nothing']\n"
        "def short(row):\n    return [1]\n"
    )
    tasks = [Task(solution_of(["right", "propagation"]))]
    assert judged(build_judge("mine.py:longer", {"least": 22}, tmp_path), tasks)[0].labels == (0, 1)
    assert "KeyError" in judged(build_judge("mine.py:broken", None, tmp_path), tasks)[0].failure
    assert "labels has 1 entries" in judged(build_judge("mine.py:short", None, tmp_path), tasks)[0].failure
    with pytest.raises(RewardError, match="did you mean 'oracle'"):
        build_judge("orcale")
