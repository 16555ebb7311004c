"""Questions as a file and replies from a file: what a provider's batch would do is done by posting to a real server."""

from __future__ import annotations

import json
import random
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "prm"))
from judge_world import Act, ScriptedServer, Seen, honest, row_of

from reasonrl.cli import main

KINDS = [["right", "right"], ["right", "error", "propagation"], ["error", "cessation", "right"]]


def recipe_at(folder: Path, url: str, output: str) -> str:
    endpoint = {"base_url": url, "model": "judge", "max_concurrency": 4, "price": {"input": 1.0}}
    stage = {
        "kind": "annotate",
        "data": {"path": str(folder / "in.jsonl")},
        "segment": {"shortest": 0, "longest": 100},
        "judges": [{"name": "endpoint", "args": {"endpoint": endpoint, "votes": 2, "re_asks": 0}}],
        "shard_size": 5,
    }
    path = folder / f"{output}.yaml"
    path.write_text(json.dumps({"recipe": "labels", "output": str(folder / output), "stages": {"annotate": stage}}))
    return str(path)


def call(*words: Any, status: int = 0) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.output


def carried_out(requests: Path, replies: Path, url: str, seed: int = 0) -> None:
    """The batch, in another order, with a line that is none and a reply that nobody asked for."""
    lines = [json.loads(line) for line in requests.read_text().splitlines()]
    random.Random(seed).shuffle(lines)
    stranger = {"custom_id": "0-0-0-0-ffffffffffffffff", "response": {"status_code": 200, "body": {}}}
    made = ["{torn", json.dumps(stranger)]
    for line in lines:
        assert line["method"] == "POST" and line["url"] == "/v1/chat/completions"
        reply: dict[str, Any] = {"custom_id": line["custom_id"], "error": None}
        asked = urllib.request.Request(
            url + "/chat/completions", json.dumps(line["body"]).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(asked, timeout=20) as found:
                reply["response"] = {"status_code": 200, "body": json.load(found)}
        except urllib.error.HTTPError as problem:
            reply["response"] = {"status_code": problem.code, "body": {"error": "busy"}}
        made.append(json.dumps(reply))
    replies.write_text("\n".join(made) + "\n")


def files(folder: Path, output: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / output / "stages/annotate/labels").iterdir())}


def test_a_batch_makes_the_labels_that_the_endpoint_would(tmp_path: Path) -> None:
    rows = [row_of(number, KINDS[number % 3]) for number in range(23)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ill = True

    def script(seen: Seen, number: int) -> Act:
        if ill and ("Line 7.0" in seen.prompt or "Line 8.0" in seen.prompt):
            return Act("no") if "Line 7.0" in seen.prompt else Act(status=500)
        return honest(seen, number)

    out, back = tmp_path / "requests.jsonl", tmp_path / "replies.jsonl"
    with ScriptedServer(script) as server:
        recipe = recipe_at(tmp_path, server.url, "batch")
        assert "46 requests" in call("annotate", recipe, "--batch-out", out) and len(server.seen) == 0
        assert not (tmp_path / "batch/stages/annotate/done.json").exists()
        assert "is there already" in call("annotate", recipe, "--batch-out", out, status=2)
        carried_out(out, back, server.url)

        part = tmp_path / "part.jsonl"  # half of the batch comes first
        lines = back.read_text().splitlines(keepends=True)
        part.write_text("".join(lines[:20]))
        said = call("annotate", recipe, "--batch-in", part)
        assert "18 replies taken in, 1 to no open question" in said and "1 lines cannot be read" in said
        said = call("annotate", recipe, "--batch-in", back)
        assert "28 replies taken in" in said and "21 solutions with" in said and "2 failed" in said
        assert "0 replies taken in" in call("annotate", recipe, "--batch-in", back) and len(server.seen) == 46
        failed = (tmp_path / "batch/stages/annotate/failed.jsonl").read_text()
        assert "error in place of a reply" in failed and "no JSON object" in failed

        ill = False
        again, returned = tmp_path / "again.jsonl", tmp_path / "returned.jsonl"
        assert "4 requests" in call("annotate", recipe, "--retry-failed", "--batch-out", again)
        carried_out(again, returned, server.url, 1)
        assert "23 solutions" in call("annotate", recipe, "--batch-in", returned)
        call("annotate", recipe_at(tmp_path, server.url, "live"))
    assert files(tmp_path, "batch") == files(tmp_path, "live")
    index = json.loads((tmp_path / "batch/stages/annotate/index.json").read_text())
    assert index["usage"]["asked"] == 50 and index["usage"]["cost"] == pytest.approx(
        index["usage"]["prompt_tokens"] / 1e6
    )
