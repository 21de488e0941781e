"""Progress counts every token once, while shards go on and when they end, also after a worker that died."""

from pathlib import Path

from conceptlab.runs import Task
from conceptlab.runs.launch import in_process
from conceptlab.store import open_harvest
from conceptlab.store.harvesting import Meter, run_harvest
from tests.reliability.small import WISH, corpus, model


def test_ticks_add_up_to_the_tokens_of_each_shard(tmp_path: Path) -> None:
    opened = open_harvest(model(), corpus(), tmp_path, WISH)
    said: list[dict[str, int]] = []
    reports = list(in_process(opened.worker, threads=1, on_tick=lambda tick: said.append(dict(tick))))
    assert len(said) > len(reports) == opened.plan.n_shards
    for report in reports:
        assert sum(tick["tick"] for tick in said if tick["shard"] == report["shard"]) == report["tokens"]


def test_the_meter_counts_each_token_once(tmp_path: Path) -> None:
    opened = open_harvest(model(), corpus(), tmp_path, WISH)
    meter = run_harvest(lambda on_tick: in_process(opened.worker, threads=1, on_tick=on_tick), opened)
    assert (meter.tokens, meter.shards) == (opened.plan.n_tokens, opened.plan.n_shards)
    again = run_harvest(lambda on_tick: in_process(opened.worker, threads=1, on_tick=on_tick), opened)
    assert (again.tokens, again.shards) == (0, 0)


def test_what_a_dead_worker_had_counted_is_taken_back() -> None:
    meter = Meter(Task())
    meter.tick({"shard": 3, "tick": 50})  # died here
    for tokens in (60, 40):
        meter.tick({"shard": 3, "tick": tokens})
    meter.add({"shard": 3, "tokens": 100, "seconds": 2.0, "waited": 1.0})
    assert meter.tokens == 100 and meter.limit == "disk"
    meter.add({"shard": 4, "tokens": 30, "seconds": 20.0, "waited": 0.0})  # a launcher without ticks
    assert meter.tokens == 130 and meter.limit == "model"
