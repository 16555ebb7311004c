"""`reasonrl behaviours` on records on disk, with a judge over real HTTP and without one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from behaviour_world import ScriptedServer, honest, marked, write_suite

from reasonrl.cli import main
from reasonrl.eval.behaviours import cohens_kappa

AT = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "m")


def behaviours(*words, status: int = 0) -> str:
    """What the command prints, standard error too."""
    done = CliRunner().invoke(main, ["behaviours", *map(str, words)])
    assert done.exit_code == status, (done.output, done.exception)
    return done.output


def figures(folder: Path) -> dict:
    return json.loads((folder / "behaviours.json").read_text(encoding="utf-8"))


def pair_of(evaluation: dict, coder: str, pair: str = "backtracking") -> dict:
    (found,) = [one for one in evaluation["coders"][coder] if one["pair"] == pair]
    return found


def test_two_evaluations_with_a_judge(tmp_path):
    """Base: 10 of 40 backtrack, 1 reflects on the picture. Trained: 38 and 8."""
    for name, language, vision in (("base", 10, 1), ("trained", 38, 8)):
        rows = []
        for number in range(40):
            text = marked(backtracking=2 * (number < language), visual_reflection=number < vision)
            plain = " Wait, that is wrong." if number < language // 2 else ""
            rows += [(f"p{number}", 0, text + plain, number % 2 == 0), (f"p{number}", 1, marked(backtracking=1), True)]
        write_suite(tmp_path / name / "mathvision", rows)
    with ScriptedServer(honest) as server:
        words = [f"first={tmp_path / 'base'}", tmp_path / "trained", "--out", tmp_path / "both"]
        said = behaviours(*words, "--endpoint", server.url, "--model", "judge", "--set", "max_concurrency=32")
        assert len(server.seen) == 640 and "640 counts made" in " ".join(said.split())
        behaviours(*words, "--endpoint", server.url, "--model", "judge")
        assert len(server.seen) == 640, "what is there is not asked again"
        assert [one["label"] for one in figures(tmp_path / "base")["evaluations"]] == ["first"]
        base, trained = figures(tmp_path / "both")["evaluations"]
        found = pair_of(trained, "judge")
        assert found["language"]["cbr"]["value"] == 38 / 40 and found["vision"]["cbr"]["value"] == 8 / 40
        assert found["btr"]["value"] == pytest.approx(8 / 38) and found["btr"]["paired"] == 40
        assert found["btr"]["low"] < 8 / 38 < found["btr"]["high"] and found["btr"]["unstable"] == []
        assert found["language"]["mean_count"]["value"] == 2 * 38 / 40
        assert found["language"]["difference"]["value"] == pytest.approx(28 / 40)
        assert found["vision"]["right_with"] == 0.5 and found["vision"]["right_without"] == 0.5
        assert pair_of(base, "judge")["btr"]["unstable"] == ["10 problems behind CBR_l"]
        assert pair_of(base, "judge")["language"]["difference"] is None
        assert pair_of(base, "lexical")["language"]["cbr"]["value"] == 5 / 40
        (agreed,) = [one for one in base["agreement"] if one["behaviour"] == "backtracking"]
        assert (agreed["first"], agreed["second"], agreed["responses"]) == ("judge", "lexical", 40)
        assert agreed["kappa"] == pytest.approx(cohens_kappa(5, 5, 0, 30))
        assert "95.0 [" in said and "21.1 [" in said and "unstable: 10 problems behind CBR_l" in said
        markdown = (tmp_path / "both" / "behaviours.md").read_text(encoding="utf-8")
        assert "| trained | backtracking → visual_reflection | 95.0 [" in markdown
        # All responses rather than one a problem: only what is missing is asked.
        behaviours(*words, "--endpoint", server.url, "--model", "judge", "--per-problem", 0)
        assert len(server.seen) == 1280
    (_, trained) = figures(tmp_path / "both")["evaluations"]
    found = pair_of(trained, "judge")
    assert found["language"]["cbr"]["value"] == (38 * 1 + 2 * 0.5) / 40 and found["language"]["responses"] == 80
    assert found["vision"]["cbr"]["value"] == 8 * 0.5 / 40


def test_patterns_alone_need_no_endpoint_and_are_counted_again_only_when_they_change(tmp_path):
    texts = ["Wait, that is wrong.\nNo, let me start over.", "So x = 2.", "Let me look at the figure again."]
    folder = write_suite(tmp_path / "suite", [(f"p{n}", 0, text, None) for n, text in enumerate(texts)])
    said = behaviours(folder)
    (one,) = figures(folder)["evaluations"]
    found = pair_of(one, "lexical")
    assert found["language"]["cbr"]["value"] == found["vision"]["cbr"]["value"] == pytest.approx(1 / 3)
    assert found["language"]["mean_count"]["value"] == pytest.approx(2 / 3)
    assert found["vision"]["right_with"] is None and one["agreement"] == [] and "behaviours by lexical" in said
    counts = folder / "behaviours" / "lexical.jsonl"
    rows = [json.loads(line) for line in counts.read_text().splitlines()]
    rows[0]["count"] = 7  # a count of an unchanged pattern and text is taken from the file
    counts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    behaviours(folder)
    assert pair_of(figures(folder)["evaluations"][0], "lexical")["language"]["mean_count"]["value"] == 7 / 3
    own = tmp_path / "own.yaml"
    own.write_text("backtracking: {language: {name: backtracking, patterns: [so]}, vision: {patterns: [x]}}")
    behaviours(folder, "--catalogue", own)
    (one,) = figures(folder)["evaluations"]
    assert pair_of(one, "lexical")["language"]["mean_count"]["value"] == pytest.approx(1 / 3)


def test_sides_on_suites_of_their_own_are_paired_by_problem(tmp_path):
    """Twins in text and in pictures, one pattern on both sides."""
    own = tmp_path / "own.yaml"
    own.write_text("relook: {language: &it {definition: reads a cell again, patterns: ['\\?\\w\\d=']}, vision: *it}\n")
    for name, looking in (("twins", 24), ("pictures", 6)):
        texts = ["B2=7;?B2=1;1+3=4" if number < looking else "B2=7;7+3=0" for number in range(40)]
        write_suite(tmp_path / "run" / name, [(f"p{number}", 0, text, True) for number, text in enumerate(texts)])
    said = behaviours(tmp_path / "run", "--catalogue", own, "--language", "twins", "--vision", "pictures")
    (one,) = figures(tmp_path / "run")["evaluations"]
    (found,) = one["coders"]["lexical"]
    assert (one["suite"], found["language"]["behaviour"], found["vision"]["behaviour"]) == (
        *("twins / pictures", "relook", "visual_relook"),
    )
    assert found["btr"]["value"] == pytest.approx(6 / 24) and found["btr"]["paired"] == 40
    assert "15.0 [" in said and "25.0 [" in said


def test_counts_of_people_are_another_coder(tmp_path):
    texts = {f"p{number}": marked(verification=number % 2) for number in range(20)}
    folder = write_suite(tmp_path / "suite", [(name, 0, text, True) for name, text in texts.items()])
    (folder / "behaviours").mkdir()
    people = [
        {"id": name, "behaviour": "verification", "count": int(name != "p3") * len(text) // 40}
        for name, text in texts.items()
    ][:10]
    (folder / "behaviours" / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in people))
    with ScriptedServer(honest) as server:
        behaviours(folder, "--endpoint", server.url, "--model", "m")
    (one,) = figures(folder)["evaluations"]
    pairs = {(row["first"], row["second"], row["behaviour"]): row for row in one["agreement"]}
    found = pairs["judge", "people", "verification"]
    assert (found["responses"], found["both"], found["only_first"], found["neither"]) == (10, 4, 1, 5)
    assert ("judge", "people", "backtracking") not in pairs and ("lexical", "people", "verification") in pairs
    language = pair_of(one, "people", "verification")["language"]
    assert (language["responses"], language["missing"]) == (10, 10)


def test_quotes_that_are_nowhere_are_shown_and_may_be_left_out(tmp_path):
    from behaviour_world import code_in, reply

    folder = write_suite(tmp_path / "suite", [(f"p{number}", 0, "So it is, then.", True) for number in range(10)])

    def inventing(seen, number):
        return reply(code_in(seen), ["so it is", "Let me look at the picture again"])

    with ScriptedServer(inventing) as server:
        words = [folder, "--endpoint", server.url, "--model", "m", "--name", "inventor"]
        said = behaviours(*words)
        assert "quotes not found" in said and "50.0 %" in said
        before = pair_of(figures(folder)["evaluations"][0], "inventor")["language"]
        behaviours(*words, "--quoted")
        after = pair_of(figures(folder)["evaluations"][0], "inventor")["language"]
    assert (before["mean_count"]["value"], after["mean_count"]["value"], before["unquoted"]) == (2, 1, 0.5)


def test_greedy_responses(tmp_path):
    folder = write_suite(tmp_path / "suite", [("a", 0, "Wait, no.", True)], metric="greedy")
    assert "give --greedy" in behaviours(folder, status=1)
    assert "100.0 [" in behaviours(folder, "--greedy")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{}/none"], "is no folder"),
        (["{}/empty"], "holds no evaluation"),
        (["{}/run", "--suite", "mathvison"], "did you mean 'mathvision'"),
        (["{}/run", "--language", "mathvision"], "--language and --vision go together"),
        (["{}/run", "--language", "mathvision", "--vision", "mathvision", "--suite", "mathvision"], "give either"),
        (["{}/run", "a={}/other/run", "run={}/other/run"], "two evaluations are called 'run'"),
        (["{}/run", "--model", "m"], "there is no --endpoint"),
        (["{}/run", "--endpoint", "http://127.0.0.1:9/v1"], "--endpoint needs --model"),
        (["{}/run", "--endpoint", "127.0.0.1:9", "--model", "m"], "base_url"),
        (
            ["{}/run", *AT, "--set", "max_concurency=3"],
            "did you mean",
        ),
        (["{}/run", *AT, "--set", "timeout"], "give name=value"),
        (
            ["{}/run", *AT, "--name", "lexical"],
            "other than 'lexical'",
        ),
        (["{}/run", *AT, "--name", "../x"], "can be a file's"),
        (["{}/run", "--catalogue", "{}/none.yaml"], "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(words, said, tmp_path):
    for folder in ("run", "other/run"):
        write_suite(tmp_path / folder / "mathvision", [("a", 0, "So.", True)])
    (tmp_path / "empty").mkdir()
    output = behaviours(*(word.format(tmp_path) for word in words), status=1 if "none.yaml" in words[-1] else 2)
    assert said in output and "Traceback" not in output
    assert not list(tmp_path.rglob("behaviours*"))


def test_a_judge_that_is_not_there_costs_nothing_that_is(tmp_path):
    folder = write_suite(tmp_path / "suite", [("a", 0, marked(verification=1), True)])
    with ScriptedServer(honest) as server:
        words = [folder, "--endpoint", server.url, "--model", "m", "--set", "max_retries=0"]
        behaviours(*words)
    before = (folder / "behaviours" / "judge.jsonl").read_bytes()
    behaviours(*words)  # all counts are there: the dead server is not asked
    assert "the judge gave no count" in behaviours(*words, "--restart", status=1)
    assert (folder / "behaviours" / "judge.jsonl.before").read_bytes() == before
