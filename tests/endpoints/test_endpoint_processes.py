"""The client across threads, event loops, processes and kills; its cache; and that no key is ever to be found."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reasonrl.endpoints import (
    EndpointClient,
    EndpointConfig,
    EndpointError,
    EndpointSettingsError,
    Rejected,
    chat,
)
from reasonrl.endpoints.loop import background_loop

sys.path.insert(0, str(Path(__file__).parent))
from scripted_server import Act, ScriptedServer

KEY = "sk-test-5f0c1ed5a17b4c"


def until(condition, seconds: float = 10.0) -> bool:
    """Wait for a condition; what it is in the end."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())


def test_threads_share_the_limits():
    with ScriptedServer(lambda seen, number: Act(seen.prompt, seconds=0.02)) as server:
        client = EndpointClient({"base_url": server.url, "model": "m", "max_concurrency": 3})
        told: dict[int, str] = {}
        threads = [
            threading.Thread(target=lambda place=place: told.update({place: client.send(chat(str(place))).text}))
            for place in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert told == {place: str(place) for place in range(12)}
    assert server.most == 3 and client.counters().replies == 12


def test_any_event_loop_may_await():
    with ScriptedServer(lambda seen, number: Act(seen.prompt, seconds=0.02)) as server:
        client = EndpointClient({"base_url": server.url, "model": "m", "max_concurrency": 8})

        async def many():
            return [reply.text for reply in await asyncio.gather(*(client.asend(chat(str(one))) for one in range(8)))]

        for _ in range(2):  # asyncio.run makes a new loop each time
            assert asyncio.run(many()) == [str(one) for one in range(8)]
    assert server.most == 8


def test_giving_up_reaches_the_server():
    with ScriptedServer(lambda seen, number: Act(hang=True)) as server:
        client = EndpointClient({"base_url": server.url, "model": "m", "max_concurrency": 1})

        async def impatient():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await client.asend(chat("?"))

        asyncio.run(impatient())
        assert until(lambda: server.left == 1, 1.0)
        future = client.submit(chat("?"))
        assert until(lambda: server.now == 1)
        future.cancel()
        assert until(lambda: server.left == 2, 1.0)
        server.script = lambda seen, number: Act("free again")
        assert client.send(chat("?"), deadline=5).text == "free again"
    assert client.counters().failures == 2


def test_a_waiting_call_inside_the_loop_itself_is_refused():
    client = EndpointClient({"base_url": "http://127.0.0.1:9/v1", "model": "m"})

    async def inside():
        client.send(chat("?"))

    with pytest.raises(EndpointError, match="own event loop -> await"):
        background_loop().submit(inside()).result(5)


def test_a_client_pickles_without_its_state():
    with ScriptedServer() as server:
        client = EndpointClient({"base_url": server.url, "model": "m"})
        client.send(chat("?"))
        copy = pickle.loads(pickle.dumps(client))
        assert copy.config == client.config and copy.counters().requests == 0
        assert copy.send(chat("?")).text == "ok"


def test_errors_cross_processes():
    error = Rejected("endpoint x: status 404", 404)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.status, copy.settings_fault) == (str(error), 404, True)


def test_a_forked_process_makes_its_own_connections():
    with ScriptedServer(lambda seen, number: Act(seen.prompt, seconds=0.3 if seen.prompt == "slow" else 0)) as server:
        client = EndpointClient({"base_url": server.url, "model": "m"})
        client.send(chat("?"))
        slow = client.submit(chat("slow"))
        child = os.fork()
        if child == 0:
            try:
                right = client.counters().requests == 0 and client.send(chat("child"), deadline=5).text == "child"
                os._exit(0 if right and client.counters().requests == 1 else 1)
            except BaseException:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert slow.result(5).text == "slow"
        assert [client.send(chat(text)).text for text in "ab"] == ["a", "b"]
        assert client.counters().requests == 4


