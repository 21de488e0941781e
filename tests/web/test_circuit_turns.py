"""A circuit is found in pieces: others are answered in between, it says how far it is, can be cancelled, and stays the same."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from conceptlab.errors import InputError
from conceptlab.find.circuits.edge_attribution_ig import edge_attribution_ig
from conceptlab.find.circuits.exact_edges import exact_edges
from conceptlab.find.circuits.explain import explain_behaviour
from conceptlab.model.edge_run import edge_run
from conceptlab.runs import Part, Progress, Task
from conceptlab.web.in_turns import in_turns
from conceptlab.web.jobs import Job, Jobs
from conceptlab.web.live import circuit
from conceptlab.web.live.pair_tasks import PairAsked, pair_metric
from tests.find.planted_runs import metric_of, model_of, world

ASKED = circuit.CircuitAsked(PairAsked(task="capitals of the embedded world"), n_exact=8)


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs()
    yield made
    made.close()


@pytest.fixture(scope="module")
def model(desk):
    return desk.live.model


def over(job: Job, seconds: float = 120.0) -> Job:
    """Wait for its end, from outside of any loop."""
    end = time.monotonic() + seconds
    while not job.over:
        assert time.monotonic() < end, f"{job.title} still says {job.said!r}"
        job.asked = time.monotonic()
        time.sleep(0.002)
    return job


def hooked(model) -> list[object]:
    return [m for m in model.module.modules() if m._forward_hooks or m._forward_pre_hooks]


def submitted(jobs: Jobs, model) -> Job:
    def work():
        return (yield from circuit.found_circuit(model, ASKED))

    return jobs.submit("circuit", work, key="circuit", keep=True)


class Counting(Progress):
    """What a bar would show."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.task_ = CountingTask()

    def task(self, label: str, total: int | None = None):  # noqa: ANN201 - a context
        import contextlib

        self.task_.said.append(label)
        self.task_.total.append(total)
        return contextlib.nullcontext(self.task_)


class CountingTask(Task):
    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "said", [])
        object.__setattr__(self, "total", [])
        object.__setattr__(self, "steps", [])

    def advance(self, n: int = 1) -> None:
        self.steps.append(n)

    def describe(self, label: str) -> None:
        self.said.append(label)

    def resize(self, total: int) -> None:
        self.total.append(total)


def test_short_jobs_are_answered_while_a_circuit_is_made_and_find_no_hook(jobs: Jobs, model) -> None:
    job = submitted(jobs, model)
    between, fractions, said = 0, [], set()
    while not job.over:
        short = over(jobs.submit("short", lambda: len(hooked(model)), key=time.monotonic(), short=True))
        assert short.result == 0, "a hook was open while another job ran"
        between += not job.over
        fractions.append(job.fraction)
        said.add(job.said)
    assert job.state == "done", job.error
    assert between > 3
    assert sorted(fractions) == fractions
    assert len(set(fractions)) > 4
    assert any("exactly" in words for words in said)
    pairs = ASKED.pair.pairs(model)
    plain = explain_behaviour(
        model, pairs.clean, pairs.corrupted, pair_metric(model, pairs), n_exact=8, n_check=circuit.FEW_CHECKS,
        n_resamples=circuit.FEW_RESAMPLES,
    )  # fmt: skip
    found = job.result
    assert [(e["source"], e["target"]) for e in found["edges"]] == plain.circuit.top(400).edge_names()
    np.testing.assert_allclose([e["weights"] for e in found["edges"]], plain.circuit.top(400).weights, atol=1e-4)
    assert found["share"]


def test_a_circuit_is_cancelled_in_the_middle_and_leaves_no_hook(jobs: Jobs, model) -> None:
    job = submitted(jobs, model)
    while job.fraction < 0.1 and not job.over:
        time.sleep(0.002)
    assert not job.over
    job.cancel()
    over(job, 10)
    assert job.state == "cancelled"
    assert hooked(model) == []
    assert not [t for t in threading.enumerate() if t.name == "conceptlab circuit"]
    assert over(jobs.submit("after", lambda: float(model.logits("The capital").sum()), key="after")).state == "done"


def test_the_method_in_pieces_gives_what_it_gives_whole() -> None:
    prompts, model, metric = world("induction").prompts, model_of("induction"), metric_of("induction", "key")
    few = {"n_exact": 6, "n_check": circuit.FEW_CHECKS, "n_resamples": circuit.FEW_RESAMPLES}
    whole = explain_behaviour(model, prompts["clean"], prompts["key"], metric, **few)
    bar = Counting()
    pieces = explain_behaviour(model, prompts["clean"], prompts["key"], metric, tokens_at_once=30, progress=bar, **few)
    assert pieces.circuit.edge_names() == whole.circuit.edge_names()
    for name in ("weights", "low", "high", "control", "p", "q", "exact"):
        np.testing.assert_allclose(getattr(pieces.circuit, name), getattr(whole.circuit, name), atol=1e-4)
    np.testing.assert_array_equal(pieces.chosen, whole.chosen)
    task = bar.task_
    assert sum(task.steps) == task.total[-1], "the bar ends at its end"
    assert min(task.steps) >= 0
    assert len(task.said) > 4
    assert len(task.steps) > 100


def test_a_part_moves_the_whole_by_its_units_whatever_the_step_says() -> None:
    task = CountingTask()
    with Part(task, 10) as part:
        with part.task("first", total=4) as first:
            for _ in range(6):
                first.advance()
            with part.task("inner", total=1) as inner:
                inner.advance()
        with part.task("second", total=2) as second:
            second.advance(2)
    assert sum(task.steps) == 10
    with Part(task, 5):
        pass
    assert sum(task.steps) == 15


def test_a_method_that_fails_in_its_turn_says_its_own_line(jobs: Jobs) -> None:
    def fails(progress: Progress) -> int:
        with progress.task("work", total=2) as task:
            task.advance()
            raise InputError("no such thing; give another")

    def work():
        return (yield from in_turns(fails, piece=0.0))

    job = over(jobs.submit("fails", work, key=1))
    assert (job.state, job.error) == ("failed", "no such thing; give another")
    assert list(in_turns_alone()) == []


def in_turns_alone():
    """Outside of a job the method runs in one go."""
    result = yield from in_turns(lambda progress: progress.quiet)
    assert result is True


def test_of_one_typed_pair_exact_effects_are_shown_without_a_claim(jobs, model):
    task = ASKED.pair.pairs(model)
    typed = PairAsked(task.clean[0], task.corrupted[0], task.answer[0], task.distractor[0])
    asked = circuit.CircuitAsked(typed, n_exact=8)

    def work():
        return (yield from circuit.found_circuit(model, asked))

    job = over(jobs.submit("circuit", work, key="typed", keep=True))
    assert job.error is None
    card, pairs = job.result, typed.pairs(model)
    assert 0 < len(card["edges"]) <= 8 and card["n_rows"] == 1
    assert "one pair" in card["notes"][0] and all(edge["p"] is None and edge["low"] is None for edge in card["edges"])
    metric, both = pair_metric(model, pairs), (model, pairs.clean, pairs.corrupted)
    plain = exact_edges(edge_run(*both), metric, edge_attribution_ig(*both, metric, n_random=0).top(8), n_random=0)
    effects = dict(zip(plain.edge_names(), plain.weights, strict=True))
    for edge in card["edges"]:
        assert edge["weights"] == pytest.approx(effects[edge["source"], edge["target"]], abs=1e-3)
    strongest = card["edges"][0]
    assert abs(strongest["weights"]) > abs(strongest["control"])
    assert not hooked(model)
