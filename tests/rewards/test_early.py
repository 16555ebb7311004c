"""Rewards that begin early: equal scores with and without, no work twice, gates that still ask nobody in vain."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reasonrl.errors import RewardError
from reasonrl.rewards import get_reward
from reasonrl.rewards.early import Begun, Hands, begin, can_begin, forget
from reasonrl.rewards.grading import FEW
from reasonrl.rewards.judges import ChecklistReward, LLMVerifierReward, PairwiseReward
from reasonrl.rewards.pool import RewardPool, close_shared_pools, shared_pool

sys.path.insert(0, str(Path(__file__).parent))
from judging_server import Act, ScriptedServer, code_in, parts_of


@pytest.fixture(autouse=True)
def pools():
    yield
    close_shared_pools()


class Logged:
    """The columns and scalars of a call."""

    def __init__(self, reward, batch):
        self.extra, self.metric = {}, {}
        self.scores = reward(**batch, log_extra=self.extra.__setitem__, log_metric=self.metric.__setitem__)


def begin_all(reward, batch):
    """Hand every sample over as a trainer does."""
    columns = [name for name in batch if name not in ("prompts", "completions")]
    prompts = batch.get("prompts") or [None] * len(batch["completions"])
    for place, completion in enumerate(batch["completions"]):
        begin(reward, prompts[place], completion, {name: batch[name][place] for name in columns})


def both_ways(make, batch):
    """What a reward gives without and with `begin`, each by an object and a pool of its own."""
    plain = Logged(make(), batch)
    close_shared_pools()
    early = make()
    begin_all(early, batch)
    return plain, Logged(early, batch)


def test_math_is_graded_once_and_alike():
    golds = ["1/2", "x^2-1", "12", None, "\\sqrt{2}", "7"] * 5
    said = [rf"so \boxed{{{value}}}" for value in ("0.5", "(x-1)(x+1)", "13", "4", "1.41421356", "seven")] * 5
    batch = {"completions": said, "answer": golds}
    plain, early = both_ways(lambda: get_reward({"name": "math", "args": {"workers": 1}}), batch)
    assert early.scores == plain.scores and set(plain.scores) == {0.0, 1.0, None}
    assert all(early.extra[name] == plain.extra[name] for name in ("verdict", "extracted"))
    assert {k: v for k, v in early.metric.items() if "time/" not in k} == {
        k: v for k, v in plain.metric.items() if "time/" not in k
    }
    counters = shared_pool(1).counters()
    assert counters.items == 25, "what was begun is counted when it is asked for, not twice"
    assert counters.cache_hits == 25, "and all of it was begun: done, or in work"


def test_the_call_finds_the_verdicts_ready():
    batch = {"completions": [rf"\boxed{{{n} + 1}}" for n in range(20)], "answer": [str(n) for n in range(20)]}
    reward = get_reward({"name": "math", "args": {"workers": 1}})
    begin_all(reward, batch)
    deadline = time.monotonic() + 60
    while shared_pool(1).counters().pending and time.monotonic() < deadline:
        time.sleep(0.01)
    assert shared_pool(1).counters().items == 0, "nobody has asked yet"
    assert reward(**batch) == [0.0] * 20
    counters = shared_pool(1).counters()
    assert (counters.items, counters.cache_hits) == (20, 20), "every verdict was there when the call came"


def test_a_few_and_no_workers_begin_nothing():
    reward = get_reward({"name": "math", "args": {"workers": 0}})
    begin_all(reward, {"completions": ["\\boxed{1}"] * 30, "answer": ["1"] * 30})
    assert threads_named("reasonrl-pool") == 0
    code = (
        "import threading\n"
        "from reasonrl.rewards import get_reward\n"
        "reward = get_reward('math')\n"
        "def pool(): return any(thread.name == 'reasonrl-pool' for thread in threading.enumerate())\n"
        f"for _ in range({FEW}): reward.begin('', r'\\boxed{{1}}', {{'answer': '1'}})\n"
        "assert not pool(), 'a few are graded in the process'\n"
        "reward.begin('', r'\\boxed{1}', {'answer': '1'})\n"
        "assert pool(), 'more are worth a pool'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def threads_named(name):
    return sum(thread.name == name for thread in threading.enumerate())


def test_beginning_waits_for_no_room():
    with RewardPool(workers=1, max_pending=2, grader="pool_graders:obey") as pool:
        begun = [pool.prefetch("1", f"sleep {n + 1}") for n in range(8)]
        assert begun == [True, True] + [False] * 6
    with RewardPool(workers=1, cache_size=0) as pool:
        assert not pool.prefetch("1", "1"), "nothing would keep the verdict"


def programs(count):
    good, bad = "print(int(input()) * 2)", "print(int(input()) * 3)"
    said = [f"```python\n{good if n % 2 else bad}\n```" for n in range(count)]
    return {"completions": said, "tests": [{"inputs": ["4"], "outputs": ["8"]}] * count}


def test_code_runs_once_a_sample():
    def make():
        return get_reward({"name": "code", "args": {"workers": 2}})

    plain, early = both_ways(make, programs(4))
    assert plain.scores == [0.0, 1.0, 0.0, 1.0]
    assert (early.scores, early.extra, early.metric) == (plain.scores, plain.extra, plain.metric)
    reward = make()
    ran = []
    judge = reward._judge
    reward._judge = lambda *job: (ran.append(job), judge(*job))[1]
    begin_all(reward, programs(4))
    assert reward(**programs(4)) == plain.scores
    assert len(ran) == 4, "equal programs run as often as without, and none twice"
    again = pickle.loads(pickle.dumps(make()))
    assert again(**programs(2)) == [0.0, 1.0]


def honest(seen, number):
    parts = parts_of(seen)
    word = "CORRECT" if parts["response"].rstrip(".").endswith(parts["reference answer"]) else "WRONG"
    return Act(f"Compared.\nVERDICT {code_in(seen)}: {word}")


@pytest.mark.parametrize("rule_first", [False, True])
def test_a_judge_is_asked_while_samples_come(rule_first):
    said = ["It is 4.", "It is 5.", "It is 4.", "<think>4", "It is x."]
    batch = {"prompts": ["2+2?"] * 5, "completions": said, "answer": ["4", "4", "4", "4", None]}
    with ScriptedServer(honest) as server:
        endpoint = {"base_url": server.url, "model": "judge"}

        def make():
            return LLMVerifierReward(endpoint, votes=2, rule_first=rule_first, temperature=0.0)

        plain = Logged(make(), batch)
        asked = len(server.seen)
        early = make()
        begin_all(early, batch)
        deadline = time.monotonic() + 30
        while len(server.seen) < 2 * asked and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(server.seen) == 2 * asked, "all questions were asked before the call"
        called = Logged(early, batch)
        assert len(server.seen) == 2 * asked, "and none again"
    assert called.scores == plain.scores == ([1.0, 0.0, 1.0, 0.0, None])
    assert (called.extra, called.metric) == (plain.extra, plain.metric), "the tokens of early questions count too"


def test_a_judge_that_decides_first_waits_for_its_own_samples_only(monkeypatch):
    """Answers of the next step stand in the pool's queue while this step is judged, and beginning waits for none."""
    said = [r"\boxed{4}", r"\boxed{5}", r"\boxed{x}"]
    row = {"answer": "4"}
    with ScriptedServer(honest) as server, RewardPool(1, 100.0, grader="pool_graders:sleep_or_verify") as pool:
        monkeypatch.setattr("reasonrl.rewards.pool.shared_pool", lambda *_: pool)
        judge = LLMVerifierReward({"base_url": server.url, "model": "judge"}, rule_first=True)
        for one in said:
            begin(judge, "2+2?", one, row)
        started = time.monotonic()
        for place in range(6):
            begin(judge, "2+2?", f"sleep {60 + place}", row)
        assert time.monotonic() - started < 10, "it waits for no verdict"
        assert judge(prompts=["2+2?"] * 3, completions=said, answer=["4"] * 3) == [1.0, 0.0, 0.0]
        assert time.monotonic() - started < 50, "nor for those of other samples"
        assert [parts_of(seen)["response"] for seen in server.seen] == [said[2]], "the rules decide the others"


