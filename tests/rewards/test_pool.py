"""The pool of workers, with real processes: what an item does to its worker harms no other item."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest

from reasonrl.errors import RewardError
from reasonrl.rewards.pool import RewardPool, close_shared_pools
from reasonrl.rewards.pool_dispatch import Dispatcher
from reasonrl.rewards.pool_state import MOST_TEXT, PoolSettings, VerdictCache
from reasonrl.rewards.verdict import Verdict

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # where workers find the graders

OBEY = "pool_graders:obey"
LIMIT = 0.5


def family() -> list[psutil.Process]:
    """Every process below this one."""
    return psutil.Process().children(recursive=True)


def wait_until(what: Any, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(what())


def processes(pool: RewardPool) -> list[psutil.Process]:
    """The pool's template and every process below it: not those of other tests, which this process may hold too."""
    template = pool._dispatcher._template
    if template is None:
        return []
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(template.process.pid)
        return [first, *first.children(recursive=True)]
    return []


def zombies(pool: RewardPool) -> list[str]:
    """Processes of the pool that ended and were not waited for, in words."""
    found = []
    for process in processes(pool):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_ZOMBIE:
                found.append(f"{process}, child of {process.parent()}")
    return found


@pytest.fixture
def pool() -> Iterator[RewardPool]:
    close_shared_pools()  # of other tests of this process: they would be counted, killed and made anew here
    before = {process.pid for process in family()}
    with RewardPool(2, time_limit=LIMIT, memory_limit_mb=700, grader=OBEY) as made:
        yield made
        assert wait_until(lambda: not zombies(made)), f"processes that died were not reaped: {zombies(made)}"
    assert wait_until(lambda: {process.pid for process in family()} <= before), "the pool has left processes behind"


HOSTILE = {
    "sleep 60": ("timeout", "limit of 0.5 s", 1),
    "spin": ("timeout", "limit of 0.5 s", 1),
    "pow": ("timeout", "limit of 0.5 s", 1),
    "deaf": ("timeout", "limit of 0.5 s", 1),
    "child": ("timeout", "limit of 0.5 s", 1),
    "memory 4000": ("crash", "memory", 0),
    "recurse": ("crash", "recurs", 0),
    "segfault": ("crash", "SIGSEGV", 0),
    "abort": ("crash", "SIGABRT (GNU MP: Cannot allocate memory)", 0),
    "exit 3": ("crash", "exit code 3", 0),
    "leave": ("crash", "SystemExit: 5", 0),
    "raise luck": ("fault", "ValueError: no luck", 0),
    "junk": ("fault", "returned a str, not a Verdict", 0),
    "nonsense": ("fault", "splendid", 0),
    "infinite": ("fault", "score = inf", 0),
    "print": ("wrong", "process", 0),
}


@pytest.mark.parametrize("deed", HOSTILE)
def test_a_hostile_item_gets_its_status_and_its_neighbours_get_theirs(pool: RewardPool, deed: str, capfd: Any) -> None:
    status, reason, kills = HOSTILE[deed]
    pairs = [(str(i), str(i if i % 3 else i + 1)) for i in range(60)]
    pairs[20] = ("1", deed)
    verdicts = pool.map(pairs)
    assert (verdicts[20].status, verdicts[20].score) == (status, None if status == "fault" else 0.0)
    assert reason in verdicts[20].reason
    others = [verdict.correct for place, verdict in enumerate(verdicts) if place != 20]
    assert others == [place % 3 != 0 for place in range(60) if place != 20]
    counters = pool.counters()
    assert (counters.items, counters.statuses[status] >= 1, counters.kills) == (60, True, kills)
    assert verdicts[20].seconds < LIMIT * 1.1 + 1
    if status == "timeout":
        assert verdicts[20].seconds >= LIMIT and counters.seconds_max == verdicts[20].seconds
    assert capfd.readouterr().out == ""


def test_all_of_them_at_once_and_the_pool_works_on(pool: RewardPool) -> None:
    pairs = [(str(i), str(i)) for i in range(300)]
    for place, deed in enumerate(HOSTILE):
        pairs[17 * place] = (str(17 * place), deed)
    verdicts = pool.map(pairs)
    assert {deed: verdicts[17 * place].status for place, deed in enumerate(HOSTILE)} == {
        deed: status for deed, (status, _, _) in HOSTILE.items()
    }
    assert sum(verdict.correct for verdict in verdicts) == 300 - len(HOSTILE)
    assert pool.map([("7", "7")])[0].correct
    assert pool.counters().peak_worker_mb < 700