def run(program: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python program of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", program, *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


ASK = """
import sys
from reasonrl.endpoints import EndpointClient, chat
client = EndpointClient({"base_url": sys.argv[1], "model": "m", "cache": sys.argv[2], "max_concurrency": 4})
for place, reply in client.stream(chat(str(one)) for one in range(40)):
    print(reply.text, flush=True)
print(client.counters().cached, client.counters().replies, "counted", flush=True)
"""


def test_a_process_ends_without_a_word(tmp_path):
    with ScriptedServer(lambda seen, number: Act(seen.prompt)) as server:
        done = run(ASK, server.url, str(tmp_path / "cache.db"))
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines()[-1] == "0 40 counted"


def test_a_killed_run_asks_nothing_twice(tmp_path):
    cache = str(tmp_path / "deep" / "cache.db")
    with ScriptedServer(lambda seen, number: Act(f"to {seen.prompt}", seconds=0.02)) as server:
        for kill_after in (3, 9, 17):
            process = subprocess.Popen(
                [sys.executable, "-c", ASK, server.url, cache], stdout=subprocess.PIPE, text=True
            )
            for _ in range(kill_after):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            process.stdout.close()
        last = run(ASK, server.url, cache)
        asked = [seen.prompt for seen in server.seen]
        *texts, counted = last.stdout.splitlines()
        again = run(ASK, server.url, cache)
        assert len(server.seen) == len(asked)
    assert sorted(texts) == sorted(f"to {one}" for one in range(40))
    assert set(asked) == {str(one) for one in range(40)}
    assert len(asked) - 40 <= 3 * 4, "more was repeated than was under way at the three kills"
    cached, replies, _ = counted.split()
    assert int(cached) >= 17 and int(cached) + int(replies) == 40
    assert again.stdout.splitlines()[-1] == "40 0 counted"


def test_what_makes_another_request(tmp_path):
    with ScriptedServer(lambda seen, number: Act(str(number))) as server:
        settings = {"base_url": server.url, "model": "m", "cache": str(tmp_path / "c.db")}
        client = EndpointClient(settings)
        first = client.send(chat("?", temperature=0.5))
        same = client.send(chat([{"content": "?", "role": "user"}], temperature=0.5))
        assert same.text == first.text and same.cached and not first.cached
        others = [chat("?"), chat("??", temperature=0.5), chat("?", temperature=0.5, sample=1)]
        assert [client.send(other).cached for other in others] == [False] * 3
        elsewhere = EndpointClient({**settings, "base_url": "http://127.0.0.1:9/v1"})
        assert elsewhere.send(chat("?", temperature=0.5)).text == first.text
        assert not EndpointClient({**settings, "model": "n"}).send(chat("?", temperature=0.5)).cached
    assert "sample" not in server.seen[3].body


def test_failures_are_not_kept(tmp_path):
    with ScriptedServer(lambda seen, number: Act(status=400, body="no") if number == 0 else Act("yes")) as server:
        client = EndpointClient({"base_url": server.url, "model": "m", "cache": str(tmp_path / "c.db")})
        with pytest.raises(Rejected):
            client.send(chat("?"))
        assert client.send(chat("?")).text == "yes"


def test_a_file_that_is_no_cache_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes " * 100)
    client = EndpointClient({"base_url": "http://127.0.0.1:9/v1", "model": "m", "cache": str(path)})
    with pytest.raises(EndpointSettingsError, match=r"notes\.txt cannot be used as a cache.*-> name another"):
        client.send(chat("?"))
    assert path.read_text() == "my notes " * 100


def test_the_key_is_sent_and_found_nowhere_else(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("GATE_TOKEN", "gate-" + KEY)

    def echo(seen, number):
        given = f"you sent {seen.headers['Authorization']} and {seen.headers['X-Gate']}"
        return Act(given) if number == 0 else Act(status=401 if number == 1 else 200, body=given)

    with ScriptedServer(echo) as server, caplog.at_level("DEBUG"):
        cache = tmp_path / "cache.db"
        client = EndpointClient(
            {
                "base_url": server.url,
                "model": "m",
                "api_key_env": "JUDGE_KEY",
                "headers_env": {"X-Gate": "GATE_TOKEN"},
                "cache": str(cache),
                "max_retries": 0,
            }
        )
        reply = client.send(chat("?"))
        errors = client.map([chat("rejected")], errors="return") + client.map([chat("malformed")], errors="return")
        client.close()
    assert server.seen[0].headers["Authorization"] == f"Bearer {KEY}"
    assert server.seen[0].headers["X-Gate"] == f"gate-{KEY}"
    told = [repr(client), repr(client.config), str(client.counters()), client.config.model_dump_json(), repr(reply)]
    told += [f"{reply.text} {reply.raw}", caplog.text, *capfd.readouterr()]
    told += [repr(error) + str(error) for error in errors]
    kept = pickle.dumps(client) + b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert "[hidden]" in reply.text and "[hidden]" in str(errors[0]) and "[hidden]" in str(errors[1])
    assert not re.search("5f0c1ed5", "".join(told)) and b"5f0c1ed5" not in kept
    assert sqlite3.connect(cache).execute("SELECT count(*) FROM replies").fetchone() == (1,)


def test_a_key_that_is_not_there_is_named(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with ScriptedServer() as server:
        client = EndpointClient({"base_url": server.url, "model": "m", "api_key_env": "JUDGE_KEY"})
        with pytest.raises(EndpointSettingsError, match="JUDGE_KEY is not set -> export JUDGE_KEY"):
            client.send(chat("?"))
    assert not server.seen


GOOD = {"base_url": "http://localhost:8000/v1/", "model": "m"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"modle": "x"}, "modle: is no setting of an endpoint -> did you mean 'model'?"),
        ({"max_concurrency": 0}, "max_concurrency: "),
        ({"timeout": -1}, "timeout: "),
        ({"timeout": float("nan")}, "timeout: "),
        ({"base_url": "localhost:8000"}, "base_url: takes http://host:port/v1"),
        ({"base_url": []}, "base_url: "),
        ({"base_url": ["http://a/v1", "http://a/v1/"]}, "base_url: names one server twice"),
        ({"base_url": f"https://me:{KEY}@host/v1"}, "base_url: holds a user"),
        ({"base_url": f"https://host/v1?key={KEY}"}, "base_url: holds a user"),
        ({"api_key_env": KEY}, "api_key_env: takes the name of an environment variable"),
        ({"headers_env": {"X-Key": KEY}}, "headers_env: takes the name of an environment variable"),
        ({"headers": {"Authorization": KEY}}, "headers: holds 'Authorization', which looks like a secret"),
        ({"budget": {"max_costs": 3}}, "budget.max_costs: is no setting of an endpoint -> did you mean 'max_cost'?"),
        ({"model": ""}, "model: "),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(EndpointSettingsError) as caught:
        EndpointConfig.of({**GOOD, **settings})
    assert said in str(caught.value) and KEY not in str(caught.value)


def test_every_problem_of_the_settings_at_once():
    with pytest.raises(EndpointSettingsError) as caught:
        EndpointClient({"model": "m", "timeout": 0, "retries": 3, "price": {"inputs": 1, "output": -1}})
    assert len(str(caught.value).splitlines()) == 5


def test_settings_travel():
    config = EndpointConfig.of({**GOOD, "price": {"input": 1}, "budget": {"max_requests": 5}})
    assert config.base_url == ("http://localhost:8000/v1",)
    assert pickle.loads(pickle.dumps(config)) == config == EndpointConfig.of(config)


def test_importing_the_client_is_cheap(tmp_path):
    heavy = ("torch", "transformers", "aiohttp", "httpx", "openai", "datasets")
    program = f"import sys, reasonrl.endpoints\nprint(*(name for name in {heavy!r} if name in sys.modules))"
    done = run(program)
    assert done.returncode == 0 and done.stdout.split() == [], done.stdout + done.stderr


HANG = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in a shell's background ignores it
from reasonrl.endpoints import EndpointClient, chat
client = EndpointClient({"base_url": sys.argv[1], "model": "m"})
futures = [client.submit(chat("?")) for _ in range(5)]
print("asked", flush=True)
if sys.argv[2] == "wait":
    client.map([chat("?")] * 3)
"""


@pytest.mark.parametrize("what", ["wait", "leave"])
def test_a_process_ends_though_the_server_hangs(what):
    with ScriptedServer(lambda seen, number: Act(hang=True)) as server:
        words = [sys.executable, "-W", "error::ResourceWarning", "-c", HANG, server.url, what]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "asked\n"
        if what == "wait":
            assert until(lambda: len(server.seen) == 8)
            process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=10)[1]
        assert until(lambda: server.now == 0, 2.0)
    if what == "wait":
        assert said.strip().splitlines()[-1] == "KeyboardInterrupt"
    else:
        assert process.returncode == 0 and said == ""


BARE = """
import asyncio, json, sys, time
import aiohttp
async def main(url, at_once, count, body):
    places = asyncio.Semaphore(at_once)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async def one():
            async with places, session.post(url + "/chat/completions", json=body) as response:
                json.loads(await response.read())
        for measured in (False, True):
            began = time.monotonic()
            await asyncio.gather(*(one() for _ in range(count if measured else at_once)))
    print(count / (time.monotonic() - began))
body = {"model": "m", "messages": [{"role": "user", "content": "x" * 2000}]}
asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), body))
"""
OURS = """
import sys, time
from reasonrl.endpoints import EndpointClient, chat
at_once, count = int(sys.argv[2]), int(sys.argv[3])
client = EndpointClient({"base_url": sys.argv[1], "model": "m", "max_concurrency": at_once})
for number in (at_once, count):
    began = time.monotonic()
    for _ in client.stream(chat("x" * 2000) for _ in range(number)):
        pass
print(count / (time.monotonic() - began))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("at_once", "share"), [(16, 0.90), (64, 0.85)])
def test_the_server_is_kept_as_busy_as_by_a_bare_loop(at_once, share):
    with ScriptedServer(lambda seen, number: Act("x" * 500, seconds=0.05)) as server:
        ratios = []
        for _ in range(3):
            bare, ours = (float(run(text, server.url, str(at_once), "1500").stdout) for text in (BARE, OURS))
            ratios.append(ours / bare)
    print(f"{at_once} at once: {ratios} of a bare loop")
    assert sorted(ratios)[1] >= share