def test_every_kind_of_judge_begins():
    def scripted(seen, number):
        code = code_in(seen)
        if "response A" in parts_of(seen):
            scores = f'"score_a": {7 + number % 2}, "score_b": 3, "flags_a": [], "flags_b": []'
            return Act(f'{{"code": "{code}", {scores}}}')
        return Act(f'{{"code": "{code}", "verdicts": {{"1": "yes"}}}}')

    rows = {"prompts": ["?"] * 2, "completions": ["a", "b"]}
    with ScriptedServer(scripted) as server:
        endpoint = {"base_url": server.url, "model": "judge"}
        for make, column in (
            (lambda: PairwiseReward(endpoint), {"reference": ["c", "d"]}),
            (lambda: ChecklistReward(endpoint), {"rubric": [[{"item": "is short", "weight": 1}]] * 2}),
        ):
            before = len(server.seen)
            reward = make()
            begin_all(reward, {**rows, **column})
            deadline = time.monotonic() + 30
            while len(server.seen) == before and time.monotonic() < deadline:
                time.sleep(0.01)
            reward(**rows, **column)
            early = len(server.seen) - before
            make()(**rows, **column)
            assert len(server.seen) - before == 2 * early, "as many questions with as without"


class Probe:
    """A reward that notes what is begun and called."""

    token_level = False

    def __init__(self, name, scores=None):
        self.__name__ = name
        self.scores, self.begun, self.called = scores, [], []

    def begin(self, prompt, completion, row):
        self.begun.append((prompt, completion, row["x"]))

    def __call__(self, prompts=None, completions=(), **columns):
        self.called += list(completions)
        return [1.0 if self.scores is None else self.scores for _ in completions]


