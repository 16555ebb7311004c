"""Calls to a real HTTP server that answers, fails, hangs and lies: what comes back, how often it was asked, what is
counted.
"""

from __future__ import annotations

import datetime
import email.utils
import socket
import sys
import time
from pathlib import Path

import pytest

from reasonrl.endpoints import (
    BadReply,
    BudgetSpent,
    DeadlinePassed,
    EndpointClient,
    EndpointError,
    Rejected,
    Unreachable,
    chat,
    completion,
)
from reasonrl.endpoints.servers import Pace, Servers
from reasonrl.endpoints.transport import seconds_of_retry_after

sys.path.insert(0, str(Path(__file__).parent))
from scripted_server import Act, ScriptedServer


def client(*servers: ScriptedServer, **settings) -> EndpointClient:
    """A client of these servers that retries quickly."""
    urls = [server.url for server in servers]
    return EndpointClient({"base_url": urls, "model": "judge", "backoff": 0.02, "max_retries": 3, **settings})


def one_after_another(*acts: Act):
    """A script: these acts in order, the last one for ever."""
    return lambda seen, number: acts[min(number, len(acts) - 1)]


def test_what_is_asked_arrives_and_what_is_answered_comes_back():
    with ScriptedServer(one_after_another(Act("42"))) as server:
        asker = client(server, extra_body={"chat_template_kwargs": {"enable_thinking": False}}, headers={"X-Team": "a"})
        reply = asker.send(
            chat("6*7?", n=2, temperature=0.5, stop=["\n"], seed=3, logprobs=1, return_token_ids=True, max_tokens=9)
        )
    assert [choice.text for choice in reply.choices] == ["42", "42"]
    assert reply.choices[1].logprobs == (-0.5, -1.5) and reply.choices[1].token_ids == (7, 8, 9)
    assert (reply.prompt_token_ids, reply.prompt_tokens, reply.completion_tokens) == ((1, 2), 10, 5)
    seen = server.seen[0]
    assert seen.path == "/v1/chat/completions" and seen.headers["X-Team"] == "a"
    assert "Authorization" not in seen.headers
    assert seen.body == {
        "model": "judge",
        "chat_template_kwargs": {"enable_thinking": False},
        "messages": [{"role": "user", "content": "6*7?"}],
        "n": 2,
        "temperature": 0.5,
        "stop": ["\n"],
        "seed": 3,
        "logprobs": True,
        "top_logprobs": 1,
        "return_token_ids": True,
        "max_tokens": 9,
    }


def test_prompts_of_token_ids_and_what_is_not_said_is_not_sent():
    with ScriptedServer() as server:
        reply = client(server).send(completion([5, 6], logprobs=0, return_token_ids=True))
        assert client(server).send(completion("once")).text == "ok"
    assert server.seen[0].path == "/v1/completions"
    assert server.seen[0].body == {"model": "judge", "prompt": [5, 6], "logprobs": 0, "return_token_ids": True}
    assert server.seen[1].body == {"model": "judge", "prompt": "once"}
    assert reply.prompt_token_ids == (1, 2) and reply.choices[0].token_ids == (7, 8, 9)
    assert reply.choices[0].logprobs == (-0.5, -1.5)


@pytest.mark.parametrize(
    "bad",
    [
        Act(status=500, body="boom"),
        Act(status=503),
        Act(drop=True),
        Act(body="{not json"),
        Act(body="[1]"),
        Act(choices=0),
        Act(body='{"choices": [{"message": null}]}'),
        Act(body='{"choices": [{"message": {"content": 5}}]}'),
        Act(body='{"error": {"message": "overloaded"}}'),
        Act(seconds=3.0),
    ],
)
def test_passing_faults_are_retried(bad):
    with ScriptedServer(one_after_another(bad, bad, Act("fine"))) as server:
        asker = client(server, timeout=0.3)
        assert asker.send(chat("?")).text == "fine"
        counted = asker.counters()
    assert len(server.seen) == 3
    assert (counted.requests, counted.retries, counted.replies, counted.failures) == (3, 2, 1, 0)


@pytest.mark.parametrize(
    ("bad", "error", "said"),
    [
        (Act(status=500, body="boom at 7"), Rejected, ("status 500", "boom at 7")),
        (Act(drop=True), Unreachable, ("dropped before the whole reply",)),
        (Act(hang=True), Unreachable, ("timeout=0.2",)),
        (Act(body="<html>hello"), BadReply, ("status 200", "no JSON", "<html>hello", "base_url")),
        (Act(choices=0), BadReply, ("there are no choices",)),
        (Act(choices=1), BadReply, ("2 choices were asked for, 1 came",)),
    ],
)
def test_lasting_faults_are_told_apart(bad, error, said):
    with ScriptedServer(one_after_another(bad)) as server:
        asker = client(server, timeout=0.2, max_retries=2)
        with pytest.raises(error) as caught:
            asker.send(chat("?", n=2))
        assert asker.counters().failures == 1
    message = str(caught.value)
    assert type(caught.value) is error
    assert all(part in message for part in (*said, server.url, "(3 requests)", " -> ")), message
    assert len(server.seen) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 422, 307])
