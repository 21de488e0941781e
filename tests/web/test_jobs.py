"""Jobs: who goes first, who is served twice, what is kept, who is stopped, and what a failure leaves behind."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from conceptlab.errors import InputError, RunError
from conceptlab.web.jobs import Busy, Event, Job, Jobs, Said, current_job, job_progress, weight_of
from tests.web.looped import looped


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs()
    yield made
    made.close()


class Gate:
    """Holds the engine inside a step until the test opens it."""

    def __init__(self, jobs: Jobs) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

        def work() -> Iterator[Said]:
            self.entered.set()
            assert self.open.wait(10)
            yield Said(1.0)

        self.job = jobs.submit("gate", work, key="gate", short=True, keep=True)
        assert self.entered.wait(10)


def wait(*jobs: Job) -> None:
    async def all_over() -> list[bool]:
        return [await job.finished(10) for job in jobs]

    assert all(looped(all_over()))


def noting(order: list[str], name: str, steps: int = 3) -> Callable[[], Iterator[Said]]:
    def work() -> Iterator[Said]:
        for step in range(steps):
            order.append(name)
            yield Said((step + 1) / steps, f"step {step}")

    return work


def test_a_job_gives_its_result_and_says_how_far_it_is(jobs: Jobs) -> None:
    def work() -> Iterator[Said]:
        yield Said(0.5, "half")
        return 7

    job = jobs.submit("seven", work, key=1)
    wait(job)
    assert (job.state, job.result, job.fraction, job.said, job.error) == ("done", 7, 1.0, "half", None)
    assert 0 <= job.worked <= job.seconds


def test_a_plain_function_is_a_job_of_one_step(jobs: Jobs) -> None:
    job = jobs.submit("plain", lambda: 3, key=1)
    wait(job)
    assert job.result == 3


def test_the_same_key_is_the_same_job_and_its_result_is_not_computed_again(jobs: Jobs) -> None:
    calls = []
    gate = Gate(jobs)
    first = jobs.submit("a", lambda: calls.append(1), key=("a", 1))
    assert jobs.submit("a", lambda: calls.append(2), key=("a", 1)) is first
    gate.open.set()
    wait(first)
    assert jobs.submit("a", lambda: calls.append(3), key=("a", 1)) is first
    other = jobs.submit("a", lambda: calls.append(4), key=("a", 2))
    wait(other)
    assert other is not first
    assert calls == [1, 4]


def test_short_jobs_go_first_and_the_oldest_of_them_before_the_others(jobs: Jobs) -> None:
    order: list[str] = []
    gate = Gate(jobs)
    made = [
        jobs.submit(name, noting(order, name, 1), key=name, short=name.startswith("s"))
        for name in ("long", "s1", "s2", "s3")
    ]
    assert jobs.ahead(made[0]) == 4  # the gate and three short ones
    assert jobs.ahead(made[2]) == 2
    gate.open.set()
    wait(*made)
    assert order == ["s1", "s2", "s3", "long"]


def test_long_jobs_take_turns(jobs: Jobs) -> None:
    order: list[str] = []
    gate = Gate(jobs)
    made = [jobs.submit(name, noting(order, name), key=name) for name in "ab"]
    gate.open.set()
    wait(*made)
    assert order == ["a", "b"] * 3


def test_a_flood_of_short_jobs_does_not_starve_a_long_one(jobs: Jobs) -> None:
    order: list[str] = []
    gate = Gate(jobs)
    long = jobs.submit("long", noting(order, "long"), key="long")
    short = [jobs.submit(f"s{i}", noting(order, "s", 1), key=i, short=True) for i in range(40)]
    gate.open.set()
    wait(long, *short)
    assert 3 <= order.index("long") <= 8
    assert "s" in order[order.index("long") :]


def test_a_short_job_that_takes_long_loses_its_place() -> None:
    now = [0.0]
    jobs = Jobs(clock=lambda: now[0])
    order: list[str] = []

    def slow() -> Iterator[Said]:
        for _ in range(3):
            now[0] += 1.5
            order.append("slow")
            yield Said()

    gate = Gate(jobs)
    made = [
        jobs.submit("slow", slow, key=1, short=True, keep=True),
        jobs.submit("quick", noting(order, "quick", 1), key=2, short=True, keep=True),
    ]
    gate.open.set()
    wait(*made)
    jobs.close()
    assert order == ["slow", "slow", "quick", "slow"]


def test_more_waiting_work_than_the_limit_is_refused_in_one_line() -> None:
    jobs = Jobs(most_waiting=3)
    gate = Gate(jobs)
    made = [jobs.submit(str(i), lambda: 0, key=i) for i in range(3)]
    with pytest.raises(Busy, match="3 pieces of work wait already; wait for one to end"):
        jobs.submit("4", lambda: 0, key=4)
    assert jobs.submit("2", lambda: 0, key=2) is made[2]
    gate.open.set()
    wait(*made)
    wait(jobs.submit("4", lambda: 0, key=4))
    jobs.close()


def test_results_are_kept_least_recently_used_within_the_budget() -> None:
    now = [0.0]
    jobs = Jobs(budget=3 * 2**20, clock=lambda: now[0])
    computed: list[int] = []

    def ask(i: int) -> Job:
        job = jobs.submit(str(i), lambda: computed.append(i) or bytes(2**20 - 100), key=i, keep=True)
        wait(job)
        return job

    held = [ask(i) for i in range(3)]
    ask(0)
    assert computed == [0, 1, 2]
    ask(3)  # 1 is the one unused for the longest
    assert computed == [0, 1, 2, 3]
    ask(0)
    ask(2)
    assert computed == [0, 1, 2, 3]
    ask(1)
    assert computed == [0, 1, 2, 3, 1]
    assert jobs.get(held[1].id) is None
    assert len(held[1].result) == 2**20 - 100, "who holds a job still has its result"
    jobs.close()


def test_a_result_larger_than_the_budget_is_given_all_the_same() -> None:
    jobs = Jobs(budget=10)
    job = jobs.submit("large", lambda: bytes(1000), key=1)
    wait(job)
    assert jobs.submit("large", lambda: 1 / 0, key=1) is job
    jobs.close()


def test_weights_count_arrays_strings_and_what_lies_in_containers() -> None:
    import numpy as np

    assert 8000 <= weight_of({"a": [np.zeros(500), np.zeros(500)]}) <= 9000
    assert weight_of("x" * 5000) >= 5000
    assert weight_of(Event("token", "y" * 900)) >= 900
    assert weight_of(None) < 1000


@contextmanager
def hook(held: list[str]) -> Iterator[None]:
    held.append("hook")
    try:
        yield
    finally:
        held.remove("hook")


def endless(held: list[str]) -> Callable[[], Iterator[Said]]:
    def work() -> Iterator[Said]:
        with hook(held):
            while True:
                time.sleep(0.001)
                yield Said(0.1, "on and on")

    return work


def test_a_cancelled_job_ends_at_its_next_step_and_unwinds(jobs: Jobs) -> None:
    held: list[str] = []
    job = jobs.submit("endless", endless(held), key=1)
    while not held:
        time.sleep(0.001)
    job.cancel()
    wait(job)
    assert (job.state, job.error, held) == ("cancelled", "cancelled", [])


def test_a_waiting_job_is_cancelled_at_once(jobs: Jobs) -> None:
    gate = Gate(jobs)
    ran: list[int] = []
    job = jobs.submit("waits", lambda: ran.append(1), key=1)
    job.cancel()
    assert job.state == "cancelled"
    gate.open.set()
    wait(gate.job, jobs.submit("after", lambda: 0, key=2))
    assert not ran


def test_a_page_that_polls_sees_a_cancelled_job_and_may_ask_for_it_anew(jobs: Jobs) -> None:
    job = jobs.submit("endless", endless([]), key=1)
    job.cancel()
    wait(job)
    assert jobs.submit("endless", lambda: 1, key=1) is job
    again = jobs.submit("endless", lambda: 1, key=1, again=True)
    wait(again)
    assert again.result == 1


def test_a_job_that_nobody_asked_after_is_cancelled_and_starts_anew_when_asked() -> None:
    now, held = [0.0], []
    jobs = Jobs(clock=lambda: now[0])
    job = jobs.submit("endless", endless(held), key=1)
    for seconds in (14.0, 28.0):  # asked in between: it goes on
        now[0] = seconds
        assert jobs.submit("endless", endless(held), key=1) is job
        time.sleep(0.02)
        assert not job.over
    now[0] = 44.0
    deadline = time.monotonic() + 10
    while not job.over and time.monotonic() < deadline:
        time.sleep(0.002)
    assert (job.state, held) == ("cancelled", [])
    again = jobs.submit("endless", lambda: 5, key=1)
    wait(again)
    assert again.result == 5
    jobs.close()


def test_kept_and_watched_jobs_go_on_though_nobody_asks() -> None:
    now = [0.0]
    jobs = Jobs(clock=lambda: now[0])
    kept = jobs.submit("kept", endless([]), key=1, keep=True)
    watched = jobs.submit("watched", endless([]), key=2)

    async def watch() -> bool:
        waiting = asyncio.create_task(watched.finished(10))
        await asyncio.sleep(0.02)
        now[0] = 1000.0
        await asyncio.sleep(0.05)
        assert not watched.over
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        now[0] = 2000.0
        return await asyncio.to_thread(over_soon, watched)

    assert looped(watch())
    assert kept.state == "running"
    jobs.close()
    assert kept.state == "cancelled"


def over_soon(job: Job) -> bool:
    deadline = time.monotonic() + 10
    while not job.over and time.monotonic() < deadline:
        time.sleep(0.002)
    return job.over


def test_the_last_reader_who_leaves_stops_the_job(jobs: Jobs) -> None:
    job = jobs.submit("endless", endless([]), key=1)

    async def two_readers() -> None:
        first, second = job.events(), job.events()
        assert isinstance(await anext(first), Said)
        assert isinstance(await anext(second), Said)
        await first.aclose()
        job.release()
        await asyncio.sleep(0.02)
        assert not job.over
        await second.aclose()
        job.release()
        assert await job.finished(10)

    looped(two_readers())
    assert job.state == "cancelled"
    assert jobs.submit("endless", lambda: 1, key=1) is not job


def test_events_come_in_order_to_every_reader_from_the_first_one_on(jobs: Jobs) -> None:
    def work() -> Iterator[Said | Event]:
        for i in range(500):
            yield Event("token", i)
            if i % 100 == 0:
                yield Said(i / 500)

    async def read(job: Job) -> list[int]:
        return [item.data async for item in job.events() if isinstance(item, Event)]

    async def readers() -> list[list[int]]:
        job = jobs.submit("tokens", work, key=1)
        early = await asyncio.gather(read(job), read(job))
        return [*early, await read(job)]

    assert looped(readers()) == [list(range(500))] * 3


def test_waiting_does_not_block_the_loop_and_gives_up_in_time(jobs: Jobs) -> None:
    async def ticks() -> int:
        job = jobs.submit("endless", endless([]), key=1)
        waiting = asyncio.create_task(job.finished(0.1))
        count = 0
        while not waiting.done():
            await asyncio.sleep(0.005)
            count += 1
        assert not waiting.result()
        return count

    assert looped(ticks()) >= 5


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("no layer 9; use 0 to 3"), "no layer 9; use 0 to 3"),
        (ValueError("a\nb"), "ValueError: a b; the full trace is in the server's log"),
        (MemoryError(), "no memory is left; use less data, a smaller model or --dtype bfloat16"),
        (KeyboardInterrupt(), "KeyboardInterrupt: KeyboardInterrupt; the full trace is in the server's log"),
    ],
)
def test_a_failure_is_one_line_leaves_no_hook_and_the_engine_goes_on(
    jobs: Jobs, caplog: pytest.LogCaptureFixture, error: BaseException, said: str
) -> None:
    held: list[str] = []

    def work() -> Iterator[Said]:
        with hook(held):
            yield Said(0.5)
            raise error

    with caplog.at_level(logging.ERROR, logger="conceptlab.web"):
        job = jobs.submit("fails", work, key=1)
        wait(job)
    assert (job.state, job.error, held) == ("failed", said, [])
    assert bool(caplog.records) == (not isinstance(error, InputError))
    assert jobs.submit("fails", work, key=1) is job
    after = jobs.submit("after", lambda: 1, key=2)
    wait(after)
    assert after.result == 1


@pytest.mark.parametrize("bad", ["text", 3])
def test_work_that_yields_something_else_fails(jobs: Jobs, bad: object) -> None:
    held: list[str] = []

    def work() -> Iterator[object]:
        with hook(held):
            yield bad

    job = jobs.submit("odd", work, key=1)
    wait(job)
    assert job.state == "failed"
    assert "Said or Event" in str(job.error)
    assert not held


def test_a_weight_that_fails_fails_its_job_alone(jobs: Jobs) -> None:
    job = jobs.submit("odd", lambda: 1, key=1, weigh=lambda _: 1 // 0)
    wait(job)
    assert job.state == "failed"
    wait(jobs.submit("after", lambda: 1, key=2))


def test_the_progress_of_a_long_call_moves_the_bar_and_stops_it(jobs: Jobs) -> None:
    held: list[str] = []
    seen: list[float] = []

    def work() -> float:
        job, progress = current_job(), job_progress(0.2, 0.8)
        assert job is not None
        with hook(held), progress.task("outer", total=1_000_000) as outer:
            for i in range(1_000_000):
                with progress.task("inner", total=5) as inner:
                    inner.advance(5)
                outer.advance(100_000 if i < 5 else 0)
                seen.append(job.fraction)
                if i > 5:
                    time.sleep(0.001)
        return 0.0

    job = jobs.submit("call", work, key=1)
    while len(seen) < 10:
        time.sleep(0.002)
    assert seen[:5] == pytest.approx([0.26, 0.32, 0.38, 0.44, 0.5])
    assert job.said == "inner"
    job.cancel()
    wait(job)
    assert (job.state, held) == ("cancelled", [])
    assert job_progress().quiet, "outside of a job nothing is shown"


def test_closing_stops_everything_and_ends_the_thread() -> None:
    jobs, held = Jobs(), []
    job = jobs.submit("endless", endless(held), key=1, keep=True)
    while not held:
        time.sleep(0.001)
    waiting = jobs.submit("other", endless(held), key=2)
    jobs.close()
    assert (job.state, waiting.state, held) == ("cancelled", "cancelled", [])
    assert not any(thread.name == "conceptlab engine" and thread.is_alive() for thread in [jobs._engine] if thread)
    with pytest.raises(RunError, match="closing"):
        jobs.submit("late", lambda: 0, key=3)


def test_twenty_clients_each_get_their_own_answer(jobs: Jobs) -> None:
    def work(i: int) -> Callable[[], Iterator[Said]]:
        def steps() -> Iterator[Said]:
            for step in range(5):
                yield Said(step / 5)
            return i

        return steps

    async def client(i: int) -> int:
        for n in range(10):
            job = jobs.submit("x", work(i * 100 + n), key=(i, n), short=n % 2 == 0)
            assert await job.finished(20)
            assert job.result == i * 100 + n
        return i

    async def clients() -> list[int]:
        return await asyncio.gather(*(client(i) for i in range(20)))

    assert looped(clients()) == list(range(20))
