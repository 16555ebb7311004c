"""report.html, the pictures and the run listing, from run directories on disk."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
import threading
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from reasonrl.errors import RunError
from reasonrl.observe import MetricsWriter, read_metrics
from reasonrl.observe.plots import TRAINING_PLOTS, plot_pass_at_k, running_mean
from reasonrl.observe.report import pick, shorten, write_report
from reasonrl.observe.rundir import RunView
from reasonrl.observe.runs import compare_runs, list_runs, tail_run

sys.path.insert(0, str(Path(__file__).parent))
from demo_run import CONFIG, finish, ppo_line, write_ppo, write_run

PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """What a browser would see: tags, text, links and images."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("href", "src") and value is not None:
                (self.images if tag == "img" else self.links).append(value)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("runs") / "demo")
    write_report(run)
    return run


def test_the_report_is_one_file_without_network_or_script(demo: Path) -> None:
    text = (demo / "report.html").read_text()
    page = Page(text)
    assert "script" not in page.tags and "iframe" not in page.tags and "link" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert len(page.images) > 15 and all(image.startswith("data:image/png;base64,") for image in page.images)
    assert "http://" not in text and "https://" not in text and "@import" not in text and "url(" not in text
    assert page.tags.count("table") >= 5


def test_every_inlined_picture_is_also_a_file(demo: Path) -> None:
    page = Page((demo / "report.html").read_text())
    inlined = {base64.b64decode(image.partition(",")[2]) for image in page.images}
    on_disk = {path.read_bytes() for path in (demo / "plots").glob("*.png")}
    assert inlined == on_disk and all(content.startswith(PNG) for content in on_disk)
    names = {path.name for path in (demo / "plots").iterdir()}
    wanted = "reward accuracy length truncation entropy clip_fraction kl explained_variance step_time"
    assert {f"rl_{name}.png" for name in wanted.split()} <= names
    assert {"start_losses.png", "evaluate_accuracy.png", "evaluate_pass_at_k.png"} <= names
    assert "start_reward.png" not in names and "rl_token_accuracy.png" not in names


def test_text_of_models_and_recipes_stays_text(demo: Path) -> None:
    page = Page((demo / "report.html").read_text())
    everything = "".join(page.texts)
    assert "<script>alert(60)</script>" in everything and "<script>alert(1)</script>" in everything
    assert "last digit & <end>?" in everything and "unseen: a <b>note</b>" in everything and "b" not in page.tags[:5]
    assert (
        "reasonrl train <demo>" in everything
        and "versions.torch" in everything
        and "learning_rate: 0.0001" in everything
    )


def test_tables_completions_and_last_figures_are_shown(demo: Path) -> None:
    everything = "".join(Page((demo / "report.html").read_text()).texts)
    assert "+22.0 [+20.0, +24.0]" in everything and "72.0 [69.0, 75.0]" in everything and "baseline" in everything
    for title in ("Completions: step 1", "Completions: step 60", "Completions: unseen"):
        assert title in everything
    assert "Completions: step 30" not in everything
    assert re.search(r"rl\s*ppo\s*done\s*60", everything) and "3 min 10 s" in everything


