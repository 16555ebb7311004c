"""`reasonrl verify`, run as people run it: files of pairs, kills, resumes, refusals, one pair explained."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ENVIRONMENT = {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "reasonrl", "verify", *map(str, arguments)]


def run(folder: Path, *arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=ENVIRONMENT, input=stdin, capture_output=True, text=True, timeout=120
    )


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def verdicts(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def timeless(path: Path) -> list[str]:
    """The lines of a file of verdicts without their seconds, still as text."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line[: line.rindex(', "seconds"')] for line in lines]


def sums(count: int) -> list[dict[str, Any]]:
    """Pairs of which every third is wrong and every seventh has no label."""
    rows = []
    for number in range(count):
        said = number + (number % 3 == 0)
        row = {"id": f"s{number}", "gold": str(number), "pred": f"We add up.\nThe answer is \\boxed{{{said}}}."}
        rows.append(row if number % 7 == 0 else {**row, "equal": number % 3 != 0})
    return rows


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def start(folder: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments), cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# --- a file ---


@pytest.mark.parametrize("workers", ["0", "2"])
def test_one_verdict_a_line_in_order_and_a_table(tmp_path: Path, workers: str) -> None:
    rows = [
        {"id": 7, "gold": "1/2", "pred": r"\boxed{0.5}", "equal": True},
        {"gold": "3", "pred": r"\boxed{4}", "equal": True},
        {"gold": "3", "pred": r"\boxed{3}", "equal": False},
        {"gold": "", "pred": "5", "equal": None},
        {"gold": 12, "pred": "Es sind also 12 Äpfel."},
    ]
    done = run(tmp_path, write(tmp_path / "pairs.jsonl", rows), "--out", "verdicts.jsonl", "--workers", workers)
    assert (done.returncode, done.stderr) == (0, "")
    lines = verdicts(tmp_path / "verdicts.jsonl")
    assert [line["line"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["status"] for line in lines] == ["correct", "wrong", "correct", "bad_gold", "correct"]
    assert [line["score"] for line in lines] == [1.0, 0.0, 1.0, None, 1.0]
    assert [line["extracted"] for line in lines] == ["0.5", "4", "3", None, "12"]
    assert all(line["reason"] and 0 <= line["seconds"] < 2 for line in lines)
    assert (lines[0]["id"], lines[0]["equal"], lines[3]["equal"]) == (7, True, None) and "id" not in lines[1]
    shown = " ".join(done.stdout.split())
    assert "lines 5" in shown and "agree with the label 33.3 % of 3" in shown
    assert "false positives 1 of 1" in shown and "false negatives 1 of 2" in shown
    assert "correct 3 (60.0 %)" in shown and "bad_gold 1 (20.0 %)" in shown and "pairs/s" in shown


def test_malformed_lines_get_their_verdict_and_are_counted(tmp_path: Path) -> None:
    rows = [
        {"gold": "1", "pred": "1"},
        "{torn",
        "",
        "[1, 2]",
        {"gold": "1"},
        {"gold": None, "pred": "1"},
        {"gold": "1", "pred": ["1"]},
        "[" * 100_000,
        '{"gold": "2", "pred": "\\ud800 \\\\boxed{2}"}',
    ]
    pairs = write(tmp_path / "pairs.jsonl", rows)
    pairs.write_bytes(pairs.read_bytes() + b'{"gold": "\xff", "pred": "1"}\n{"gold": "3", "pred": "3"}')
    done = run(tmp_path, pairs, "--out", "verdicts.jsonl", "--workers", "1")
    assert done.returncode == 0, done.stderr
    lines = verdicts(tmp_path / "verdicts.jsonl")
    assert [line["status"] for line in lines] == ["correct", *["fault"] * 7, "correct", "fault", "correct"]
    assert all(line["score"] is None for line in lines[1:8])
    reasons = [line["reason"] for line in lines]
    assert "not JSON" in reasons[1] and reasons[2] == "blank line" and "a list" in reasons[3]
    assert "no column 'pred' or 'response'" in reasons[4] and "'gold'" in reasons[4]
    assert "'gold' holds a NoneType" in reasons[5] and "'pred' holds a list" in reasons[6]
    assert "of them malformed lines 8" in " ".join(done.stdout.split())


def test_other_columns(tmp_path: Path) -> None:
    write(tmp_path / "named.jsonl", [{"answer": "5", "response": "5"}])
    write(tmp_path / "own.jsonl", [{"right": "5", "said": "5", "gold": "6", "pred": "7"}])
    assert run(tmp_path, "named.jsonl", "--out", "a.jsonl", "--workers", "0").returncode == 0
    own = ("own.jsonl", "--out", "b.jsonl", "--workers", "0", "--gold-column", "right", "--pred-column", "said")
    assert run(tmp_path, *own).returncode == 0
    assert verdicts(tmp_path / "a.jsonl")[0]["status"] == verdicts(tmp_path / "b.jsonl")[0]["status"] == "correct"
    refused = run(tmp_path, "own.jsonl", "--gold-column", "rihgt")
    assert refused.returncode == 1 and "no column 'rihgt'; columns: 'right', 'said'" in refused.stderr


def test_a_hostile_pair_costs_its_limit_and_nothing_else(tmp_path: Path) -> None:
    rows = [{"gold": str(number), "pred": rf"\boxed{{{number}}}"} for number in range(40)]
    rows[20] = {"gold": "x", "pred": "\\boxed{" + "{" * 50_000}
    rows[21] = {"gold": "1", "pred": r"\boxed{9^{9^{9^{9^9}}}}"}
    begin = time.monotonic()
    done = run(
        tmp_path, write(tmp_path / "pairs.jsonl", rows), "--out", "v.jsonl", "--workers", "2", "--time-limit", "1"
    )
    assert done.returncode == 0 and time.monotonic() - begin < 120
    statuses = [line["status"] for line in verdicts(tmp_path / "v.jsonl")]
    assert statuses[:20] + statuses[22:] == ["correct"] * 38
    assert all(status in ("wrong", "no_answer", "timeout") for status in statuses[20:22])


# --- stopped and carried on ---


@pytest.mark.parametrize("workers", ["0", "2"])
def test_killed_and_carried_on_is_as_if_never_stopped(tmp_path: Path, workers: str) -> None:
    pairs = write(tmp_path / "pairs.jsonl", sums(6_000))
    assert run(tmp_path, pairs, "--out", "whole.jsonl", "--workers", workers).returncode == 0
    kept = 0
    for least in (300, 1_500):
        process = start(tmp_path, pairs, "--out", "killed.jsonl", "--workers", workers)
        wait_for_lines(tmp_path / "killed.jsonl", least, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before, kept = kept, (tmp_path / "killed.jsonl").read_bytes().count(b"\n")
        assert before < kept < 6_000
    with (tmp_path / "killed.jsonl").open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 9)  # a torn last line, as a full disk leaves it
    done = run(tmp_path, pairs, "--out", "killed.jsonl", "--workers", workers)
    assert done.returncode == 0, done.stderr
    assert f"{kept - 1:,} of 6,000 verdicts were there already" in done.stderr
    assert timeless(tmp_path / "killed.jsonl") == timeless(tmp_path / "whole.jsonl")
    table = " ".join(done.stdout.split())
    assert "lines 6,000" in table and "correct 4,000 (66.7 %)" in table and "agree with the label 100.0 %" in table


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_it_keeps_what_it_has(tmp_path: Path, number: int, status: int) -> None:
    pairs = write(tmp_path / "pairs.jsonl", sums(20_000))
    process = start(tmp_path, pairs, "--out", "v.jsonl", "--workers", "2")
    wait_for_lines(tmp_path / "v.jsonl", 200, process)
    process.send_signal(number)
    out, error = process.communicate(timeout=30)
    assert process.returncode == status, error
    kept = (tmp_path / "v.jsonl").read_bytes().count(b"\n")
    assert 200 <= kept < 20_000
    assert f"stopped; {kept:,} verdicts are in v.jsonl" in error and "Traceback" not in error
    assert f"lines {kept:,}" in " ".join(out.replace("│", " ").split())
    done = run(tmp_path, pairs, "--out", "v.jsonl", "--limit", str(kept + 5))
    assert done.returncode == 0 and (tmp_path / "v.jsonl").read_bytes().count(b"\n") == kept + 5


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_full_disk_costs_no_verdict(tmp_path: Path, workers: str) -> None:
    pairs = write(tmp_path / "pairs.jsonl", sums(60))
    most = 3_001

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    arguments = command(pairs, "--out", "out.jsonl", "--workers", workers)
    done = subprocess.run(
        arguments, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, preexec_fn=small_disk
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "could not be written: File too large" in " ".join(done.stderr.split())
    kept = (tmp_path / "out.jsonl").read_bytes()
    assert kept.endswith(b"\n") and 10 < kept.count(b"\n") < 60
    assert run(tmp_path, pairs, "--out", "out.jsonl", "--workers", "0").returncode == 0
    assert (tmp_path / "out.jsonl").read_bytes().startswith(kept)
    assert [one["line"] for one in verdicts(tmp_path / "out.jsonl")] == list(range(1, 61))


def test_a_limit_can_grow(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", sums(30))
    for limit in (10, 10, 25, 99):
        assert run(tmp_path, pairs, "--out", "v.jsonl", "--limit", str(limit), "--workers", "0").returncode == 0
        assert len(verdicts(tmp_path / "v.jsonl")) == min(limit, 30)


def test_verdicts_made_otherwise_are_not_mixed(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", sums(5))
    base = (pairs, "--out", "v.jsonl", "--workers", "0")
    assert run(tmp_path, *base).returncode == 0
    content = (tmp_path / "v.jsonl").read_bytes()
    for extra, said in (
        (("--policy", "strict"), "policy was 'default', now 'strict'"),
        (("--time-limit", "1"), "time limit was 2.0, now 1.0"),
        (("--gold-column", "gold"), "columns was"),
    ):
        refused = run(tmp_path, *base, *extra)
        assert refused.returncode == 2 and said in refused.stderr and "--restart" in refused.stderr
    write(pairs, sums(6))
    refused = run(tmp_path, *base)
    assert refused.returncode == 2 and "the file of pairs has changed" in refused.stderr
    assert (tmp_path / "v.jsonl").read_bytes() == content
    assert run(tmp_path, *base, "--restart", "--policy", "strict").returncode == 0
    assert len(verdicts(tmp_path / "v.jsonl")) == 6
    (tmp_path / "v.jsonl.about.json").unlink()
    refused = run(tmp_path, *base, "--policy", "strict")
    assert refused.returncode == 2 and "does not say how it was made" in refused.stderr


def test_a_damaged_file_of_verdicts_is_refused(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", sums(5))
    assert run(tmp_path, pairs, "--out", "v.jsonl", "--workers", "0").returncode == 0
    lines = (tmp_path / "v.jsonl").read_text().splitlines(keepends=True)
    for damaged, said in (
        ([lines[0], *lines[2:]], "v.jsonl:2: the verdict on line 3"),
        ([lines[0], "junk\n", *lines[2:]], "v.jsonl:2: no verdict"),
    ):
        (tmp_path / "v.jsonl").write_text("".join(damaged))
        refused = run(tmp_path, pairs, "--out", "v.jsonl", "--workers", "0")
        assert refused.returncode == 1 and said in refused.stderr and "--restart" in refused.stderr


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", sums(20_000))
    process = start(tmp_path, pairs, "--out", "v.jsonl", "--workers", "1")
    try:
        wait_for_lines(tmp_path / "v.jsonl", 1, process)
        second = run(tmp_path, pairs, "--out", "v.jsonl", "--workers", "1")
        assert second.returncode == 2 and "another process is writing it" in second.stderr
    finally:
        process.kill()
        process.wait()


def test_what_differs_from_another_file(tmp_path: Path) -> None:
    rows = [{"gold": r"10\%", "pred": r"\boxed{10}"}, {"gold": "5", "pred": r"\boxed{5}"}]
    pairs = write(tmp_path / "pairs.jsonl", rows)
    assert run(tmp_path, pairs, "--out", "default.jsonl", "--workers", "0").returncode == 0
    strict = ("--out", "strict.jsonl", "--workers", "0", "--policy", "strict", "--compare", "default.jsonl")
    done = run(tmp_path, pairs, *strict)
    shown = " ".join(done.stdout.split())
    assert done.returncode == 0 and "1 of 2 verdicts differ from default.jsonl" in shown
    assert "correct wrong 1" in shown and "1 correct wrong 10" in shown
    same = run(tmp_path, pairs, "--out", "again.jsonl", "--workers", "0", "--compare", "default.jsonl")
    assert "no verdict of 2 differs" in same.stdout
    less = run(tmp_path, pairs, "--out", "less.jsonl", "--workers", "0", "--limit", "1", "--compare", "default.jsonl")
    assert "only the first 1 lines are compared: 1 here, 2 in default.jsonl" in less.stdout


def test_verdicts_on_another_input_are_not_compared(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", sums(2)), write(tmp_path / "b.jsonl", sums(3))
    assert run(tmp_path, first, "--out", "a.out", "--workers", "0").returncode == 0
    done = run(tmp_path, second, "--out", "b.out", "--workers", "0", "--compare", "a.out")
    assert done.returncode == 2 and "on another input than" in done.stderr and not (tmp_path / "b.out").exists()


# --- files that must not be touched ---


def test_no_input_is_overwritten(tmp_path: Path) -> None:
    pairs = write(tmp_path / "p.jsonl", sums(2))
    held = pairs.read_bytes()
    assert run(tmp_path, pairs, "--out", "v.jsonl", "--workers", "0").returncode == 0
    verdicts_held = (tmp_path / "v.jsonl").read_bytes()
    (tmp_path / "link").symlink_to("p.jsonl")
    os.link(pairs, tmp_path / "hard")
    (tmp_path / "o.about.json").symlink_to("p.jsonl")
    for out in ("p.jsonl", "./p.jsonl", "link", "hard", "o"):
        done = run(tmp_path, "p.jsonl", "--out", out, "--restart")
        assert (done.returncode, "would overwrite the file of pairs" in done.stderr) == (2, True), done.stderr
    for out in ("v.jsonl", "v.jsonl.about.json"):
        done = run(tmp_path, "p.jsonl", "--out", out, "--restart", "--compare", "v.jsonl")
        assert done.returncode == 2 and "of --compare, v.jsonl" in done.stderr
    assert pairs.read_bytes() == held and (tmp_path / "v.jsonl").read_bytes() == verdicts_held


def test_pairs_from_a_pipe_are_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "/dev/stdin", "--out", "v.jsonl", stdin='{"gold": "1", "pred": "1"}\n')
    assert done.returncode == 1 and "/dev/stdin is no regular file" in done.stderr and "-> write them" in done.stderr
    assert not (tmp_path / "v.jsonl").exists()


# --- labels and numbers ---


@pytest.mark.parametrize("workers", ["0", "1"])
def test_labels_in_other_spellings_and_numbers_that_are_none(tmp_path: Path, workers: str) -> None:
    labels = [True, 1, "true", "True", "1", False, 0, "false", 0.0, None, "maybe", [1]]
    rows: list[Any] = [{"gold": "3", "pred": "3", "equal": label} for label in labels]
    rows += ['{"gold": NaN, "pred": "3"}', '{"gold": 1e400, "pred": "3"}', '{"gold": "3", "pred": -Infinity}']
    done = run(tmp_path, write(tmp_path / "p.jsonl", rows), "--out", "v.jsonl", "--workers", workers)
    shown = " ".join(done.stdout.split())
    assert done.returncode == 0 and "agree with the label 55.6 % of 9" in shown
    assert "false positives 4 of 4" in shown and "labels not read 2" in shown
    assert "of them malformed lines 3" in shown
    lines = verdicts(tmp_path / "v.jsonl")
    assert [(line["status"], line["score"]) for line in lines[-3:]] == [("fault", None)] * 3
    assert "'gold' holds nan, no finite number" in lines[-3]["reason"] and "'pred' holds -inf" in lines[-1]["reason"]


# --- one pair ---


def test_one_pair_and_its_exit_status(tmp_path: Path) -> None:
    right = run(tmp_path, "--gold", "1/2", "--response", r"so \boxed{0.5}")
    wrong = run(tmp_path, "--gold", "1/2", "--response", "-", stdin=r"so \boxed{0.6}")
    assert (right.returncode, wrong.returncode) == (0, 1)
    assert right.stdout.startswith("correct: 0.5 (") and wrong.stdout.startswith("wrong: 0.6 (")


def test_one_pair_explained(tmp_path: Path) -> None:
    response = "<think>It is \\boxed{7}.</think>\nDie Antwort ist **42**."
    done = run(tmp_path, "--gold", "#### 42", "--response", response, "--explain")
    shown = " ".join(done.stdout.split())
    assert done.returncode == 0
    assert "gold #### 42" in shown and "read as 42" in shown and "its kind number" in shown
    assert "31 in think blocks" in shown and "answer 42" in shown and "found stated as the answer" in shown
    assert "policy default" in shown and "verdict correct, score 1" in shown and "under strict" in shown
    lost = run(tmp_path, "--gold", "5", "--response", "I do not know.\nSorry.", "--explain")
    assert (
        lost.returncode == 1
        and "none found" in lost.stdout
        and "verdict no_answer, score 0" in " ".join(lost.stdout.split())
    )


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 2, "give a file of pairs"),
        (("--gold", "1"), 2, "give a file of pairs"),
        (("p.jsonl", "--gold", "1"), 2, "not both"),
        (("--gold", "1", "--response", "1", "--out", "x"), 2, "--out belongs to a file"),
        (("--gold", "1", "--response", "1", "--policy", "strikt"), 1, "did you mean 'strict'"),
        (("p.jsonl", "--policy", "strikt"), 1, "did you mean 'strict'"),
        (("none.jsonl",), 1, "none.jsonl: No such file"),
        (("empty.jsonl",), 1, "empty.jsonl is empty"),
        (("junk.jsonl",), 1, "none of the first lines is a pair"),
        (("p.jsonl", "--restart"), 2, "there is no --out"),
        (("p.jsonl", "--compare", "x"), 2, "--compare needs --out"),
        (("p.jsonl", "--time-limit", "-1"), 1, "time_limit"),
        (("p.jsonl", "--out", "/proc/foo/x.jsonl"), 2, "cannot be written"),
        (("p.jsonl", "--out", "."), 2, "--out . is a directory"),
        (("p.jsonl", "--out", "junk.jsonl/x"), 2, "junk.jsonl/x cannot be written"),
        (("p.jsonl", "--out", "/dev/stdout"), 2, "--out /dev/stdout is no regular file"),
        (("p.jsonl", "--out", "x", "--compare", "nofile"), 2, "--compare nofile does not exist"),
        (("p.jsonl", "--out", "x", "--compare", "junk.jsonl"), 1, "junk.jsonl:1: no verdict -> give a file"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path: Path, arguments: tuple[str, ...], status: int, said: str) -> None:
    write(tmp_path / "p.jsonl", sums(2))
    write(tmp_path / "junk.jsonl", ["a", "b"])
    (tmp_path / "empty.jsonl").touch()
    done = run(tmp_path, *arguments)
    assert (done.returncode, said in " ".join(done.stderr.split())) == (status, True), done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "x").exists()


def test_help_and_one_pair_import_nothing_heavy(tmp_path: Path) -> None:
    heavy = ("torch", "transformers", "sympy", "math_verify", "numpy", "pandas", "matplotlib")
    for arguments in (["verify", "--help"], ["verify", "--gold", "1/2", "--response", "0.5"]):
        code = (
            "import sys\nfrom reasonrl.cli import main\ntry:\n"
            f"    main({arguments!r})\nexcept SystemExit as stop:\n    assert not stop.code\n"
            f"print([name for name in {heavy!r} if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"
