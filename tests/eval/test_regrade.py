"""Stored samples are judged again and none is drawn: the verifier's own verdicts, resumed, never mixed, compared."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from recorded import lines_of, lively_suite, problem, sample, write_suite

from reasonrl.cli import main
from reasonrl.errors import DataError, RewardError, RunError
from reasonrl.eval.regrade import Grading, check_name, regrade_suite
from reasonrl.eval.samples import read_samples
from reasonrl.eval.verdict_diff import diff_json, diff_suite
from reasonrl.rewards import verify

HERE = Grading(workers=0)
GOLDS = ["1/3", "42", "10\\%", "(1,2)"]
SAID = [r"\boxed{0.333}", r"\boxed{42}", "it is 42 I think, or 41", "", r"\boxed{10}", r"\boxed{1,2}", "no idea at all"]


def mixed_suite(folder: Path, n: int = 7) -> Path:
    problems = [problem(f"q{place}", gold) for place, gold in enumerate(GOLDS)]
    samples = [
        sample(f"q{place}", index, SAID[index], "wrong", finish_reason="length" if index == 1 else "stop")
        for place in range(len(GOLDS))
        for index in range(n)
    ]
    random.Random(0).shuffle(samples)
    return write_suite(folder, problems, samples)


@pytest.mark.parametrize("policy", ["strict", "default", "lenient"])
def test_verdicts_are_the_verifiers_and_samples_stay(tmp_path: Path, policy: str) -> None:
    folder = mixed_suite(tmp_path / "suite")
    before = (folder / "samples.jsonl").read_bytes()
    done = regrade_suite(folder, Grading(policy, workers=0), policy)
    assert (done.total, done.made) == (28, 28)
    assert (folder / "samples.jsonl").read_bytes() == before
    rows = read_samples(folder, policy)
    for row in rows:
        said = verify(GOLDS[int(row["id"][1:])], row["text"], policy)
        assert (row["verdict"], row["extracted"], row["reason"]) == (said.status, said.extracted, said.reason)
        assert row["right"] == said.correct and row["correct"] == (said.correct and row["finish_reason"] == "stop")
    assert {row["verdict"] for row in rows} == {"correct", "wrong", "no_answer"}
    assert json.loads((folder / "verdicts" / f"{policy}.json").read_text())["policy"] == policy


def test_the_pool_gives_the_same_lines(tmp_path: Path) -> None:
    folder = mixed_suite(tmp_path / "suite")
    regrade_suite(folder, HERE, "here")
    regrade_suite(folder, Grading(workers=2), "pool")
    assert (folder / "verdicts" / "here.jsonl").read_bytes() == (folder / "verdicts" / "pool.jsonl").read_bytes()


def test_only_what_is_new_is_judged(tmp_path: Path) -> None:
    folder = mixed_suite(tmp_path / "suite", n=3)
    regrade_suite(folder, HERE, "again")
    first = (folder / "verdicts" / "again.jsonl").read_bytes()
    assert regrade_suite(folder, HERE, "again").made == 0
    more = [sample("q1", index, SAID[index]) for index in (3, 4)]
    with (folder / "samples.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in more)
    with pytest.raises(RunError, match=r"lacks 2 of 14 samples -> run `reasonrl regrade`"):
        diff_suite("suite", folder, "own", "again")
    assert regrade_suite(folder, HERE, "again").made == 2
    assert (folder / "verdicts" / "again.jsonl").read_bytes().startswith(first)


def test_verdicts_of_other_rules_or_answers_are_never_mixed(tmp_path: Path) -> None:
    folder = mixed_suite(tmp_path / "suite")
    regrade_suite(folder, HERE, "again")
    kept = (folder / "verdicts" / "again.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"policy: 'default' -> 'strict'.*--restart"):
        regrade_suite(folder, Grading("strict", workers=0), "again")
    path = folder / "problems.jsonl"
    path.write_text(path.read_text().replace('"answer": "42"', '"answer": "41"'))
    with pytest.raises(RunError, match=r"made otherwise \(samples: "):
        regrade_suite(folder, HERE, "again")
    assert (folder / "verdicts" / "again.jsonl").read_bytes() == kept
    assert regrade_suite(folder, HERE, "again", restart=True).made == 28


SLOW = """
import time

