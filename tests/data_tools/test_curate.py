"""Curation: every step against a plain count, damaged pictures by name, kills between steps."""

from __future__ import annotations

import io
import json
import random

import pytest

from reasonrl.data_tools.curate import (
    PictureRules,
    curate,
    decontaminate,
    deduplicate,
    drop_by_loss,
    drop_by_votes,
    join_samples,
    keep_when,
    mix,
    rules,
    stratify,
    take_in,
    with_columns,
)
from reasonrl.data_tools.curate.intake import Intake
from reasonrl.data_tools.curate.run import RECORD, ROWS
from reasonrl.data_tools.loading import load_rows, placed_rows
from reasonrl.errors import DataError

WORDS = "let a b triangle have sides of length three four five find the area of its circle and sum over all".split()  # noqa: SIM905


def placed(rows):
    return [(f"rows.jsonl:{number}", row) for number, row in enumerate(rows, start=1)]


def run(folder, rows, *steps, sources=None, **options):
    intakes = sources or {"one": Intake(placed(rows))}
    folder.mkdir(exist_ok=True)
    named = [(f"step{number}", step) for number, step in enumerate(steps)]
    made = curate(folder, lambda tally: take_in(intakes, tally, folder, **options), named)
    kept = [json.loads(line) for line in (folder / ROWS).read_text().splitlines()]
    assert made["kept"] == len(kept) and json.loads((folder / RECORD).read_text()) == made
    for one, after in zip(made["steps"], made["steps"][1:], strict=False):
        assert one["kept"] == after["read"]
    for one in made["steps"]:
        assert one["read"] + one["repeated"] == one["kept"] + sum(one["dropped"].values())
    return kept, made["steps"]


def ids(rows):
    return [row["id"] for row in rows]


def text(generator, words=30):
    return " ".join(generator.choice(WORDS) + str(generator.randrange(90)) for _ in range(words))


def test_rows_come_in_with_reasons_for_those_that_do_not(tmp_path):
    rows = [
        {"question": "1+1?", "answer": "2", "level": 3},
        {"question": "", "answer": "2", "level": 1},
        {"question": "3+3?", "answer": "6", "level": 9},
        {"question": "no level", "answer": "6"},
        {"id": "x", "question": "a", "answer": "1", "level": 1},
        {"id": "x", "question": "b", "answer": "1", "level": 1, "when": object()},
        {"id": "x", "question": "c", "answer": "1", "level": 1},
        {"id": "y", "question": "beyond", "answer": "1", "level": 1},
    ]
    sources = {"math": Intake(placed(rows), cap=3, keep="level < 5"), "more": Intake(placed(rows[:1]))}
    kept, (intake,) = run(tmp_path / "a", [], sources=sources, require=("problem", "answer"))
    assert [row["source"] for row in kept] == ["math"] * 3 + ["more"]
    assert ids(kept)[1:3] == ["x", "x-3"] and ids(kept)[3] == ids(kept)[0] + "-2"
    assert intake["dropped"] == {
        "empty problem": 1,
        "not level < 5": 1,
        "no number in level": 1,
        "cannot be written as JSON: Object of type object is not JSON serializable": 1,
    }
    assert intake["examples"]["not level < 5"] == [
        {"id": None, "place": "rows.jsonl:3", "source": "math", "problem": "3+3?"}
    ]
    named = [json.loads(line) for line in (tmp_path / "a" / "dropped" / "00-intake.jsonl").read_text().splitlines()]
    assert [one["place"] for one in named] == ["rows.jsonl:2", "rows.jsonl:3", "rows.jsonl:4", "rows.jsonl:6"]