def test_faults_that_last_are_asked_once(status):
    refusal = Act(status=status, body="no", headers={"Location": "/x"})
    with ScriptedServer(one_after_another(refusal)) as server, pytest.raises(Rejected) as caught:
        client(server).send(chat("?"))
    assert f"status {status}" in str(caught.value) and " -> " in str(caught.value)
    assert len(server.seen) == 1
    assert caught.value.settings_fault == (status in (401, 404, 307))


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asker = EndpointClient({"base_url": f"http://127.0.0.1:{port}/v1", "model": "m", "max_retries": 1, "backoff": 0.01})
    with pytest.raises(Unreachable, match=r"no connection .* -> is the server running"):
        asker.send(chat("?"))


def test_a_server_that_accepts_and_says_nothing():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        asker = EndpointClient({"base_url": url, "model": "m", "max_retries": 1, "timeout": 0.2, "backoff": 0.01})
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"timeout=0\.2"):
            asker.send(chat("?"))
    assert time.monotonic() - began < 20


def test_retry_after_is_honoured_by_every_call():
    script = one_after_another(Act(status=429, headers={"Retry-After": "1"}, body="slow down"), Act())
    with ScriptedServer(script) as server:
        asker = client(server, max_concurrency=1)
        asker.map([chat("a"), chat("b"), chat("c")])
    times = [seen.at for seen in server.seen]
    assert len(times) == 4
    assert times[1] - times[0] >= 1.0


def test_retry_after_longer_than_the_call_is_not_waited_for():
    with ScriptedServer(one_after_another(Act(status=429, headers={"Retry-After": "900"}))) as server:
        asker = client(server, call_timeout=5)
        began = time.monotonic()
        with pytest.raises(DeadlinePassed, match=r"again in 900 s.*429"):
            asker.send(chat("?"))
    assert time.monotonic() - began < 20


def test_retry_after_as_a_number_or_a_date():
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    assert seconds_of_retry_after("2.5") == 2.5
    assert 95 < seconds_of_retry_after(email.utils.format_datetime(later, usegmt=True)) <= 100
    assert seconds_of_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert [seconds_of_retry_after(value) for value in (None, "soon", "inf", "nan")] == [None] * 4


@pytest.mark.parametrize("limit", [1, 5])
def test_the_server_sees_no_more_requests_at_once_than_allowed(limit):
    with ScriptedServer(lambda seen, number: Act(seconds=0.03)) as server:
        replies = client(server, max_concurrency=limit).map([chat(str(index)) for index in range(20)])
    assert len(replies) == 20 and len(server.seen) == 20
    assert server.most == limit


def test_requests_are_spaced():
    with ScriptedServer() as server:
        client(server, requests_per_minute=600).map([chat("?")] * 6)
    times = [seen.at for seen in server.seen]
    assert times[-1] - times[0] >= 0.45
    pace = Pace(60)
    assert [pace.turn(10.0), pace.turn(10.5), pace.turn(20.0)] == [0.0, 0.5, 0.0]


def test_outcomes_keep_the_order_and_errors_their_place():
    def script(seen, number):
        asked = int(seen.prompt)
        return Act(status=400, body="no") if asked == 3 else Act(seen.prompt, seconds=0.05 * (asked % 2))

    with ScriptedServer(script) as server:
        asker = client(server)
        outcomes = asker.map((chat(str(index)) for index in range(8)), errors="return")
        with pytest.raises(Rejected):
            asker.map([chat("1"), chat("3")])
    assert [isinstance(one, EndpointError) or one.text for one in outcomes] == [*"012", True, *"4567"]


def test_an_endless_stream_takes_requests_only_as_there_is_room():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield chat("?")

    with ScriptedServer() as server:
        for count, (_, reply) in enumerate(client(server).stream(endless(), window=4), start=1):
            assert reply.text == "ok"
            if count == 10:
                break
    assert 10 <= len(taken) <= 14


def test_a_deadline_counts_the_waiting_too():
    with ScriptedServer(lambda seen, number: Act(seconds=0.5)) as server:
        asker = client(server, max_concurrency=1)
        first = asker.submit(chat("first"))
        with pytest.raises(DeadlinePassed, match=r"deadline=0.1 s.*waited for its turn"):
            asker.send(chat("second"), deadline=0.1)
        assert first.result(5).text == "ok"
        assert asker.send(chat("third"), deadline=5).text == "ok"
    assert [seen.prompt for seen in server.seen] == ["first", "third"]