def slow(prompts, completions, finish_reason, completion_ids, answer, level, log_extra, **columns):
    time.sleep(0.15)
    log_extra("extracted", [level_ + " " + reason for level_, reason in zip(level, finish_reason)])
    texts = [one[0]["content"] for one in completions]
    return [len(ids) / 10 + (gold in text) for ids, gold, text in zip(completion_ids, answer, texts)]
"""


def test_a_reward_of_ones_own_sees_columns_endings_and_lengths(tmp_path: Path) -> None:
    folder = lively_suite(tmp_path / "suite", count=10, n=4)
    (tmp_path / "mine.py").write_text(SLOW.replace("0.15", "0"))
    regrade_suite(folder, Grading(reward="mine.py:slow", base_dir=tmp_path), "mine")
    problems = {row["id"]: row for row in lines_of(folder / "problems.jsonl")}
    for row in read_samples(folder, "mine"):
        asked = problems[row["id"]]
        assert row["score"] == pytest.approx(row["length"] / 10 + (asked["answer"] in row["text"]))
        assert row["extracted"] == f"{asked['level']} {row['finish_reason']}"
        assert (row["right"], row["grader"]) == (row["score"] >= 1, None)


def test_a_kill_costs_no_verdict_and_none_is_made_twice(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SLOW)
    whole, broken = (lively_suite(tmp_path / name / "suite", count=40, n=16) for name in ("whole", "broken"))
    regrade_suite(whole, Grading(reward="mine.py:slow", base_dir=tmp_path), "mine")
    command = [sys.executable, "-m", "reasonrl", "regrade", str(broken), "--reward", "mine.py:slow", "--name", "mine"]
    path = broken / "verdicts" / "mine.jsonl"
    draw = random.Random(1)
    sizes = []
    for _ in range(3):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        before = path.stat().st_size if path.exists() else 0
        while time.monotonic() < deadline and (not path.exists() or path.stat().st_size <= before):
            time.sleep(0.01)
        time.sleep(draw.random() * 0.3)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        sizes.append(path.read_bytes().count(b"\n"))
        with path.open("ab") as file:  # the half of a line that a kill may leave
            file.write(b'{"id": "p1", "met')
    assert sizes == sorted(sizes) and 0 < sizes[0] < 640
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{sizes[-1]:,} verdicts were there already" in done.stdout or sizes[-1] == 640
    assert path.read_bytes() == (whole / "verdicts" / "mine.jsonl").read_bytes()


def test_a_difference_is_what_a_plain_loop_counts(tmp_path: Path) -> None:
    folder = mixed_suite(tmp_path / "suite")
    for policy in ("strict", "lenient"):
        regrade_suite(folder, Grading(policy, workers=0), policy)
    diff = diff_suite("suite", folder, "strict", "lenient", most_examples=3)
    old, new = read_samples(folder, "strict"), read_samples(folder, "lenient")
    moves = Counter((a["verdict"], b["verdict"]) for a, b in zip(old, new, strict=True) if a["verdict"] != b["verdict"])
    assert dict(diff.moves) == dict(moves) and diff.moved == sum(moves.values()) > 0
    assert diff.gained == sum(b["right"] and not a["right"] for a, b in zip(old, new, strict=True))
    assert diff.lost == sum(a["right"] and not b["right"] for a, b in zip(old, new, strict=True))

    def accuracy(rows: list[dict[str, Any]]) -> float:
        return fmean(fmean(row["correct"] for row in rows if row["id"] == f"q{place}") for place in range(4))

    assert diff.difference is not None and diff.difference.value == pytest.approx(accuracy(new) - accuracy(old))
    assert len(diff.examples) == min(3, diff.moved)
    assert all((one["before"]["verdict"], one["now"]["verdict"]) in moves for one in diff.examples)
    assert json.loads(json.dumps(diff_json(diff)))["moved"] == diff.moved


def test_scores_are_compared_with_verdicts_by_what_is_right(tmp_path: Path) -> None:
    folder = mixed_suite(tmp_path / "suite")
    (tmp_path / "mine.py").write_text(
        "def mine(completions, **k): return [float('42' in c[0]['content']) for c in completions]"
    )
    regrade_suite(folder, HERE, "rules")
    regrade_suite(folder, Grading(reward="mine.py:mine", base_dir=tmp_path), "mine")
    diff = diff_suite("suite", folder, "rules", "mine")
    pairs = zip(read_samples(folder, "rules"), read_samples(folder, "mine"), strict=True)
    moved = Counter((bool(a["right"]), bool(b["right"])) for a, b in pairs if a["right"] != b["right"])
    assert diff.moves == {("right", "not right"): moved[True, False], ("not right", "right"): moved[False, True]}


def test_ctrl_c_says_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SLOW)
    folder = lively_suite(tmp_path / "suite", count=40, n=16)
    command = [sys.executable, "-m", "reasonrl", "regrade", str(folder), "--reward", "mine.py:slow", "--name", "mine"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    path = folder / "verdicts" / "mine.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (path.exists() and path.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert "the same command goes on" in process.communicate(timeout=60)[1]
    assert process.returncode == 130 and 0 < len(lines_of(path)) < 640


def test_without_a_choice_each_suite_is_judged_by_its_own_reward(tmp_path: Path) -> None:
    text = "Which? (A) 41 (B) 42"
    rows = [problem("a", "B", problem=text, kind="choice"), problem("b", "42", kind="math")]
    said = [
        sample("a", 0, "The answer is 42."),
        sample("a", 1, r"\boxed{A}"),
        sample("b", 0, "84/2"),
        sample("b", 1, "B"),
    ]
    route = {"name": "route", "args": {"rewards": {"choice": "choice", "math": "math"}, "column": "kind"}}
    write_suite(tmp_path / "routed", rows, said, {"model": "m", "reward": route})
    write_suite(tmp_path / "plain", rows[1:], said[2:], {"model": "m", "reward": "math"})
    done = CliRunner().invoke(main, ["regrade", str(tmp_path), "--workers", "0"])
    assert done.exit_code == 0, done.output
    assert [row["right"] for row in read_samples(tmp_path / "routed", "default")] == [True, False, True, False]
    assert [row["right"] for row in read_samples(tmp_path / "plain", "default")] == [True, False]
    kept = json.loads((tmp_path / "routed" / "verdicts" / "default.json").read_text())
    assert (kept["reward"], kept["rules"]) == (route, {"math": 2})


def test_problems_without_an_answer(tmp_path: Path) -> None:
    some = write_suite(
        tmp_path / "some", [problem("a", "7"), problem("b", None)], [sample("a", 0, "7"), sample("b", 0, "7")]
    )
    regrade_suite(some, HERE, "again")
    assert [(row["verdict"], row["correct"]) for row in read_samples(some, "again")] == [
        ("correct", True),
        ("fault", None),
    ]
    none = write_suite(tmp_path / "none", [problem("a", None)], [sample("a", 0, "7")])
    with pytest.raises(DataError, match="no problem has an answer"):
        regrade_suite(none, HERE, "again")


def test_what_is_refused() -> None:
    for name in ("own", "current", "", "../x", "a b", ".hidden"):
        with pytest.raises(RunError, match="name"):
            check_name(name)
    with pytest.raises(RewardError, match=r"policy 'strikt' is unknown"):
        Grading("strikt")


def test_the_command_says_what_moved(tmp_path: Path) -> None:
    mixed_suite(tmp_path / "eval" / "sums")
    mixed_suite(tmp_path / "eval" / "more")
    run = CliRunner()
    first = run.invoke(main, ["regrade", str(tmp_path / "eval"), "--policy", "strict", "--workers", "0"])
    assert first.exit_code == 0, first.output
    second = run.invoke(main, ["regrade", str(tmp_path / "eval"), "--workers", "0", "--against", "strict"])
    assert second.exit_code == 0, second.output
    assert "strict -> default" in second.output and "28 samples judged" in second.output
    diff = json.loads((tmp_path / "eval" / "sums" / "verdicts" / "default.diff.json").read_text())
    assert (diff["before"], diff["now"], diff["samples"]) == ("strict", "default", 28)
    markdown = (tmp_path / "eval" / "more" / "verdicts" / "default.diff.md").read_text()
    assert "| suite | before | now | samples |" in markdown
    for words, said in {
        ("--against", "nothing"): "--against nothing",
        ("--policy", "strict", "--reward", "math"): "give one of them",
        ("--suite", "sum"): "holds no suite 'sum'",
        ("--reward", "[unclosed"): "is no YAML",
    }.items():
        refused = run.invoke(main, ["regrade", str(tmp_path / "eval"), *words])
        assert refused.exit_code in (1, 2) and said in refused.output, refused.output
    assert "holds no samples" in run.invoke(main, ["regrade", str(tmp_path)]).output