def test_rules_and_conditions(tmp_path):
    options = "Which? A) one B) two"
    rows = [
        {"id": "ok", "problem": "Find x.", "answer": "3", "n": 2},
        {"id": "short", "problem": "x", "answer": "3", "n": 2},
        {"id": "proof", "problem": "Prove that x > 1.", "answer": "3", "n": 2},
        {"id": "two", "problem": options, "answer": "B", "n": 2},
        {"id": "three", "problem": options + " C) three", "answer": "B", "n": 2},
        {"id": "no digit", "problem": "Find y.", "answer": "why", "n": 2},
        {"id": "low", "problem": "Find z.", "answer": "3", "n": 0},
    ]
    step = rules({"problem": (3, 100)}, {"problem": [r"\bprove\b"]}, {"answer": [r"\d|^[A-H]$"]}, options_from=3)
    kept, steps = run(tmp_path / "a", rows, step, keep_when("n >= 1"))
    assert ids(kept) == ["ok", "three"]
    assert {reason: one[0]["id"] for reason, one in steps[1]["examples"].items()} == {
        "problem under 3 characters": "short",
        "problem has '\\\\bprove\\\\b'": "proof",
        "fewer than 3 options": "two",
        "answer lacks '\\\\d|^[A-H]$'": "no digit",
    }
    assert steps[2]["dropped"] == {"not n >= 1": 1}
    with pytest.raises(DataError, match=r"the pattern '\(' of problem"):
        rules(drop={"problem": ["("]})
    with pytest.raises(DataError, match="01-step0: 0 of 2 rows kept; 2 x not n > 5"):
        run(tmp_path / "b", [rows[0], rows[2]], keep_when("n > 5"))


def test_duplicates_are_those_of_a_plain_comparison_of_all_pairs(tmp_path):
    from reasonrl.data_tools.near import jaccard, shingles

    generator = random.Random(0)
    rows = []
    for number in range(120):
        base = text(generator)
        rows.append({"id": f"o{number}", "problem": base, "answer": "1"})
        kind = number % 4
        if kind == 0:
            rows.append({"id": f"same{number}", "problem": base.upper() + " !", "answer": "1"})
        elif kind == 1:
            words = base.split()
            words[generator.randrange(30)] = "other"
            rows.append({"id": f"near{number}", "problem": " ".join(words), "answer": "1"})
        elif kind == 2:
            rows.append(
                {"id": f"half{number}", "problem": " ".join(base.split()[:15]) + text(generator, 15), "answer": "1"}
            )
    share = 0.65
    kept, steps = run(tmp_path / "a", rows, deduplicate(share))
    wanted, runs = [], []
    for row in rows:
        mine = shingles(row["problem"])
        if all(jaccard(mine, other) < share for other in runs):
            wanted.append(row["id"])
            runs.append(mine)
    assert ids(kept) == wanted and 40 < len(rows) - len(kept) < 80
    assert steps[1]["dropped"]["duplicate"] == 30
    assert steps[1]["examples"]["duplicate"][0] == {
        "id": "same0", "of": "o0", "share": 1.0, "problem": rows[1]["problem"][:160] + "…",
    }  # fmt: skip


def test_suites_are_kept_out_word_for_word_and_in_runs(tmp_path):
    generator = random.Random(1)
    suite = [{"id": f"t{number}", "problem": text(generator)} for number in range(5)] + [
        {"id": "short", "problem": "What is 2 + 2?"}
    ]
    rows = [
        {"id": "copy", "problem": suite[0]["problem"].replace(" ", "  ").upper()},
        {"id": "inside", "problem": "Read this: " + suite[1]["problem"] + " and say why."},
        {"id": "part", "problem": " ".join(suite[2]["problem"].split()[:14]) + text(generator, 16)},
        {"id": "brief", "problem": "what is $2+2$"},
        {"id": "new", "problem": text(generator)},
    ]
    kept, steps = run(tmp_path / "a", rows, decontaminate({"exam": suite}, words=10))
    assert ids(kept) == ["part", "new"]
    assert steps[1]["dropped"] == {"the same words as in exam": 2, "runs of 10 words as in exam": 1}
    assert steps[1]["figures"] == {"suite_problems": 6, "too_short_for_ngrams": 1}
    assert steps[1]["examples"]["runs of 10 words as in exam"][0]["of"] == "t1"


