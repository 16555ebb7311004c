"""The server, asked by the real `openai` client and by curl, in front of model servers in processes of their own."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import aiohttp
import openai
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from serving import Serving, body, expected
from upstream import Upstream

KEY = "sk-test-2a9d0f6b71"
PROBLEM = [{"role": "user", "content": "What is 1 + 1?"}]


@pytest.fixture(scope="module")
def spare():
    """A second upstream."""
    with Upstream() as one:
        yield one


@pytest.fixture(scope="module")
def server(upstream_process, spare):
    """In front of one upstream, with a key."""
    options = ("--model", "toy", "--api-key-env", "CLIENT_KEYS", "--max-body-mb", "0.5", "--set", "max_retries=1")
    with Serving(upstream_process.url, options=options, CLIENT_KEYS=f"other-key,{KEY}") as one:
        yield one


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0, timeout=60)


def until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


def test_models(client):
    assert [one.id for one in client.models.list()] == [
        f"toy-pacore-{level}" for level in ("low", "medium", "high")
    ] + ["toy"]
    assert client.models.retrieve("toy-pacore-high").object == "model"


@pytest.mark.parametrize(("model", "rounds"), [("low", (4,)), ("medium", (16,)), ("high", (32, 4))])
def test_a_whole_reply(client, upstream, model, rounds):
    reply = client.chat.completions.create(model=f"toy-pacore-{model}", messages=PROBLEM, seed=5)
    choice = reply.choices[0]
    assert choice.message.content == expected(PROBLEM, 5, rounds) and choice.finish_reason == "stop"
    assert choice.message.role == "assistant" and reply.model == f"toy-pacore-{model}"
    records = reply.pacore["rounds"]
    assert [one["calls"] for one in records] == [*rounds, 1] and upstream.stats()["seen"] == sum(rounds) + 1
    usage = reply.usage
    assert usage.completion_tokens == sum(one["completion_tokens"] for one in records) > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert (
        usage.completion_tokens_details.reasoning_tokens == usage.completion_tokens - records[-1]["completion_tokens"]
    )
    assert f"Round 1 of {len(records)}: {rounds[0]} answers" in choice.message.reasoning_content


@pytest.mark.parametrize("style", ["tags", "plain", "split"])
@pytest.mark.parametrize("rounds", [[4], [3, 2], []])
def test_a_streamed_reply_says_the_same(client, upstream, style, rounds):
    upstream.set(style=style)
    fields = {"model": "toy", "messages": PROBLEM, "seed": 7, "extra_body": {"pacore": {"rounds": rounds}}}
    whole = client.chat.completions.create(**fields)
    events = list(client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    deltas = [event.choices[0].delta for event in events if event.choices]
    said = "".join(delta.content or "" for delta in deltas)
    thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert said == whole.choices[0].message.content == expected(PROBLEM, 7, tuple(rounds), style)
    # Where the thinking ends and the answer begins, the white space between them may go with either.
    assert (
        "".join(thought.split())
        == "".join((getattr(whole.choices[0].message, "reasoning_content", None) or "").split())
        or style == "plain"
    )
    assert deltas[0].role == "assistant" and events[-1].usage.total_tokens == whole.usage.total_tokens
    assert [event.choices[0].finish_reason for event in events if event.choices][-1] == "stop"
    if rounds and style == "tags":
        assert sum(bool(delta.content) for delta in deltas) > 2  # it streams


def test_curl(server, upstream):
    words = ["curl", "-sS", "-N", f"{server.url}/chat/completions", "-H", f"Authorization: Bearer {KEY}"]
    words += ["-H", "Content-Type: application/json", "-w", "\n%{http_code}", "-d"]
    whole = subprocess.run([*words, json.dumps(body())], capture_output=True, text=True, check=True).stdout
    text, status = whole.rsplit("\n", 1)
    assert status == "200" and json.loads(text)["choices"][0]["message"]["content"] == expected(PROBLEM, 1)
    streamed = subprocess.run(
        [*words, json.dumps(body(stream=True))], capture_output=True, text=True, check=True
    ).stdout
    lines = [line for line in streamed.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == expected(PROBLEM, 1)


def test_pictures_stop_words_and_other_fields_reach_the_upstream(client, upstream):
    url = "data:image/png;base64," + base64.b64encode(b"no picture").decode()
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    reply = client.chat.completions.create(
        model="toy-pacore-low",
        messages=[{"role": "user", "content": parts}],
        seed=3,
        stop=[" is"],
        temperature=0.5,
        max_completion_tokens=50,
        extra_body={"top_k": 20},
    )
    seen = upstream.stats()["bodies"]
    assert len(seen) == 5 and reply.choices[0].message.content == "The answer"
    assert all(parts[1] in one["messages"][0]["content"] for one in seen)
    assert {(one["temperature"], one["max_tokens"], one["top_k"]) for one in seen} == {(0.5, 50, 20)}
    assert [one.get("stop") for one in seen] == [None] * 4 + [[" is"]]
    assert not any({"pacore", "stream", "user"} & set(one) for one in seen)


def test_errors_are_the_apis(client, server, upstream):
    with pytest.raises(openai.NotFoundError, match="toy-pacore-low"):
        client.chat.completions.create(model="gpt", messages=PROBLEM)
    for fields, param in (
        ({"n": 2}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"extra_body": {"pacore": {"rounds": [100]}}}, "pacore.rounds"),
        ({"extra_body": {"pacore": {"round": [1]}}}, "pacore.round"),
        ({"extra_body": {"pacore": {"compaction": "/etc/x.py:f"}}}, "pacore.compaction"),
    ):
        with pytest.raises(openai.BadRequestError) as found:
            client.chat.completions.create(model="toy-pacore-low", messages=PROBLEM, **fields)
        assert found.value.param == param and found.value.body["type"] == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="no message of the user"):
        client.chat.completions.create(model="toy-pacore-low", messages=[{"role": "system", "content": "x"}])
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").chat.completions.create(model="toy-pacore-low", messages=PROBLEM)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    assert client.with_options(api_key="other-key").models.list().data
    assert upstream.stats()["seen"] == 0
    upstream.set(fail=1.0, status=500)
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as broken:
            client.chat.completions.create(model="toy-pacore-low", messages=PROBLEM, stream=stream)
        assert broken.value.status_code == 502 and "4 of 4 calls failed" in str(broken.value)
        assert "127.0.0.1" not in str(broken.value)
    upstream.set(window=10)
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.chat.completions.create(model="toy-pacore-low", messages=PROBLEM)


def test_bodies_that_cannot_be(server, upstream):
    key = {"Authorization": f"Bearer {KEY}"}
    assert server.post(b"{nonsense", **key)[0] == 400
    assert server.post(b"[1]", **key)[0] == 400
    assert server.post(b"[" * 200_000, **key)[0] == 400
    assert server.post(b'{"model": "toy-pacore-low"}', **key)[1]["error"]["param"] == "messages"
    status, found = server.post(body("x" * 600_000), **key)
    assert (status, found["error"]["code"]) == (413, "body_too_large")
    assert server.post(body())[0] == 401 and server.post(body(), Authorization="Basic x")[0] == 401
    words = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Authorization: Bearer {KEY}"]
    words += ["-H", "Transfer-Encoding: chunked", "--data-binary", "@-", f"{server.url}/chat/completions"]
    chunked = subprocess.run(words, input=json.dumps(body("x" * 600_000)), capture_output=True, text=True)
    assert chunked.stdout == "413"
    assert upstream.stats()["seen"] == 0 and server.post(body(), **key)[0] == 200


def test_the_seed_decides_whatever_order_calls_end_in(server, client, upstream):
    answers = []
    for settings in ({}, {"seconds": 0.01, "jitter": 0.15}, {"jitter": 0.05}):
        upstream.set(**settings)
        reply = client.chat.completions.create(model="toy-pacore-high", messages=PROBLEM, seed=11)
        answers.append((reply.choices[0].message.content, reply.choices[0].message.reasoning_content))
    assert len(set(answers)) == 1
    drawn = client.chat.completions.create(model="toy-pacore-low", messages=PROBLEM)
    again = client.chat.completions.create(model="toy-pacore-low", messages=PROBLEM, seed=drawn.pacore["seed"])
    assert drawn.choices[0].message.content == again.choices[0].message.content
    other = client.chat.completions.create(model="toy-pacore-low", messages=PROBLEM)
    assert other.pacore["seed"] != drawn.pacore["seed"]


def test_sixty_four_clients_at_once_lose_nothing(server, upstream):
    upstream.set(seconds=0.3)

    async def one(session, number):
        fields = body(f"What is {number} + 1?", stream=number % 2 == 0, seed=number)
        async with session.post(f"{server.url}/chat/completions", json=fields) as reply:
            text = await reply.text()
            assert reply.status == 200, text
        if number % 2:
            return json.loads(text)["choices"][0]["message"]["content"]
        events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
        return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)

    async def all_of_them():
        headers = {"Authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*(one(session, number) for number in range(64)))

    found = asyncio.run(all_of_them())
    problems = [[{"role": "user", "content": f"What is {number} + 1?"}] for number in range(64)]
    assert found == [expected(problem, number) for number, problem in enumerate(problems)]
    stats = upstream.stats()
    assert stats["seen"] == 64 * 5 and stats["left"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_calls(server, upstream, stream):
    upstream.set(hang=True)
    text = json.dumps(body(stream=stream, model="toy-pacore-medium"))
    host, port = server.url.split("//")[1].split("/")[0].split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
        assert until(lambda: upstream.stats()["now"] == 16, 30)
    assert until(lambda: upstream.stats()["now"] == 0, 5.0)
    assert until(lambda: json.loads(server.get("/health"))["requests"] == 0, 5.0)


def test_so_many_proposers_may_fail(client, upstream):
    upstream.set(fail=0.3)
    reply = client.chat.completions.create(
        model="toy-pacore-medium", messages=PROBLEM, seed=2, extra_body={"pacore": {"tolerate": 0.9}}
    )
    first, last = reply.pacore["rounds"]
    assert 0 < first["failed"] < 14 and last["shown"] == 16 - first["failed"]
    assert "(failed)" in reply.choices[0].message.reasoning_content
    with pytest.raises(openai.InternalServerError, match="and 0 may"):
        client.chat.completions.create(
            model="toy-pacore-medium", messages=PROBLEM, seed=2, extra_body={"pacore": {"tolerate": 0}}
        )


def test_a_budget_holds(client, upstream):
    reply = client.chat.completions.create(
        model="toy-pacore-low", messages=PROBLEM, extra_body={"pacore": {"budget": 40}}
    )
    assert reply.usage.completion_tokens <= 40
    assert [one["max_tokens"] for one in upstream.stats()["bodies"]][:4] == [8] * 4
    with pytest.raises(openai.BadRequestError, match="less than a token"):
        client.chat.completions.create(model="toy-pacore-low", messages=PROBLEM, extra_body={"pacore": {"budget": 3}})


def test_metrics_and_health(server, client, upstream):
    before = server.get("/metrics")
    assert server.post(body())[0] == 401
    client.chat.completions.create(model="toy-pacore-low", messages=PROBLEM)
    page = server.get("/metrics")

    def value(text: str, name: str) -> float:
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " "))

    for name, grown in (
        ('pacore_requests_total{level="low",status="200"}', 1),
        ('pacore_upstream_calls_total{outcome="answered"}', 5),
        ('pacore_round_seconds_count{round="last"}', 1),
    ):
        assert value(page, name) - value(before, name) == grown
    assert value(page, 'pacore_requests_total{level="none",status="401"}') > 0
    assert json.loads(server.get("/health"))["status"] == "ok"


def test_an_upstream_that_dies_is_left_for_another(spare):
    spare.set()
    with Upstream() as doomed, Serving(doomed.url, spare.url, options=("--set", "max_retries=3")) as server:
        doomed.set(seconds=2.0)
        threading.Timer(0.7, doomed.kill).start()
        status, reply = server.post(body(seed=4, model="toy-pacore-medium"))
        assert status == 200 and reply["choices"][0]["message"]["content"] == expected(PROBLEM, 4, (16,))
        assert reply["pacore"]["rounds"][0]["failed"] == 0


def test_an_upstream_that_dies_within_the_streamed_answer(spare):
    spare.set()
    with Upstream() as doomed, Serving(doomed.url, spare.url) as server:
        doomed.set(die_after=9)
        client = openai.OpenAI(base_url=server.url, api_key="x", max_retries=0)
        for seed in range(6):  # the last call goes to either of them
            events = client.chat.completions.create(model="toy-pacore-low", messages=PROBLEM, seed=seed, stream=True)
            text = "".join(event.choices[0].delta.content or "" for event in events)
            assert text == expected(PROBLEM, seed)
        assert doomed.stats()["seen"] > 0


def test_no_upstream_left_is_one_clear_5xx():
    options = ("--set", "max_retries=1", "--set", "connect_timeout=1", "--set", "backoff=0.1")
    with Upstream() as doomed, Serving(doomed.url, options=options) as server:
        doomed.set(hang=True)
        threading.Timer(0.5, doomed.kill).start()
        began = time.monotonic()
        status, reply = server.post(body())
        assert status == 502 and reply["error"]["code"] == "upstream_failed" and time.monotonic() - began < 60
        client = openai.OpenAI(base_url=server.url, api_key="x", max_retries=0)
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="toy-pacore-low", messages=PROBLEM, stream=True)


def test_it_ends_when_asked_and_lets_requests_finish(upstream):
    with Serving(upstream.url, options=("--max-requests", "1")) as server:
        upstream.set(seconds=0.7)
        found = []
        asking = threading.Thread(target=lambda: found.append(server.post(body())))
        asking.start()
        assert until(lambda: upstream.stats()["now"] == 4, 30)
        assert server.post(body())[0] == 429  # --max-requests
        server.process.send_signal(signal.SIGTERM)
        asking.join(20)
        assert found[0][0] == 200 and server.process.wait(20) == 0
        assert server.process.stderr.read() == ""


def test_a_port_that_is_taken(upstream):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [*Serving(upstream.url).words[:-2], "--port", str(taken.getsockname()[1])]
        run = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2 and "is the port taken?" in run.stderr