def test_combinations_hand_it_on():
    one, other = Probe("one"), Probe("other")
    row = {"x": 3, "finish_reason": "stop", "reward": "one", "completion_ids": [1]}
    begin(get_reward([{"name": one, "weight": 2.0}, {"name": other}]), "p", "c", row)
    assert one.begun == other.begun == [("p", "c", 3)]
    route = get_reward({"name": "route", "args": {"rewards": {"one": one, "other": other}}})
    begin(route, "p", "routed", row)
    begin(route, "p", "lost", {**row, "reward": "nobody"})
    assert [said for _, said, _ in one.begun] == ["c", "routed"] and len(other.begun) == 1
    begin(get_reward({"name": "cosine", "args": {"max_tokens": 9, "reward": one}}), "p", "cosine", row)
    assert one.begun[-1][1] == "cosine"
    assert not one.called and not other.called


def test_a_gate_begins_no_part_that_may_not_be_asked():
    first, second = Probe("first"), Probe("second")
    gate = get_reward({"name": "gate", "args": {"parts": ["stop", first, second]}})
    row = {"x": 1, "completion_ids": [1]}
    begin(gate, "p", "cut", {**row, "finish_reason": "length"})
    assert not first.begun, "the gate is shut: the sample was cut"
    begin(gate, "p", "whole", {**row, "finish_reason": "stop"})
    assert [said for _, said, _ in first.begun] == ["whole"]
    assert not second.begun, "whether the second is asked depends on the first one's score"
    begin(gate, "p", "unknown", row)
    with pytest.raises(RewardError, match="nothing says how a completion ended"):
        gate(prompts=["p"], completions=["unknown"], completion_ids=[[1]], x=[1])