def test_memory_stays_under_the_limit(pool: RewardPool) -> None:
    assert pool.map([("1", "memory 4000"), ("2", "2")])[0].status == "crash"
    assert 100 < pool.counters().peak_worker_mb < 700


def test_a_gold_that_hangs_with_anything_is_to_blame(pool: RewardPool) -> None:
    from pool_graders import STUCK_GOLD

    verdicts = pool.map([*((STUCK_GOLD, str(i)) for i in range(30)), ("1", "1")])
    assert {verdict.status for verdict in verdicts[:-1]} == {"bad_gold"} and verdicts[-1].correct
    assert {verdict.score for verdict in verdicts[:-1]} == {None}
    # Known after a few tries (those given ahead) and one with a trivial answer: the rest is not tried.
    assert pool.counters().kills < 15 and pool.counters().gold_checks == 1
    assert pool.map([(STUCK_GOLD, "later")])[0].status == "bad_gold" and pool.counters().gold_checks == 1


def test_the_clock_of_an_item_starts_with_its_own_work() -> None:
    with RewardPool(1, time_limit=LIMIT, grader=OBEY) as pool:
        verdicts = pool.map([(str(i), f"sleep 0.{i:03}") for i in range(240, 252)])
    assert {verdict.status for verdict in verdicts} == {"wrong"}  # 12 x 0.25 s in one queue, and none ran over
    assert pool.counters().kills == 0


def test_hostile_items_cost_their_limit_and_little_more() -> None:
    fair = [(str(i), "busy 0.002") if i % 2 else (str(i), str(i)) for i in range(400)]
    mixed = list(fair)
    mixed[100], mixed[101] = ("100", "spin"), ("101", "sleep 60")
    with RewardPool(2, time_limit=1.0, grader=OBEY, cache_size=0) as pool:
        pool.map(fair)
        started = time.monotonic()
        plain = pool.map(fair)
        quick = time.monotonic() - started
        verdicts = pool.map(mixed)
        added = time.monotonic() - started - 2 * quick
    assert [v.status for v in verdicts[100:102]] == ["timeout", "timeout"]
    same = [place for place in range(400) if place not in (100, 101)]
    assert [verdicts[i].score for i in same] == [plain[i].score for i in same]
    assert added < 2 * 1.0 / 2 + 4.0, "the second item alone would sleep for 60 s"


def test_one_that_dies_with_a_worker_that_was_broken_before_is_tried_again(pool: RewardPool, tmp_path: Path) -> None:
    verdicts = pool.map([("1", f"die_once {tmp_path / 'mark'}"), ("2", "2")])
    assert [verdict.status for verdict in verdicts] == ["wrong", "correct"]
    assert (pool.counters().crashes, pool.counters().retries) == (1, 1)


def test_many_crashes_among_many_items_blame_only_the_guilty(pool: RewardPool) -> None:
    pairs = [(str(i), "exit 1" if i % 10 == 0 else str(i)) for i in range(200)]
    verdicts = pool.map(pairs)
    assert [verdict.status for verdict in verdicts] == ["crash" if i % 10 == 0 else "correct" for i in range(200)]


def test_verdicts_come_in_order_and_as_they_are_made(pool: RewardPool) -> None:
    verdicts = pool.map([(str(i), f"sleep 0.0{9 - i}") for i in range(9)])
    assert [verdict.gold for verdict in verdicts] == [str(i) for i in range(9)]
    futures = {pool.submit("a", "sleep 0.3"): "slow", pool.submit("b", "b"): "quick"}
    assert [futures[future] for future in pool.as_completed(futures, timeout=10)] == ["quick", "slow"]
    assert pool.submit("x", "x", "strict").result(10).reason.split(", ")[1] == "policy strict"


def test_an_item_behind_a_slow_one_goes_to_an_idle_worker() -> None:
    with RewardPool(2, time_limit=50, grader=OBEY) as pool:
        pool.map([(str(i), "busy 0.0005") for i in range(100)])  # short items: several are given at once
        slow = pool.submit("slow", "sleep 20")
        started = time.monotonic()
        assert all(verdict.correct for verdict in pool.map([(str(i), str(i)) for i in range(64)]))
        assert time.monotonic() - started < 15 and not slow.done()


