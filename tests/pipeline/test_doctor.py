"""The doctor on this machine, on broken machines, and against servers that answer or do not."""

from __future__ import annotations

import http.server
import json
import sys
import threading

import pytest

from reasonrl.pipeline import doctor
from reasonrl.pipeline.requirements import installed


def state(check) -> tuple[str, str]:
    return check.state, check.fix


def write_package(folder, name: str, version: str, requires: list[str] = (), python: str = ">=3.8") -> None:
    """An installed package, as metadata alone."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Name: {name}", f"Version: {version}", f"Requires-Python: {python}"]
    lines += [f"Requires-Dist: {text}" for text in requires]
    (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")


def test_versions_outside_the_range_are_named_with_the_command_that_mends_them(tmp_path, monkeypatch):
    write_package(tmp_path, "doctor-old", "0.9")
    write_package(tmp_path, "doctor-extra", "3.0")
    wants = ["doctor-old<3,>=1.2", "doctor-none>=1", "doctor-extra<3; extra == 'more'", "doctor-off>=9; extra == 'dev'"]
    write_package(tmp_path, "doctor-subject", "1.0", [*wants, "doctor-old>=0.1"])
    monkeypatch.syspath_prepend(str(tmp_path))
    found = installed("doctor-subject", extras=True)
    assert [item.fault for item in found] == [
        "doctor-old 0.9 is outside <3,>=1.2 -> pip install 'doctor-old<3,>=1.2'",
        "doctor-none is not installed -> pip install 'doctor-none>=1'",
        "doctor-extra 3.0 is outside <3 -> pip install 'doctor-extra<3'",
        "",
    ]
    assert [item.name for item in installed("doctor-subject")] == ["doctor-old", "doctor-none", "doctor-old"]


def test_this_environment_fits_its_own_metadata():
    checks = list(doctor.version_checks())
    assert not [check for check in checks if check.state == doctor.FAILED]
    assert any("torch " in check.found for check in checks)


def test_a_full_or_forbidden_disk_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**29})())
    checks = list(doctor.disk_checks(tmp_path / "not" / "there" / "yet"))
    assert {check.state for check in checks} == {doctor.FAILED}
    assert str(tmp_path) in checks[0].found and "output=" in checks[0].fix


@pytest.fixture
def hub():
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path.startswith("/api/models") else 404)
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_hub_that_answers_and_one_that_does_not(hub):
    assert doctor.hub_check(hub).state == doctor.OK
    lost = doctor.hub_check("http://127.0.0.1:9")
    assert lost.state == doctor.WARNING and "HF_HUB_OFFLINE" in lost.fix


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("print('hello'); print('version 0.31.1')", (doctor.OK, "")),
        (
            "import sys; sys.exit('libtorch_cuda.so: undefined symbol')",
            (doctor.FAILED, "pip install 'reasonrl[vllm]' in a fresh environment"),
        ),
        ("import os; os.kill(os.getpid(), 11)", (doctor.FAILED, "pip install 'reasonrl[vllm]' in a fresh environment")),
    ],
)
def test_vllm_that_can_be_imported_or_breaks(program, expected, tmp_path, monkeypatch):
    (tmp_path / "vllm.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    python = tmp_path / "python"  # what `import vllm` does there
    python.write_text(f"#!{sys.executable}\n{program}\n")
    python.chmod(0o755)
    assert state(doctor.vllm_check(str(python))) == expected


def test_report_gives_lines_or_json_and_the_exit_status():
    checks = [doctor.Check("a", doctor.OK, "fine"), doctor.Check("b", doctor.WARNING, "so so", "mend it")]
    said: list[str] = []
    assert doctor.report(checks, said.append) == 0
    assert said[1] == "warning  b: so so -> mend it" and "this machine can run recipes" in said[-1]
    said.clear()
    assert doctor.report([*checks, doctor.Check("c", doctor.FAILED, "no")], said.append, as_json=True) == 1
    assert json.loads(said[0])["ok"] is False and len(json.loads(said[0])["checks"]) == 3


def test_guarded_tells_what_broke():
    assert doctor.guarded("x", lambda: 1 / 0).found == "ZeroDivisionError: division by zero"


@pytest.mark.slow
def test_the_whole_examination_passes_here(tmp_path):
    checks = {check.name: check for check in doctor.examine(output=tmp_path)}
    assert checks["self-test verify"].state == doctor.OK
    assert checks["self-test train"].state == doctor.OK, checks["self-test train"]
