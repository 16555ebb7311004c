"""vLLM on pictures, in process and on servers. vLLM's vision models import torchvision, whose builds do not fit the
CPU build of torch: its Python half suffices, from a folder that the variable REASONRL_TORCHVISION names (`make
test-vllm` sets it).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (docs/rollout.md, vLLM on CPU)", exc_type=ImportError)

#: torchvision without its compiled half: the two operators that its import asks for are declared, and never called.
STAND_IN = """\
import os, torch
_ops = torch.library.Library("torchvision", "DEF")
_ops.define("nms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
_ops.define("qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
_folder = os.path.join(os.environ["REASONRL_TORCHVISION"], "torchvision")
__path__ = [_folder]
with open(os.path.join(_folder, "__init__.py")) as _file:
    exec(compile(_file.read(), _file.name, "exec"))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("cases", ["vllm_images_cases.py", "servers_images_cases.py"])
def test_vllm_on_pictures(tmp_path, cases, kind):
    folder = os.environ.get("REASONRL_TORCHVISION")
    if folder is None:
        pytest.skip("REASONRL_TORCHVISION names no folder with torchvision (docs/rollout.md, vLLM on CPU)")
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(STAND_IN)
    here = Path(__file__).parent
    paths = [str(tmp_path), folder, str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(here / cases)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "REASONRL_VISION_KIND": kind},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "passed" in run.stdout and "skipped" not in run.stdout