def test_equal_questions_are_graded_once(pool: RewardPool) -> None:
    first = pool.submit("1", "sleep 0.3")
    twin = pool.submit("1", "sleep 0.3")
    assert first.result(10) == twin.result(10)
    again = pool.submit("1", "sleep 0.3")
    assert again.done() and again.result() == first.result() and again.result().seconds >= 0.3
    assert pool.counters().cache_hits == 2 and pool.counters().items == 3
    other = pool.submit("1", "sleep 0.3", "strict").result(10)
    assert other != first.result()
    timeout = pool.submit("1", "sleep 60").result(10)
    assert pool.submit("1", "sleep 60").result(0.1) == timeout and pool.counters().kills == 1
    assert pool.submit("1", "raise x").result(10) != pool.submit("1", "raise x").result(10)  # a fault is no verdict


def test_the_cache_holds_so_many_and_zero_is_none() -> None:
    with RewardPool(1, grader=OBEY, cache_size=3) as small:
        made = [small.submit("1", str(i)).result(10) for i in range(4)]
        assert [small.submit("1", str(i)).result(10) == made[i] for i in (3, 2, 1, 0)] == [True, True, True, False]
    with RewardPool(1, grader=OBEY, cache_size=0) as none:
        assert none.submit("1", "1").result(10) != none.submit("1", "1").result(10)
        assert none.counters().cache_hits == 0


def test_long_verdicts_push_out_more_than_their_share() -> None:
    cache = VerdictCache(1000)
    for number in range(40):
        cache.put(bytes([number]), Verdict("wrong", 0.0, "x" * 1_000_000, str(number), "", 0.0))
    assert len(cache) == MOST_TEXT // 1_000_002
    assert cache.get(bytes([39])) is not None and cache.get(bytes([0])) is None
    for number in range(2000):
        cache.put(str(number).encode(), Verdict("wrong", 0.0, "x", "", "", 0.0))
    assert len(cache) == 1000


def test_submit_blocks_while_too_many_wait() -> None:
    with RewardPool(1, grader=OBEY, max_pending=5) as pool:
        futures: list[Future[Verdict]] = []
        most = 0

        def submit_all() -> None:
            for i in range(20):
                futures.append(pool.submit(str(i), "sleep 0.05"))

        thread = threading.Thread(target=submit_all)
        thread.start()
        while thread.is_alive():
            most = max(most, pool.counters().pending)
            time.sleep(0.002)
        thread.join()
        assert 3 <= most <= 5
        assert len([future.result(10) for future in futures]) == 20
        assert len(pool.map([(str(i), "x") for i in range(200)])) == 200


def test_a_callback_may_submit_though_there_is_no_room() -> None:
    with RewardPool(1, grader=OBEY, max_pending=1) as pool:
        more: list[Future[Verdict]] = []
        seen = threading.Event()

        def again(future: Future[Verdict]) -> None:
            more.append(pool.submit("2", "sleep 0.1"))
            more.append(pool.submit("3", "3"))
            seen.set()

        pool.submit("1", "sleep 0.1").add_done_callback(again)
        assert seen.wait(10) and [future.result(10).status for future in more] == ["wrong", "correct"]


