"""What tests of coordinated reasoning share: one simulated upstream process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from upstream import Upstream


@pytest.fixture(scope="session")
def upstream_process() -> Iterator[Upstream]:
    """One process for the session."""
    with Upstream() as one:
        yield one


@pytest.fixture
def upstream(upstream_process: Upstream) -> Upstream:
    """The process with its default settings."""
    upstream_process.set()
    return upstream_process
