"""Servers that others have started: what they can be used for, and whether strangers can use them too."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from servers_help import PARAMS, QUICK, check, checkpoint, fakes, fingerprint, requests_of
from test_servers_sync import DEVELOPER

from reasonrl.errors import ModelError
from reasonrl.models import load_policy
from reasonrl.models.tiny import build_tokenizer
from reasonrl.rollout.servers import ServersEngine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model"))


def test_a_policy_in_training_needs_servers_that_take_weights(folder):
    """Before the first step: one of two servers has no developer endpoints."""
    with fakes(folder, 1) as closed, fakes(folder, 1, **DEVELOPER) as open_:
        urls = [open_[0].url, closed[0].url]
        with pytest.raises(ModelError, match=rf"server {closed[0].url} takes no weights.*VLLM_SERVER_DEV_MODE=1"):
            ServersEngine(*load_policy(str(folder)), urls=urls, limits=QUICK)
        assert not closed[0].script()["seen"] and "/pause" not in open_[0].script()["calls"]


def test_servers_that_take_no_weights_are_good_for_an_evaluation(folder, tmp_path, monkeypatch):
    requests = requests_of(8)
    (tmp_path / "link").symlink_to(folder)
    with fakes(folder, 2) as found:
        engine = ServersEngine(
            None, build_tokenizer(), path=str(tmp_path / "link"), urls=[fake.url for fake in found], limits=QUICK
        )
        check(list(engine.stream(requests, PARAMS)), requests, fingerprint(folder))
        assert not {"/pause", "/resume"} & set(found[0].script()["calls"])
        engine.close()


@pytest.mark.parametrize("guarded", [False, True])
def test_developer_endpoints_that_are_open_to_strangers_are_said(folder, caplog, monkeypatch, guarded):
    monkeypatch.setenv("no_proxy", "*")
    environment = {**DEVELOPER, **({"VLLM_API_KEY": "secret"} if guarded else {})}
    if guarded:
        monkeypatch.setenv("FLEET_KEY", "secret")
    with fakes(folder, 1, **environment) as found, caplog.at_level(logging.WARNING, "reasonrl"):
        for host in ("127.0.0.1", "LOCALHOST"):  # the same one, but not known to be this machine
            url = f"http://{host}:{found[0].port}"
            key = "FLEET_KEY" if guarded else None
            ServersEngine(None, build_tokenizer(), path=str(folder), urls=[url], limits=QUICK, api_key_env=key).close()
    warned = [record.getMessage() for record in caplog.records if "without a key" in record.getMessage()]
    assert len(warned) == (0 if guarded else 1)
    assert all("http://LOCALHOST:" in text and "RequireKey" in text for text in warned)


def test_a_server_that_is_not_vllms_is_said_to_be_none(folder):
    with (
        fakes(folder, 1, "--version", "none") as found,
        pytest.raises(ModelError, match=rf"server {found[0].url} is not vLLM's.*vllm serve"),
    ):
        ServersEngine(None, build_tokenizer(), path=str(folder), urls=[found[0].url], limits=QUICK)