def test_threads_may_share_a_pool(pool: RewardPool) -> None:
    results: dict[int, list[Verdict]] = {}

    def work(number: int) -> None:
        results[number] = pool.map([(f"{number} {i}", f"{number} {i}") for i in range(200)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(v.correct and v.gold == f"{n} {i}" for n, vs in results.items() for i, v in enumerate(vs))
    assert len(results) == 8 and pool.counters().items == 1600


def test_cancelled_items_are_not_graded() -> None:
    with RewardPool(1, grader=OBEY, max_pending=1000) as pool:
        first = pool.submit("0", "sleep 0.3")
        rest = [pool.submit(str(i), "sleep 0.3") for i in range(1, 200)]
        assert sum(future.cancel() for future in rest) == 199
        first.result(10)
        started = time.monotonic()
        assert pool.submit("x", "x").result(30).correct
        assert time.monotonic() - started < 20  # of 60: at most what had been given ahead was graded
        assert wait_until(lambda: pool.counters().pending == 0)


def test_text_of_any_kind_goes_through(pool: RewardPool) -> None:
    texts = ["", "\x00", "\ud800 alone \udfff", "\ud83d\ude00", "é∞½\u202e\r\n", "z" * 3_000_000, '"\\u0000', "[1,2]"]
    verdicts = pool.map([(text, text) for text in texts])
    assert all(verdict.correct for verdict in verdicts)
    assert [verdict.extracted for verdict in verdicts] == texts


def test_workers_are_replaced_with_age() -> None:
    with RewardPool(2, grader=OBEY, max_items_per_worker=10, cache_size=0) as pool:
        verdicts = pool.map([(str(i), str(i)) for i in range(200)])
        assert all(verdict.correct for verdict in verdicts)
        assert len({verdict.reason.split(",")[0] for verdict in verdicts}) >= 20
        assert pool.counters().recycled >= 18 and pool.counters().crashes == 0


def test_a_worker_that_has_grown_is_replaced() -> None:
    with RewardPool(1, grader=OBEY, memory_limit_mb=4096, time_limit=10) as pool:
        pool.map([("1", "fill 450"), ("2", "2")])
        assert pool.counters().recycled == 1 and pool.counters().peak_worker_mb > 450


def test_processes_that_others_kill_are_replaced(pool: RewardPool) -> None:
    assert pool.map([("1", "1")])[0].correct
    victims = processes(pool)
    assert len(victims) >= 3  # the template and two workers
    for victim in victims:
        victim.kill()
    assert all(verdict.correct for verdict in pool.map([(str(i), str(i)) for i in range(50)]))


def test_a_template_that_dies_just_before_it_is_asked_is_replaced() -> None:
    """The moment between a kill and the dispatcher's hearing of it, held still: its thread is not started."""
    dispatcher = Dispatcher(PoolSettings(1, LIMIT, 700, 100, 0, 10, OBEY, 60.0))
    try:
        dispatcher._start_template()
        first = dispatcher._template
        assert first is not None
        assert wait_until(lambda: dispatcher._on_template() or first.ready, 60)
        first.process.kill()
        first.process.wait()
        dispatcher._hire()
        assert not dispatcher._workers
        dispatcher._on_template()
        assert dispatcher._template is not first
    finally:
        dispatcher._end()


def test_what_a_worker_is_given(pool: RewardPool) -> None:
    devices, threads, memory, main, path = eval(pool.submit("", "surroundings").result(10).reason)
    assert (devices, threads, memory, main) == ("", "1", 700 << 20, None)
    assert path == sys.path[0]
    with RewardPool(1, 7.5, grader="pool_graders:with_limit") as other:
        assert other.submit("", "").result(10).reason == "limit 7.5"


def test_the_event_loop_goes_on_while_items_hang(pool: RewardPool) -> None:
    async def main() -> tuple[Verdict, float, int]:
        ticks, longest, last = 0, 0.0, time.monotonic()
        work = asyncio.create_task(pool.averify("1", "spin"))
        while not work.done():
            await asyncio.sleep(0.005)
            now = time.monotonic()
            ticks, longest, last = ticks + 1, max(longest, now - last), now
        return work.result(), longest, ticks

    verdict, longest, ticks = asyncio.run(main())
    assert verdict.status == "timeout" and longest < 0.3 and ticks > 20


def test_a_stream_of_more_than_there_is_room_for() -> None:
    async def main(pool: RewardPool) -> list[tuple[int, Verdict]]:
        pairs = [(str(i), "sleep 0.3" if i == 0 else str(i)) for i in range(300)]
        return [item async for item in pool.astream(pairs)]

    with RewardPool(2, grader=OBEY, max_pending=20) as pool:
        found = asyncio.run(main(pool))
    places = [place for place, _ in found]
    assert sorted(places) == list(range(300)) and places.index(0) > 10
    assert all(verdict.correct == (place != 0) and verdict.gold == str(place) for place, verdict in found)


def test_many_tasks_of_an_event_loop_wait_for_room_and_a_cancelled_one_is_dropped() -> None:
    async def main(pool: RewardPool) -> list[Verdict]:
        tasks = [asyncio.create_task(pool.averify(str(i), "busy 0.002")) for i in range(100)]
        late = asyncio.create_task(pool.averify("late", "sleep 60"))
        await asyncio.sleep(0.01)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        return list(await asyncio.gather(*tasks))

    with RewardPool(1, grader=OBEY, max_pending=3) as pool:
        assert [verdict.gold for verdict in asyncio.run(main(pool))] == [str(i) for i in range(100)]
        assert pool.counters().kills == 0


def test_cancelled_tasks_give_their_place_to_those_behind_them() -> None:
    async def main(pool: RewardPool) -> int:
        tasks = [asyncio.create_task(pool.averify(str(i), "busy 0.001")) for i in range(300)]
        await asyncio.sleep(0.05)
        for place, task in enumerate(tasks):
            if place % 3:
                task.cancel()
        done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        return sum(isinstance(verdict, Verdict) for verdict in done)

    with RewardPool(1, grader=OBEY, max_pending=2) as pool:
        assert asyncio.run(main(pool)) >= 100


def test_after_close_nothing_is_taken_and_whoever_waits_is_told() -> None:
    pool = RewardPool(1, grader=OBEY)
    waiting = pool.submit("1", "sleep 60")
    time.sleep(0.1)
    pool.close()
    pool.close()
    with pytest.raises(RewardError, match="the reward pool was closed before"):
        waiting.result(1)
    with pytest.raises(RewardError, match="closed"):
        pool.submit("1", "1")
    assert pool.closed and pool.counters().items == 0


def test_a_blocked_submit_ends_when_the_pool_closes() -> None:
    pool = RewardPool(1, grader=OBEY, max_pending=1)
    pool.submit("1", "sleep 60")
    errors: list[BaseException] = []

    def submit() -> None:
        try:
            pool.submit("2", "2")
        except RewardError as error:
            errors.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    time.sleep(0.2)
    pool.close()
    thread.join(5)
    assert not thread.is_alive() and len(errors) == 1


@pytest.mark.parametrize(
    ("grader", "said"),
    [
        ("no_such_module_here:f", "No module named 'no_such_module_here'"),
        ("pool_graders:no_such_function", "has no attribute 'no_such_function'"),
        ("pool_bad_import:grade", "ZeroDivisionError"),
        ("pool_bad_threads:threading", "has started 1 threads while it was imported"),
        ("pool_bad_exit:grade", "its process ended with status 7; it wrote:\nlast words"),
        ("pool_bad_sleep:grade", "was not ready after 1 s"),
    ],
)
def test_a_grader_that_cannot_be_loaded_is_named(
    grader: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {
        "import": "1 / 0",
        "threads": "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        "exit": "import os\nos.write(2, b'last words')\nos._exit(7)",
        "sleep": "import time\ntime.sleep(60)",
    }
    for name, text in modules.items():
        (tmp_path / f"pool_bad_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with RewardPool(1, grader=grader, start_timeout=1 if "sleep" in grader else 60) as pool:
        future = pool.submit("1", "1")
        with pytest.raises(RewardError) as caught:
            future.result(60)
        assert said in str(caught.value) and f"cannot start a worker for '{grader}'" in str(caught.value)
        with pytest.raises(RewardError, match="cannot start a worker"):
            pool.map([("1", "1")])


def test_too_little_memory_to_work_is_said() -> None:
    with RewardPool(1, memory_limit_mb=64) as pool, pytest.raises(RewardError, match="memory_limit_mb = 64"):
        pool.map([("1", "1")])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"workers": 0}, "workers=0 must be a whole number of at least 1"),
        ({"time_limit": 0}, "time_limit=0 must be a number of seconds above 0"),
        ({"time_limit": float("nan")}, "time_limit=nan"),
        ({"memory_limit_mb": 1.5}, "memory_limit_mb=1.5"),
        ({"cache_size": -1}, "cache_size=-1"),
        ({"max_pending": True}, "max_pending=True"),
        ({"grader": "verify"}, "grader='verify' must be 'module:function'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(RewardError) as caught:
        RewardPool(**arguments)
    assert said in str(caught.value)


def test_what_is_no_text_is_refused(pool: RewardPool) -> None:
    with pytest.raises(RewardError, match="response is 5, a int, where text was expected"):
        pool.submit("1", 5)  # type: ignore[arg-type]
    with pytest.raises(RewardError, match="gold is None"):
        pool.map([("1", "1"), (None, "1")])  # type: ignore[list-item]


def test_the_math_verifier_is_the_default_grader() -> None:
    with RewardPool(1) as pool:
        verdicts = pool.map([("1/2", r"\boxed{0.5}"), ("3", r"\boxed{4}"), ("x^2-1", r"\boxed{(x-1)(x+1)}")])
        assert [verdict.status for verdict in verdicts] == ["correct", "wrong", "correct"]
        with pytest.raises(RewardError, match="policy 'no such policy' is unknown"):
            pool.submit("1", r"\boxed{1}", "no such policy")
    assert 0 < pool.counters().seconds_p50 <= pool.counters().seconds_p99 <= pool.counters().seconds_max
    assert os.getpid() == pool._process
