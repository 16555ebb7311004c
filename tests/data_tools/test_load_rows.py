"""Reading rows: every format and layout from real files, bad rows counted with their places, ids that stay."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reasonrl.data_tools import load_rows
from reasonrl.data_tools.worlds import get_world
from reasonrl.errors import DataError, ReasonRLError

QA = [
    {"question": "1+1?", "answer": "so #### 2"},
    {"question": "2+2?", "answer": "4"},
    {"question": "3+3?", "answer": 6},
]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(row["problem"], row["answer"]) for row in rows]


EXPECTED = [("1+1?", "2"), ("2+2?", "4"), ("3+3?", "6")]


def test_the_same_rows_from_every_format(tmp_path: Path) -> None:
    import pandas
    from datasets import Dataset, DatasetDict

    text_rows = [{key: str(value) for key, value in row.items()} for row in QA]
    jsonl = write_jsonl(tmp_path / "a.jsonl", QA)
    (tmp_path / "a.json").write_text(json.dumps(QA))
    (tmp_path / "split.json").write_text(json.dumps({"train": QA, "test": QA[:1]}))
    with gzip.open(tmp_path / "b.jsonl.gz", "wb") as stream:
        stream.write(jsonl.read_bytes())
    pandas.DataFrame(text_rows).to_csv(tmp_path / "a.csv", index=False)
    pandas.DataFrame(text_rows).to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    pandas.DataFrame(text_rows).to_parquet(tmp_path / "a.parquet")
    Dataset.from_list(text_rows).save_to_disk(str(tmp_path / "saved"))
    DatasetDict({"train": Dataset.from_list(text_rows)}).save_to_disk(str(tmp_path / "saved_splits"))
    ids = [row["id"] for row in load_rows(jsonl)]
    assert len(set(ids)) == 3
    for name, split in [
        ("a.jsonl", None),
        ("b.jsonl.gz", None),
        ("a.json", None),
        ("split.json", "train"),
        ("a.csv", None),
        ("a.tsv", None),
        ("a.parquet", None),
        ("saved", None),
        ("saved_splits", "train"),
    ]:
        rows = load_rows(tmp_path / name, split=split)
        assert pairs(rows) == EXPECTED, name
        assert [row["id"] for row in rows] == ids, name


def test_bad_rows_are_counted_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "torn.jsonl"
    good = json.dumps({"problem": "p", "answer": "1"})
    lines = [
        good,
        '{"problem": "q", "ans',
        "",
        '{"problem": "", "answer": "1"}',
        '{"answer": "1"}',
        '{"problem": "x"}',
        "[1]",
        '{"problem": 5, "answer": "1"}',
    ]
    path.write_bytes("\n".join(lines).encode() + b'\n{"problem": "\xff", "answer": "1"}\n' + good.encode())
    rows = load_rows(path)
    report = rows.report
    assert (report.read, report.kept, report.repeated) == (9, 2, 1)
    assert report.dropped == {
        "torn or invalid JSON": 1,
        "empty problem": 1,
        "missing problem": 1,
        "missing answer": 1,
        "not an object but a list": 1,
        "problem is not text but a int": 1,
        "not UTF-8": 1,
    }
    assert report.examples["torn or invalid JSON"] == [f"{path}:2"]
    assert report.examples["not UTF-8"] == [f"{path}:9"]
    assert "2 of 9 rows kept" in str(report) and f"{path}:4" in str(report)
    assert rows[0]["id"] != rows[1]["id"]


def test_bom_and_unusual_line_breaks_inside_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps({"problem": "a\u2028b", "answer": "1"}, ensure_ascii=False).encode() + b"\r\n"
    )
    assert pairs(load_rows(path)) == [("a\u2028b", "1")]


def test_verl_layout(tmp_path: Path) -> None:
    import pandas

    prompt = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "6*7?"}]
    row = {
        "data_source": "x",
        "prompt": prompt,
        "reward_model": {"style": "rule", "ground_truth": "42"},
        "extra_info": {"index": 0},
        "rate": 0.5,
    }
    pandas.DataFrame([row]).to_parquet(tmp_path / "train.parquet")
    (read,) = load_rows(tmp_path, split="train")
    assert (read["problem"], read["answer"], read["prompt"]) == ("6*7?", "42", prompt)
    assert read["data_source"] == "x" and read["rate"] == 0.5


def test_trl_layouts(tmp_path: Path) -> None:
    user = [{"role": "user", "content": "6*7?"}]
    rows = [
        {"prompt": user, "solution": "$42$"},
        {"prompt": "6*7?", "completion": "It is \\boxed{42}."},
        {"prompt": user, "completion": [{"role": "assistant", "content": "It is \\boxed{42}."}]},
        {"messages": [*user, {"role": "assistant", "content": "Well. \\boxed{\\frac{84}{2}}"}]},
    ]
    read = load_rows(write_jsonl(tmp_path / "a.jsonl", rows))
    assert [row["answer"] for row in read] == ["$42$", "42", "42", "\\frac{84}{2}"]
    assert {row["problem"] for row in read} == {"6*7?"}
    assert [row.get("prompt") for row in read] == [user, None, user, user]
    assert read[3]["solution"].startswith("Well.")


def test_gold_answers_are_bare(tmp_path: Path) -> None:
    cells: list[tuple[Any, str]] = [
        ("16 - 3 = <<16-3=13>>13\n#### 1,300", "1,300"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        (27.0, "27"),
        (0.5, "0.5"),
        (["7"], "7"),
        (" x+1 ", "x+1"),
    ]
    rows = load_rows(
        write_jsonl(tmp_path / "a.jsonl", [{"problem": f"p{n}", "answer": cell} for n, (cell, _) in enumerate(cells)])
    )
    assert [row["answer"] for row in rows] == [gold for _, gold in cells]
    assert rows[0]["solution"].endswith("#### 1,300") and "solution" not in rows[1]


def test_columns_map_and_reach_into_nested_ones(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "1+1?", "meta": {"gold": "2"}, "id": 7}])
    (row,) = load_rows(path, columns={"problem": "q", "answer": "meta.gold"})
    assert (row["id"], row["problem"], row["answer"], row["meta"]) == ("7", "1+1?", "2", {"gold": "2"})
    with pytest.raises(DataError, match=r"no column 'qq'.*columns of its first row: q, meta, id"):
        load_rows(path, columns={"problem": "qq"})
    with pytest.raises(DataError, match="did you mean 'problem'"):
        load_rows(path, columns={"problm": "q"})


def test_ids_are_the_rows_own_where_unique_and_else_of_the_content(tmp_path: Path) -> None:
    rows = [{"id": i, "problem": f"p{n}", "answer": "1"} for n, i in enumerate(["a", "b", "b", None])]
    first = [row["id"] for row in load_rows(write_jsonl(tmp_path / "a.jsonl", rows))]
    again = [row["id"] for row in load_rows(write_jsonl(tmp_path / "b.jsonl", rows[::-1]))]
    assert first[0] == "a" and "b" not in first and len(set(first)) == 4
    assert again == first[::-1]


def test_keep_shuffle_and_limit(tmp_path: Path) -> None:
    rows = [{"problem": f"p{n}", "answer": "1", "rate": n / 10, "name": "x"} for n in range(10)] + [
        {"problem": "z", "answer": "1"}
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    read = load_rows(path, keep="0.2 <= rate < 0.8", shuffle=True, seed=1, limit=4)
    assert all(0.2 <= row["rate"] < 0.8 for row in read)
    assert (len(read), read.report.filtered, read.report.beyond_limit) == (4, 4, 2)
    assert read.report.dropped == {"keep: no number in rate": 1}
    assert pairs(load_rows(path, keep="0.2 <= rate < 0.8", shuffle=True, seed=1, limit=4)) == pairs(read)
    whole = [row["id"] for row in load_rows(path)]
    shuffled = [row["id"] for row in load_rows(path, shuffle=True, seed=1)]
    assert shuffled != whole and sorted(shuffled) == sorted(whole)
    with pytest.raises(ReasonRLError, match="rate"):
        load_rows(path, keep="rat > 1")
    with pytest.raises(DataError, match="leaves none"):
        load_rows(path, keep="rate > 5")


def test_keep_reads_numbers_out_of_csv_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("problem,answer,rate\np,1,0.5\nq,2,0.9\nr,3\n")
    rows = load_rows(tmp_path / "a.csv", keep="rate > 0.6")
    assert pairs(rows) == [("q", "2")]
    assert rows.report.dropped == {"fewer cells than the header's 3": 1}


def test_folders_and_patterns(tmp_path: Path) -> None:
    for shard in range(2):
        write_jsonl(tmp_path / f"train-0000{shard}-of-00002.jsonl", [{"problem": f"t{shard}", "answer": "1"}])
    write_jsonl(tmp_path / "test.jsonl", [{"problem": "e", "answer": "1"}])
    (tmp_path / "README.md").write_text("not data")
    assert [p for p, _ in pairs(load_rows(tmp_path, split="train"))] == ["t0", "t1"]
    assert [p for p, _ in pairs(load_rows(str(tmp_path / "train-*.jsonl")))] == ["t0", "t1"]
    assert [p for p, _ in pairs(load_rows([tmp_path / "test.jsonl", tmp_path / "train-00000-of-00002.jsonl"]))] == [
        "e",
        "t0",
    ]

    with pytest.raises(DataError, match=r"several splits \(test, train\)"):
        load_rows(tmp_path)
    with pytest.raises(DataError, match="did you mean 'train'"):
        load_rows(tmp_path, split="tran")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"not parquet", "not a readable parquet file"),
        ("a.json", b"{not json", "not valid JSON.*set format: jsonl"),
        ("a.json", b"7", "a int at the top"),
        ("a.jsonl", b"", "no usable row: it holds no rows"),
        ("a.jsonl", b"\x00\xff\n", "not UTF-8"),
        ("a.csv", b'problem,answer\n"torn,1\n', "broken near line"),
        ("a.txt", b"x", "tells no format.*allowed: jsonl"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_rows(tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of path, hub and world; given: none"),
        ({"path": "x", "world": "arithmetic"}, "given: path, world"),
        ({"path": "nowhere.jsonl"}, "no such file or folder"),
        ({"world": "arithmetic"}, "set n"),
        ({"world": "aritmetic", "n": 2}, "did you mean 'arithmetic'"),
        ({"world": "arithmetic", "n": 2, "args": {"colour": 1}}, "colour"),
        ({"world": "arithmetic", "n": 2, "limit": 0}, "limit=0"),
        ({"path": [], "split": "train"}, "empty list"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_rows(**arguments)


def test_world_rows_are_the_worlds_own() -> None:
    rows = load_rows(world="arithmetic", n=20, seed=3, split="test")
    own = get_world("arithmetic").rows(20, split="test", seed=3)
    assert pairs(rows) == pairs(own)
    assert len({row["id"] for row in rows}) == 20


def test_a_reader_from_the_users_file_and_from_an_installed_plugin(tmp_path: Path) -> None:
    (tmp_path / "my_reader.py").write_text(
        "def read(path):\n    for line in path.read_text().splitlines():\n        q, _, a = line.partition('|')\n      "
        "  yield {'problem': q, 'answer': a}\n"
    )
    (tmp_path / "rows.txt").write_text("1+1?|2\n2+2?|4\n")
    rows = load_rows(tmp_path / "rows.txt", format="my_reader.py:read", base_dir=tmp_path)
    assert pairs(rows) == [("1+1?", "2"), ("2+2?", "4")]
    with pytest.raises(DataError, match=r"does not define 'reed'.*did you mean 'read'"):
        load_rows(tmp_path / "rows.txt", format="my_reader.py:reed", base_dir=tmp_path)
    info = tmp_path / "pipes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pipes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[reasonrl.readers]\npiped = my_reader:read\n")
    program = (
        "from reasonrl.data_tools import load_rows; print([r['answer'] for r in load_rows('rows.txt', format='piped')])"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.stdout.strip() == "['2', '4']", run.stderr


def test_a_hub_out_of_reach_is_one_clear_error(tmp_path: Path) -> None:
    program = "from reasonrl.data_tools import load_rows; load_rows(hub='openai/gsm8k', name='main')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("reasonrl.errors.DataError: hub dataset 'openai/gsm8k'") and "set path to the file" in last


def real_data() -> Path:
    folder = os.environ.get("REASONRL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("REASONRL_DATA names no folder with real data")
    return Path(folder)


@pytest.mark.parametrize(
    ("source", "split", "read", "kept"),
    [
        ("gsm8k", "train", 7473, 7473),
        ("math_train/train.jsonl", None, 7498, 7496),
        ("math500", "test", 500, 500),
        ("bigmath_rl_5k", None, 5000, 4999),
    ],
)
def test_real_rows_need_no_mapping(source: str, split: str | None, read: int, kept: int) -> None:
    rows = load_rows(real_data() / source, split=split)
    assert (rows.report.read, len(rows)) == (read, kept)
    assert len({row["id"] for row in rows}) == kept
    assert all(row["problem"].strip() and row["answer"].strip() and "####" not in row["answer"] for row in rows)


def test_columns_of_mixed_sources_come_to_one_kind() -> None:
    from reasonrl.data_tools.layout import in_one_kind

    rows = [
        {"level": "Level 3", "n": 1, "tags": ["a"]},
        {"level": 3, "n": 1.5},
        {"level": None, "tags": {"b": 1}, "x": True},
    ]
    assert in_one_kind(rows) == [
        {"level": "Level 3", "n": 1, "tags": '["a"]', "x": None},
        {"level": "3", "n": 1.5, "tags": None, "x": None},
        {"level": None, "n": None, "tags": '{"b": 1}', "x": True},
    ]
