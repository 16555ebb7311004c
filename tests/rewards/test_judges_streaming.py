"""Many questions to a real server: how many are begun and not kept, what a caller who stops drops, what ends it all."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from judging_server import Act, ScriptedServer

from reasonrl.endpoints import BudgetSpent, EndpointClient
from reasonrl.rewards.judges.asking import Answer, Question, Sampling
from reasonrl.rewards.judges.streaming import stream_answers
from reasonrl.rewards.judges.texts import imitates

SAMPLING = Sampling(None, 10, None, 0)


def client_of(server: ScriptedServer, concurrency: int, **more: object) -> EndpointClient:
    return EndpointClient({"base_url": server.url, "model": "m", "max_concurrency": concurrency, **more})


def test_no_more_are_begun_and_not_kept_than_may_be_asked_at_once() -> None:
    kept: list[int] = []
    lock = threading.Lock()
    excess: list[int] = []

    def script(seen: object, number: int) -> Act:
        with lock:
            excess.append(number + 1 - len(kept))
        return Act(f"reply {number}", seconds=0.002 * (number % 4))

    def questions() -> Iterator[Question]:
        for number in range(200):
            if number == 100:
                time.sleep(0.2)  # the workers run dry and must be woken again
            yield Question(number, f"question {number}", str.upper)

    def keep(question: Question, answer: Answer) -> None:
        with lock:
            kept.append(question.place)

    with ScriptedServer(script) as server, client_of(server, 5) as client:
        found = {question.place: answer for question, answer in stream_answers(client, questions(), SAMPLING, keep)}
    assert sorted(found) == list(range(200)) == sorted(kept)
    assert all(answer.verdict.startswith("REPLY ") for answer in found.values())
    assert server.most <= 5 and max(excess) <= 5


def test_a_caller_who_stops_drops_what_is_under_way() -> None:
    with ScriptedServer(lambda seen, number: Act("x", seconds=0.05)) as server, client_of(server, 2) as client:
        stream = stream_answers(client, (Question(n, "q", str) for n in range(1000)), SAMPLING)
        next(stream)
        stream.close()
        time.sleep(0.3)
        there = len(server.seen)
        time.sleep(0.2)
        assert len(server.seen) == there < 20


def test_what_is_under_way_comes_before_the_error_that_ends_it() -> None:
    with ScriptedServer(lambda seen, number: Act("x", seconds=0.05)) as server:
        with client_of(server, 4, budget={"max_requests": 10}) as client:
            found: list[Question] = []
            with pytest.raises(BudgetSpent):
                for question, _ in stream_answers(client, (Question(n, "q", str) for n in range(100)), SAMPLING):
                    found.append(question)
        assert len(found) == len(server.seen) == 10


def test_texts_that_hold_none_of_the_words_need_no_search() -> None:
    word, any_letter = r"(?:kind|steps)[\"'\s]*:", re.compile(r"[a-z\\]", re.IGNORECASE)
    alike = [chr(n) for n in range(128, sys.maxunicode + 1) if any_letter.fullmatch(chr(n))]
    assert alike
    texts = ["Kind :", '{"STEPS" : [', "kinds", "k\\u0069nd", "nothing: here", "", "ſtepſ:", *alike]
    texts += ["kind:".replace("i", letter).replace("k", letter) for letter in alike]
    texts += [f"{letter}ind:" for letter in alike] + [f"k{letter}nd:" for letter in alike]
    for text in texts:
        assert imitates(word, text, words=("kind", "steps")) == imitates(word, text), text
    assert imitates(word, "fine", "Kıfine kİnd:", words=("kind", "steps"))