def test_strata_and_sources_in_given_shares(tmp_path):
    rows = [{"id": str(n), "problem": f"p{n}", "answer": "1", "level": n % 10} for n in range(2000)]
    step = stratify("level", bins=[3, 6], weights={"..3": 0.5, "6..": 2, "9..": 1}, cap=500)
    kept, steps = run(tmp_path / "a", rows, step)
    counts = steps[1]["figures"]["strata"]
    assert counts["3..6"] == [600, 500] and counts["6.."] == [800, 1000] and counts["..3"][0] == 600
    assert abs(counts["..3"][1] - 250) < 50 and steps[1]["figures"]["not_met"] == ["9.."]
    assert len(set(ids(kept))) == len(kept) and sum(name.endswith("~2") for name in ids(kept)) == 500
    again, _ = run(tmp_path / "b", rows[::-1], step)
    assert set(ids(again)) == set(ids(kept))

    sources = {
        name: Intake(placed([{"id": f"{name}{n}", "problem": f"{name} {n}"} for n in range(count)]))
        for name, count in (("text", 900), ("eye", 150), ("odd", 10))
    }
    kept, steps = run(tmp_path / "c", [], mix({"text": 1, "eye": 1}, caps={"text": 600}), sources=sources)
    assert steps[1]["figures"] == {"sources": {"eye": [150, 150], "text": [600, 150]}, "short_of_share": {}}
    assert steps[1]["dropped"] == {
        "over the cap of text": 300,
        "beyond the share of text": 450,
        "odd has no weight": 10,
    }
    kept, steps = run(tmp_path / "d", [], mix({"text": 1, "eye": 1}, total=1000, repeats=2.5), sources=sources)
    assert steps[1]["figures"] == {"sources": {"eye": [150, 375], "text": [900, 500]}, "short_of_share": {"eye": 125}}
    assert len(set(ids(kept))) == len(kept) == 875
    with pytest.raises(DataError, match=r"there are no rows of ear -> sources: text"):
        run(tmp_path / "e", [], mix({"ear": 1}), sources={"text": Intake(placed(rows[:3]))})


def test_losses_votes_pass_rates_and_columns(tmp_path):
    rows = [{"id": str(n), "problem": f"p{n}", "solution": "s"} for n in range(100)]

    def losses(found):
        return ((row, None if row["id"] == "7" else float(row["id"]) / 10) for row in found)

    kept, steps = run(tmp_path / "a", rows, drop_by_loss(losses, top=0.05), drop_by_loss(losses, over=8.0))
    assert steps[1]["dropped"] == {"high loss": 4, "no loss (no solution)": 1} and steps[2]["kept"] == 80
    assert kept[0]["loss"] == 0 and steps[1]["examples"]["high loss"][0]["loss"] == 9.6

    def votes(found):
        return ((row, {0: [True] * 4, 1: [True, False] * 2, 2: "cut", 3: None}[int(row["id"]) % 4]) for row in found)

    kept, steps = run(tmp_path / "b", rows, drop_by_votes("checkable", votes), with_columns(lambda row: {"n_x": 1}))
    assert len(kept) == 50 and kept[0] == {**kept[0], "checkable": 1.0, "n_x": 1} and "checkable" not in kept[1]
    assert steps[1]["dropped"] == {
        "not checkable (2 of 4 votes)": 25,
        "checkable: the judge gave no verdict": 25,
    } and steps[1]["figures"] == {"votes": 200}
    assert steps[2]["figures"] == {"rows_with_n_x": 50}

    samples = [
        {"problem_id": str(n), "correct": None if k == 3 else k < n % 4, "length": 10, "finish_reason": "stop"}
        for n in range(99)
        for k in range(4)
    ]
    kept, steps = run(tmp_path / "c", rows, join_samples(lambda: samples, "0 < pass_rate < 1 and n_truncated == 0"))
    assert [row["pass_rate"] for row in kept[:2]] == [0.333333, 0.666667] and len(kept) == 50
    reasons = {reason.rpartition("(")[2]: count for reason, count in steps[1]["dropped"].items()}
    assert reasons == {"never right)": 25, "always right)": 24, "no scored samples": 1}


def png(width, height, colour="red", kind="PNG", **more):
    images = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    images.new("RGB", (width, height), colour).save(file, kind, **more)
    return file.getvalue()