def test_a_gate_may_begin_all_parts_and_keeps_nothing_that_is_not_asked_for():
    """Two slow parts begin together; what the second one made for samples that the first puts to 0 is given up."""
    good, bad = "```python\nprint(8)\n```", "```python\nprint(7)\n```"

    def slow(seen, number):
        if "print(7)" in parts_of(seen)["response"]:
            time.sleep(1)
        return honest_code(seen)

    def honest_code(seen):
        return Act(f"VERDICT {code_in(seen)}: CORRECT")

    rows = [{"tests": {"inputs": ["4"], "outputs": ["8"]}, "answer": "8", "finish_reason": "stop"}] * 3
    said = [good, bad, good]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    with ScriptedServer(slow) as server:
        judge = LLMVerifierReward({"base_url": server.url, "model": "judge"})
        parts = ["stop", {"name": "code", "args": {"workers": 2}}, judge]
        gate = get_reward({"name": "gate", "args": {"parts": parts, "begin_all": True}})
        for completion, row in zip(said, rows, strict=True):
            begin(gate, "p", completion, row)
        begin(gate, "p", good, {**rows[0], "finish_reason": "length"})  # shut: nothing begins
        deadline = time.monotonic() + 30
        while len(server.seen) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(server.seen) == 3, "the judge was asked before the programs were run"
        assert gate(prompts=["p"] * 3, completions=said, **columns) == [1.0, 0.0, 1.0]
        assert len(server.seen) == 3
        code = gate.parts[1]
        assert len(code._begun) == len(judge._begun) == 0
        begin(gate, "p", good, rows[0])
        assert len(code._begun) == len(judge._begun) == 1
        forget(gate)
        assert len(code._begun) == len(judge._begun) == 0
        plain = get_reward({"name": "gate", "args": {"parts": parts}})
        assert plain(prompts=["p"] * 3, completions=said, **columns) == [1.0, 0.0, 1.0]


def test_what_is_given_up_does_not_run():
    ran = []
    hands, begun, gate = Hands(1, "test-forget"), Begun(), threading.Event()
    begun.put("a", hands.submit(lambda: gate.wait(30)))
    for number in range(5):
        begun.put(number, hands.submit(lambda number=number: ran.append(number)))
    begun.since = "then"
    begun.clear()
    assert len(begun) == 0 and begun.since is None and begun.take("a") is None
    gate.set()
    hands.submit(lambda: ran.append("last")).result(timeout=30)
    assert ran == ["last"]


def test_user_functions_begin_if_they_can(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "class Mine:\n"
        "    def __init__(self):\n        self.begun = []\n"
        "    def begin(self, prompt, completion, row):\n        self.begun.append(completion)\n"
        "    def __call__(self, completions, **columns):\n"
        "        return [float(one in self.begun) for one in completions]\n"
        "def plain(completions, **columns):\n    return [0.0 for _ in completions]\n"
    )
    reward = get_reward("mine.py:Mine", tmp_path)
    begin(reward, "p", "seen", {})
    assert reward(prompts=["p", "p"], completions=["seen", "new"]) == [1.0, 0.0]
    plain = get_reward("mine.py:plain", tmp_path)
    begin(plain, "p", "c", {})
    assert plain(prompts=["p"], completions=["c"]) == [0.0]
    assert can_begin(reward) and not can_begin(lambda completions: [])


def test_what_is_begun_is_taken_once_and_stays_in_its_process():
    begun, hands = Begun(), Hands(2, "test-hands")
    futures = [hands.submit(lambda n=n: n * n) for n in range(3)]
    for future in futures:
        begun.put("key", future)
    copy = pickle.loads(pickle.dumps(begun))
    assert copy.take("key") is None
    assert [begun.take("key").result(10) for _ in range(3)] == [0, 1, 4]
    assert begun.take("key") is None and begun.take("other") is None


def test_hands_work_side_by_side_and_pass_errors_on():
    hands = Hands(3, "test-side")
    barrier = threading.Barrier(3)
    futures = [hands.submit(lambda: barrier.wait(20)) for _ in range(3)]
    assert sorted(future.result(30) for future in futures) == [0, 1, 2], "three at the same time"
    assert threads_named("test-side") == 3
    with pytest.raises(ZeroDivisionError):
        hands.submit(lambda: 1 // 0).result(10)
    assert pickle.loads(pickle.dumps(hands)).submit(lambda: 5).result(10) == 5