def test_a_call_ends_at_its_limit_whatever_the_retries():
    with ScriptedServer(one_after_another(Act(status=500, body="boom", seconds=0.1))) as server:
        asker = client(server, call_timeout=0.5, max_retries=1000)
        began = time.monotonic()
        with pytest.raises(DeadlinePassed, match=r"call_timeout=0.5 s, \d requests sent, the last failure: .*boom"):
            asker.send(chat("?"))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("budget", "answered"),
    [({"max_requests": 3}, 3), ({"max_tokens": 31}, 3), ({"max_cost": 0.00007}, 4)],
)
def test_the_budget_stops_and_keeps_what_has_come(budget, answered):
    with ScriptedServer() as server:
        asker = client(server, budget=budget, price={"input": 1.0, "output": 2.0}, max_concurrency=1)
        outcomes = asker.map([chat(str(index)) for index in range(6)], errors="return")
        counted = asker.counters()
    # a reply takes 10 + 5 tokens and costs 10 * 1e-6 + 5 * 2e-6
    assert [isinstance(one, BudgetSpent) for one in outcomes] == [False] * answered + [True] * (6 - answered)
    assert len(server.seen) == answered == counted.replies
    assert counted.cost == pytest.approx(20e-6 * answered) and counted.prompt_tokens == 10 * answered
    assert f"{next(iter(budget))}=" in str(outcomes[-1])


def test_a_budget_that_cannot_be_watched_says_so():
    with ScriptedServer(one_after_another(Act(usage=False))) as server:
        asker = client(server, budget={"max_tokens": 1000})
        assert asker.send(chat("?")).prompt_tokens is None
        with pytest.raises(BudgetSpent, match="does not say how many tokens"):
            asker.send(chat("?"))
        free = client(server)
        free.map([chat("?")] * 2)
    assert free.counters().without_usage == 2


def test_retries_are_within_the_budget():
    with ScriptedServer(one_after_another(Act(status=500))) as server, pytest.raises(BudgetSpent):
        client(server, budget={"max_requests": 2}).send(chat("?"))
    assert len(server.seen) == 2


def test_latencies_are_counted():
    with ScriptedServer(lambda seen, number: Act(seconds=0.3 if number == 0 else 0.0)) as server:
        asker = client(server)
        for _ in range(5):
            asker.send(chat("?"))
    counted = asker.counters()
    assert counted.p50_seconds < 0.3 <= counted.p99_seconds
    assert counted.calls == 5


def test_two_servers_share_the_load_and_one_may_die():
    a, b = Act("a", seconds=0.02), Act("b", seconds=0.02)
    with ScriptedServer(one_after_another(a)) as first, ScriptedServer(one_after_another(b)) as second:
        asker = client(first, second, max_concurrency=4)
        asker.map([chat("?")] * 40)
        shares = len(first.seen), len(second.seen)
        second.stop()
        outcomes = asker.map([chat("?")] * 40)
    assert min(shares) >= 15
    assert [one.text for one in outcomes] == ["a"] * 40
    assert asker.counters().retries <= 12, "the dead server was asked again and again"


def test_a_dead_server_is_taken_up_again():
    with ScriptedServer(lambda seen, number: Act("a", seconds=0.01)) as first, ScriptedServer() as second:
        port = second.port
        asker = client(first, second, max_concurrency=2)
        asker.send(chat("?"))
        second.stop()
        asker.map([chat("?")] * 6)
        with ScriptedServer(lambda seen, number: Act("b"), port=port) as again:
            until = time.monotonic() + 10
            while not again.seen and time.monotonic() < until:
                asker.map([chat("?")] * 4)
                time.sleep(0.05)
            assert again.seen


def test_an_outage_of_all_servers_is_outlived():
    with ScriptedServer() as server:
        port, asker = server.port, client(server, max_retries=8, backoff=0.1)
        asker.send(chat("?"))
    futures = [asker.submit(chat(str(index))) for index in range(10)]
    time.sleep(1.0)
    assert not any(future.done() for future in futures)
    with ScriptedServer(port=port) as back:
        assert [future.result(20).text for future in futures] == ["ok"] * 10
    assert len(back.seen) == 10


def test_who_is_set_aside():
    servers = Servers(["a", "b"])
    first, second = servers.servers
    servers.failed(first, started=0.0, now=1.0)
    servers.failed(first, started=0.5, now=1.1)  # fell together with the other
    assert first.faults_in_a_row == 1 and first.aside_until == 2.0
    assert servers.pick(1.5) == (second, 0.0)
    servers.failed(first, started=2.0, now=2.5)
    assert first.aside_until == 4.5
    servers.succeeded(second, now=3.0)
    servers.failed(second, started=2.9, now=3.1)  # it has answered since: only that request was unlucky
    assert second.aside_until < 0
    servers.leave_alone(second, until=9.0)
    assert servers.pick(4.0) == (first, 0.5)
    assert servers.pick(5.0) == (first, 0.0)
    second.aside_until = 0.0
    assert servers.pick(5.0, not_again=first) == (second, 0.0)


def test_a_body_that_is_no_json_is_the_callers_fault():
    with ScriptedServer() as server, pytest.raises(EndpointError, match="cannot be written as JSON"):
        client(server).send(chat([{"role": "user", "content": {1, 2}}]))
    assert not server.seen