def test_damaged_pictures_are_set_aside_by_name_and_the_rest_is_kept(tmp_path):
    images = pytest.importorskip("PIL.Image")
    home = tmp_path / "data"
    home.mkdir()
    good = png(40, 30)
    frames = [images.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    gif = io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    (home / "good.png").write_bytes(good)
    (home / "cut.png").write_bytes(png(300, 300, kind="PNG")[:-40])
    (home / "text.png").write_text("no picture")
    (home / "zero.png").write_bytes(b"")
    (home / "large.png").write_bytes(png(8000, 5000))
    (home / "moving.gif").write_bytes(gif.getvalue())
    names = ["good.png", "cut.png", "text.png", "zero.png", "large.png", "moving.gif", "gone.png"]
    rows = [{"id": name, "problem": "What <image> is this?", "answer": "1", "image": name} for name in names]
    rows += [{"id": "wide", "problem": "?", "answer": "1", "images": ["good.png", "good.png"]}]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    inside = [
        {"id": "bytes", "problem": "?", "images": [{"bytes": png(1200, 900), "path": None}]},
        {"id": "empty", "problem": "?", "images": [{"bytes": b"", "path": None}]},
        {"id": "text", "problem": "no picture at all"},
    ]
    sources = {"files": Intake(placed_rows(home / "rows.jsonl")), "hub": Intake(placed(inside))}
    looks = PictureRules(resize_to_pixels=250_000)
    kept, (intake,) = run(tmp_path / "out", [], sources=sources, pictures=looks)
    assert ids(kept) == ["good.png", "wide", "bytes", "text"]
    by_id = {one[0]["id"]: reason for reason, one in intake["examples"].items()}
    assert by_id == {
        "cut.png": "picture is broken",
        "zero.png": "picture has zero bytes",
        "large.png": "picture has more than 16,777,216 pixels",
        "moving.gif": "picture is animated",
        "gone.png": "picture file is missing",
    }
    assert intake["dropped"]["picture is broken"] == 2 and intake["dropped"]["picture has zero bytes"] == 2
    # What is kept is read by the ordinary reader, pictures as paths, the large one scaled down.
    found = load_rows(tmp_path / "out" / ROWS, require=("problem",))
    assert [len(row.get("images", ())) for row in found] == [1, 2, 1, 0]
    with images.open(found[2]["images"][0]) as shown:
        assert shown.size == (577, 433)
    # One question to two pictures is no duplicate; the same picture is.
    other = [{"id": name, "problem": "How many?", "images": [data]} for name, data in (
        ("red", png(9, 9)), ("blue", png(9, 9, "blue")), ("red again", png(9, 9, compress_level=1)))]  # fmt: skip
    kept, _ = run(tmp_path / "again", other, deduplicate(0.8))
    assert ids(kept) == ["red", "blue"]
    suite = [{"id": "s", "problem": "How many?", "images": [png(9, 9, "blue")]}]
    kept, _ = run(tmp_path / "suite", other, decontaminate({"exam": suite}))
    assert ids(kept) == ["red", "red again"]


def test_a_kill_between_steps_costs_one_step(tmp_path):
    rows = [{"id": str(n), "problem": text(random.Random(n)), "n": n} for n in range(50)]
    calls = []

    def noted(name, step, die=False):
        def wrapped(found, tally):
            calls.append(name)
            for number, row in enumerate(step(found, tally)):
                if die and number == 5:
                    raise KeyboardInterrupt
                yield row

        return wrapped

    def attempt(die):
        (tmp_path / "a").mkdir(exist_ok=True)
        steps = [
            ("a", noted("a", keep_when("n > 2"))),
            ("b", noted("b", keep_when("n > 4"), die)),
            ("c", deduplicate()),
        ]
        return curate(tmp_path / "a", lambda tally: take_in({"s": Intake(placed(rows))}, tally, tmp_path / "a"), steps)

    with pytest.raises(KeyboardInterrupt):
        attempt(True)
    assert not (tmp_path / "a" / ROWS).exists()
    made = attempt(False)
    assert calls == ["a", "b", "b"] and made["kept"] == 45
    assert attempt(False) == made and calls == ["a", "b", "b"]
    assert sorted(path.name for path in (tmp_path / "a" / "steps").iterdir()) == [
        "00-intake.json", "01-a.json", "02-b.json", "03-c.json",
    ]  # fmt: skip
