"""A process reward model as a judge: what it says is what the model scores, by weights and not by place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.errors import ModelError, RewardError
from reasonrl.models import ScalarHeadModel, load_tokenizer
from reasonrl.prm.annotation import JudgeSpec, Reading, annotate
from reasonrl.prm.judges import Judged, Solution, Task, build_judge
from reasonrl.prm.judges.prm import NO_STEP
from reasonrl.prm.scoring import score_solutions
from reasonrl.prm.segment import lines
from reasonrl.prm.steps import Step, spans_of
from reasonrl.recipe import identity_of, load_recipe

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"


def save(folder: Path, seed: int) -> ScalarHeadModel:
    model = ScalarHeadModel.from_pretrained(TINY, seed=seed)
    with torch.no_grad():
        model.head.weight *= 60
    model.save_pretrained(folder)
    load_tokenizer(TINY).save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prm")


@pytest.fixture(scope="module")
def model(folder: Path) -> ScalarHeadModel:
    return save(folder, 3)


def solution_of(number: int, count: int = 4) -> Solution:
    text = "".join(f"{place} + {number * 7} = {place + number}\n" for place in range(count))
    return Solution(f"s{number}", f"Add {number}.", "4", text, tuple(lines(text)), row={"source": "x"})


def judged(judge, tasks: list[Task]) -> list[Judged]:
    kept: list[Judged] = []
    found = list(judge.judge(tasks, kept.append))
    assert kept == found
    return found


def test_labels_are_the_models_scores_against_the_threshold(folder: Path, model: ScalarHeadModel) -> None:
    given = [solution_of(number) for number in range(7)]
    records = [{"problem": s.problem, "text": s.text, "steps": spans_of(s.steps)} for s in given]
    scores = score_solutions(model, load_tokenizer(TINY), records)
    threshold = sorted(score for row in scores for score in row)[10]
    judge = build_judge("prm", {"model": str(folder), "threshold": threshold, "at_once": 3})
    found = judged(judge, [Task(one) for one in given])
    judge.close()
    assert [one.labels for one in found] == [tuple(int(s >= threshold) for s in row) for row in scores]
    assert sum(label or 0 for one in found for label in one.labels or ()) == 7 * 4 - 10
    for one, row in zip(found, scores, strict=True):
        assert one.soft == pytest.approx(row, abs=2e-6)


def test_what_it_cannot_read_is_open_or_a_failure(folder: Path, model: ScalarHeadModel) -> None:
    judge = build_judge("prm", {"model": str(folder), "max_length": 60})
    broken = Solution("b", "Add.", None, "1\n2", (Step(0, 1),))
    long = Solution("l", "Add " * 60, None, "1\n2", tuple(lines("1\n2")))
    cut, fault, nothing, whole = judged(
        judge, [Task(solution_of(1, 12)), Task(broken), Task(long), Task(solution_of(2, 1))]
    )
    assert cut.labels is not None and cut.soft is not None and cut.labels[-1] is None and cut.labels[0] is not None
    assert [label is None for label in cut.labels] == [score is None for score in cut.soft]
    assert fault.labels is None and "steps end at character 1" in fault.failure
    assert nothing.labels is None and nothing.failure == NO_STEP
    assert whole.labels is not None and None not in whole.labels


def test_settings_are_the_weights_not_the_place(folder: Path, model: ScalarHeadModel, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    save(tmp_path / "other", 4)
    here, copy, other = (
        build_judge("prm", {"model": str(path)}).settings() for path in (folder, tmp_path / "copy", tmp_path / "other")
    )
    assert here == copy and here["model"] != other["model"]
    with pytest.raises(ModelError, match="no trained process reward model"):
        build_judge("prm", {"model": TINY})
    for wrong in ({"threshold": 1.0}, {"threshold": True}, {"max_length": 0}, {"at_once": "4"}):
        with pytest.raises(RewardError, match=next(iter(wrong))):
            build_judge("prm", {"model": str(folder), **wrong})


def test_soft_labels_stand_in_the_record(folder: Path, model: ScalarHeadModel, tmp_path: Path) -> None:
    rows = [(f"r:{n}", {"id": f"s{n}", "problem": f"Add {n}.", "text": solution_of(n).text}) for n in range(5)]
    summary = annotate(
        tmp_path,
        lambda: rows,
        lambda: Reading(lines, policy=None),
        [JudgeSpec("prm", {"model": str(folder), "max_length": 48})],
    )
    assert summary.totals["solutions"] == 5 and summary.totals["open"] > 0
    records = [json.loads(line) for file in sorted((tmp_path / "labels").iterdir()) for line in file.open()]
    for record in records:
        right = [None if score is None else int(score >= 0.5) for score in record["soft"]]
        assert record["labels"] == right and record["source"]["judge"] == "prm"


RECIPE = """
recipe: judged
output: run
stages:
  prm:
    kind: prm
    model: {tiny}
    data: {{world: reflective, n: 24}}
    max_steps: 1
    solutions_per_step: 8
    max_length: 400
    learning_rate: 1.0e-3
  labels:
    kind: annotate
    data: {{world: reflective, n: 12, split: test}}
    segment: {{method: lines}}
    verify: null
    judges:
      - {{name: prm, args: {{model: "${{stage:prm}}", threshold: {threshold}, at_once: {at_once}}}}}
      - {{name: oracle, args: {{world: reflective}}}}
"""


def test_a_recipe_trains_its_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yaml"

    def identity(threshold: float = 0.5, at_once: int = 128, text: str = RECIPE) -> object:
        path.write_text(text.format(tiny=TINY, threshold=threshold, at_once=at_once))
        return identity_of(load_recipe(str(path)).recipe.stages["labels"])

    assert identity() == identity(at_once=7) != identity(0.4)
    identity()
    dry = CliRunner().invoke(main, ["train", str(path), "--dry-run"], catch_exceptions=False)
    assert dry.exit_code == 0 and "judge prm: ${stage:prm} is not there yet; unchecked" in dry.output, dry.output
    done = CliRunner().invoke(main, ["train", str(path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    [file] = (tmp_path / "run" / "stages" / "labels" / "labels").iterdir()
    votes = [json.loads(line)["votes"] for line in file.open()]
    assert [vote["judge"] for vote in votes[0]] == ["0.prm", "1.oracle"] and len(votes) == 12
    settings = json.loads((tmp_path / "run" / "stages" / "labels" / "settings.json").read_text())
    assert "stages" not in json.dumps(settings)  # no path of this machine
    again = CliRunner().invoke(main, ["train", str(path)], catch_exceptions=False)
    assert again.output.count("skipped") == 2, again.output
    path.write_text(path.read_text().replace("${stage:prm}", "${stage:prn}"))
    wrong = CliRunner().invoke(main, ["train", str(path), "--dry-run"])
    assert wrong.exit_code == 2 and "there is no stage 'prn'" in wrong.output
