"""`reasonrl export --push` against a server on this machine that speaks the hub's upload protocol."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from test_export_model import run  # noqa: F401  a run directory with real weights


class Hub(ThreadingHTTPServer):
    """Takes repositories and commits of small files from who holds the token; `repositories[name][path]` is a file."""

    token = "hf_right"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {self.server.token}":
            return self._reply(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            self.server.private[name] = asked.get("visibility") == "private" or asked.get("private") is True
            return self._reply(200, {"url": f"{self.server.url}/{name}"})
        if self.path == "/api/validate-yaml":
            return self._reply(200, {"errors": [], "warnings": []})
        _, _, _, owner, name, action, revision = self.path.split("/")
        assert revision == "main"
        if action == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._reply(200, {"files": files})
        assert action == "commit"
        for line in map(json.loads, body.decode().splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.server.repositories[f"{owner}/{name}"][line["value"]["path"]] = content
        url = f"{self.server.url}/{owner}/{name}/commit/{'0' * 40}"
        return self._reply(200, {"commitUrl": url, "commitOid": "0" * 40, "pullRequestUrl": None})

    def _reply(self, status: int, answer: dict) -> None:
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Nothing: pytest shows enough."""


@contextmanager
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def export(server: Hub, run: Path, target: Path, *options: str, token: str = Hub.token):  # noqa: F811
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_TOKEN": token, "HF_HOME": str(target.parent / "hf")}
    environment |= {"HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-m", "reasonrl", "export", str(run), "rl", str(target), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_a_pushed_export_is_what_lies_in_the_folder(run: Path, tmp_path: Path) -> None:  # noqa: F811
    with hub() as server:
        done = export(server, run, tmp_path / "out", "--max-shard-size", "50KB", "--push", "acme/model", "--private")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"pushed to {server.url}/acme/model" in done.stdout
    written = {str(file.relative_to(tmp_path / "out")): file.read_bytes() for file in (tmp_path / "out").rglob("*.*")}
    assert server.repositories == {"acme/model": written} and server.private == {"acme/model": True}
    assert {"README.md", "config.json", "model.safetensors.index.json"} < set(written) and len(written) > 4
    source = load_file(run / "stages" / "rl" / "model" / "model.safetensors")
    assert set(json.loads(written["model.safetensors.index.json"])["weight_map"]) == set(source)


def test_what_the_hub_does_not_take_stays_in_the_folder(run: Path, tmp_path: Path) -> None:  # noqa: F811
    with hub() as server:
        done = export(server, run, tmp_path / "out", "--push", "acme/model", token="hf_wrong")
    assert done.returncode == 2 and server.repositories == {}
    assert "acme/model: the hub did not take it: " in done.stderr
    assert f"HF_TOKEN), or push {tmp_path / 'out'} by hand" in done.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()