def test_a_second_report_is_the_same_and_drops_pictures_of_what_is_gone(demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "demo"
    shutil.copytree(demo, run)
    before = (run / "report.html").read_bytes()
    write_report(run)
    assert (run / "report.html").read_bytes() == before
    shutil.rmtree(run / "stages" / "rl")
    write_report(run)
    assert not list((run / "plots").glob("rl_*.png")) and "waiting" in (run / "report.html").read_text()


def test_a_run_that_has_hardly_begun_has_a_report_too(tmp_path: Path) -> None:
    (tmp_path / "stages" / "rl").mkdir(parents=True)
    (tmp_path / "stages" / "rl" / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "rew')
    (tmp_path / "stages" / "rl" / "done.json").write_text('{"half')
    text = "".join(Page(write_report(tmp_path).read_text()).texts)
    assert "unfinished" in text and "Not recorded." in text
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["rl_reward.png"]
    with pytest.raises(RunError, match="no run directory"):
        write_report(tmp_path / "plots")


@pytest.mark.parametrize("name", TRAINING_PLOTS)
def test_a_picture_is_drawn_from_its_metric_alone_and_not_without_it(tmp_path: Path, name: str) -> None:
    plot = TRAINING_PLOTS[name]
    assert plot([], tmp_path / "none.png") is None
    assert plot([{"step": 1, "other": 1.0}, {"step": 2, "reward_std": 0.1}], tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()
    records = [ppo_line(step) | {"mean_token_accuracy": 0.5} for step in range(1, 50)]
    whole = plot(records, tmp_path / "whole.png")
    assert whole is not None and whole.read_bytes().startswith(PNG)
    holes = [{key: value for key, value in record.items() if (len(key) + record["step"]) % 3} for record in records]
    holes = [record | {"step": number} for number, record in enumerate(holes)]
    for few in (records[:1], [*records[:2], {**records[3], "reward": float("nan"), "entropy": None}], holes):
        assert plot(few, tmp_path / "few.png") is not None


def test_pass_at_k_needs_two_points(tmp_path: Path) -> None:
    entry = {"pass@k": {"1": {"value": 0.5, "low": 0.4, "high": 0.6}}}
    assert plot_pass_at_k({"suites": {"one": entry}}, tmp_path / "none.png") is None


def test_running_mean_keeps_a_line_and_its_ends() -> None:
    assert running_mean([1.0, 2.0, 3.0, 4.0, 5.0], 3) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert running_mean([0.0, 3.0, 0.0], 3) == [0.0, 1.0, 0.0]


def test_samples_shown_differ_in_verdict_and_long_text_is_cut_in_the_middle() -> None:
    rows = [{"verdict": "wrong", "id": index} for index in range(8)] + [{"verdict": "correct", "id": 8}]
    assert [row["id"] for row in pick(rows, 3)] == [0, 8, 1] and pick([], 3) == []
    assert shorten("a" * 60 + "b" * 60, 100) == "a" * 50 + "\n… 20 characters left out …\n" + "b" * 50


def test_stages_of_a_loop_and_of_a_shared_run_are_found(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "recipe": "looped",
        "stages": {name: {"kind": "sft"} for name in ("warm", "a", "b", "late")},
    }
    run = tmp_path / "one"
    for name in ("warm", "a.1", "b.1", "a.2", "a.10", "a.2.old-1"):
        finish(run / "stages" / name, {})
    other = tmp_path / "two" / "stages" / "late"
    write_ppo(other, steps=2)
    finish(run / "stages" / "late", {})
    record = json.loads((run / "stages" / "late" / "done.json").read_text()) | {
        "shared_from": "../../../two/stages/late"
    }
    (run / "stages" / "late" / "done.json").write_text(json.dumps(record))
    (run / "config.yaml").write_text(json.dumps(config))
    write_report(run)
    assert [stage.name for stage in RunView(run).stages] == ["warm", "a.1", "b.1", "a.2", "a.10", "late"]
    listing = list_runs(run)
    assert "  6 done " in listing and "old" not in listing
    assert (run / "plots" / "late_reward.png").exists()


def test_listing_shows_every_run_with_state_and_figures(demo: Path, tmp_path: Path) -> None:
    root = demo.parent
    study = root / "study" / "default-seed0"
    (study / "stages" / "rl").mkdir(parents=True)
    (study / "config.yaml").write_text("recipe: other\nstages: {rl: {kind: ppo}, evaluate: {kind: eval}}\n")
    with MetricsWriter(study / "stages" / "rl" / "metrics.jsonl") as writer:
        writer.write(ppo_line(1))
    lines = list_runs(root).splitlines()
    assert len(lines) == 4 and lines[0].split() == ["run", "recipe", "stages", "steps", "last", "figures", "age"]
    assert "  4 done " in lines[2] and "72.0 [69.0, 75.0]" in lines[2]
    assert (
        "study/default-seed0" in lines[3]
        and "rl unfinished, evaluate waiting (0 of 2 done)" in lines[3]
        and "accuracy" in lines[3]
    )
    assert list_runs(tmp_path / "none") == f"no runs under {tmp_path / 'none'}"
    shutil.rmtree(root / "study")


def test_tail_shows_the_last_steps_of_the_stage_written_last(demo: Path) -> None:
    time.sleep(0.01)
    (demo / "stages" / "rl" / "metrics.jsonl").touch()
    lines = list(tail_run(demo, lines=2))
    assert lines[0] == "rl:" and [line.split("  ")[0] for line in lines[1:]] == ["step 59", "step 60"]
    assert len(list(tail_run(demo / "stages" / "start", lines=100))) == 31
    with pytest.raises(RunError, match="no run directory"):
        list(tail_run(demo / "plots"))


def test_tail_follows_new_steps_and_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "stages" / "rl" / "metrics.jsonl"
    writer = MetricsWriter(path)
    for step in (1, 2, 3):
        writer.write({"step": step, "reward": step / 10})
    seen: list[str] = []

    def follow() -> None:
        for line in tail_run(tmp_path, lines=1, follow=True):
            seen.append(line)
            if line.startswith("step 9"):
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()

    def wait_for(text: str) -> None:
        end = time.monotonic() + 120
        while not any(line.startswith(text) for line in seen):
            assert time.monotonic() < end, seen
            time.sleep(0.05)

    wait_for("step 3")
    writer.write({"step": 4, "reward": 0.4})
    wait_for("step 4")
    writer.truncate_after(2)
    wait_for("(resumed after step 2)")
    writer.write({"step": 3, "reward": 0.33})
    writer.write({"step": 9, "reward": 0.9})
    thread.join(timeout=120)
    assert not thread.is_alive()
    assert [line.split("  ")[0] for line in seen] == [
        "rl:",
        "step 3",
        "step 4",
        "(resumed after step 2)",
        "step 3",
        "step 9",
    ]


def test_compare_shows_figures_side_by_side_and_the_keys_that_differ(demo: Path, tmp_path: Path) -> None:
    other = json.loads(json.dumps(CONFIG))
    other["stages"]["rl"]["learning_rate"] = 3e-4
    other["stages"]["rl"]["beta"] = 0.1
    second = write_run(tmp_path / "second", other, lift=0.1)
    text = compare_runs([demo, second])
    header = next(line for line in text.splitlines() if line.strip().startswith("figure"))
    assert header.split() == ["figure", "demo", "second"]
    row = next(
        line for line in text.splitlines() if "evaluate: unseen " in line and "greedy" not in line and "@" not in line
    )
    assert "72.0 [69.0, 75.0]" in row and "60.0 [57.0, 63.0]" in row
    differing = text.partition("config key that differs")[2]
    assert re.search(r"stages\.rl\.learning_rate\s+0\.0001\s+0\.0003", differing)
    assert re.search(r"stages\.rl\.beta\s+0\.1", differing) and "stages.start" not in differing
    assert "compare: unseen accuracy, after - before" in text
    assert "equal" in compare_runs([demo, demo])
    last = read_metrics(second / "stages" / "rl" / "metrics.jsonl")[-1]["reward"]
    assert re.search(rf"rl: reward\s+{last:.3f}\s+{last:.3f}", text)


def test_alarms_stand_in_the_report_with_their_steps(tmp_path: Path) -> None:
    metrics = tmp_path / "stages" / "rl" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    lines: list[dict[str, Any]] = [{"step": step, "reward": 0.5} for step in range(1, 61)]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Alarm" not in write_report(tmp_path).read_text()
    for step, name in ((3, "truncation"), (9, "ratio"), (10, "ratio")):
        lines[step - 1][f"alarm/{name}"] = 1
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = write_report(tmp_path).read_text()
    assert "Alarm ratio: in 2 of 60 steps, first 9, last 10" in text
    assert "Alarm truncation: in 1 of 60 steps, first 3, last 3" in text and text.count("Alarm ") == 2
