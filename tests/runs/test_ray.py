"""Ray: a real cluster of three nodes loses one in the middle, and the store is the same as without it. Skips without Ray."""

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conceptlab.errors import InputError, RunError
from conceptlab.runs.launch import in_process
from conceptlab.runs.ray_launch import Crew, Replica, ray_cluster
from tests.runs.toy_job import bytes_of, deaths, toy
from tests.store.gate import Gate, gated
from tests.store.launched import files, job, model_folder

N_NODES = 3
SMALL = 80 << 20  # bytes: the least that Ray takes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and two more nodes of one CPU each on this machine, without a connection of this process."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'conceptlab[ray]')")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": SMALL, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(N_NODES - 1):
        made.add_node(wait=False, **node)
    made.wait_for_nodes()
    yield made
    made.shutdown()


def address_of(cluster: Any) -> str:
    """By loopback: tests make no other connections."""
    return f"127.0.0.1:{cluster.address.rpartition(':')[2]}"


def test_a_node_lost_in_the_middle_leaves_the_same_store(cluster: Any, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    assert {report["shard"] for report in in_process(job(tmp_path / "plain", folder))} == {0, 1, 2, 3, 4}
    made, gate = job(tmp_path / "store", folder), Gate(tmp_path / "gate")
    gate.folder.mkdir()
    lost: list[str] = []

    def lose_a_node() -> None:
        process_of = {node: process for _, process, node in gate.waiting(N_NODES)}
        node = next(node for node in cluster.worker_nodes if node.node_id in process_of)
        lost.append(node.node_id)
        cluster.remove_node(node, allow_graceful=False)
        with suppress(ProcessLookupError):  # a lost machine takes its processes along; here they may live a moment
            os.kill(process_of[node.node_id], signal.SIGKILL)
        gate.open()

    loser = threading.Thread(target=lose_a_node)
    loser.start()
    reports = list(ray_cluster(gated(made, gate), N_NODES, address=address_of(cluster)))
    loser.join()
    assert sorted(report["shard"] for report in reports) == [0, 1, 2, 3, 4]
    assert not set(lost) & {report["node"] for report in reports}
    assert len({report["node"] for report in reports}) == N_NODES - 1
    assert files(tmp_path / "store") == files(tmp_path / "plain")


def test_actors_that_die_are_replaced_until_there_are_too_many(cluster: Any, tmp_path: Path) -> None:
    address = address_of(cluster)
    job = toy(tmp_path / "store", die_at=3, deaths=deaths(tmp_path / "deaths", 2))
    with pytest.raises(RunError, match="workers keep dying .* finished shards are kept, the same command goes on"):
        list(ray_cluster(job, 1, address=address, retries=0))
    kept = sum(name.startswith("commit/") for name in bytes_of(tmp_path / "store"))
    assert kept == 3
    shards = [report["shard"] for report in ray_cluster(job, 1, address=address, retries=1)]
    assert sorted(shards) == [3, 4, 5, 6, 7]
    list(in_process(toy(tmp_path / "plain")))
    assert bytes_of(tmp_path / "store") == bytes_of(tmp_path / "plain")
    assert list(ray_cluster(job, 2, address=address)) == []
    with pytest.raises(InputError, match="^the model is of another revision$"):
        list(ray_cluster(toy(tmp_path, wrong="the model is of another revision"), 1, address=address))


def test_a_launch_that_is_given_up_ends_its_actors_and_leaves_the_cluster(cluster: Any, tmp_path: Path) -> None:
    reports = ray_cluster(toy(tmp_path, n_shards=400, seconds=0.1), 1, address=address_of(cluster))
    process = next(reports)["pid"]
    reports.close()
    end = time.monotonic() + 10
    while Path(f"/proc/{process}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{process}").exists()
    assert 1 <= sum(name.startswith("commit/") for name in bytes_of(tmp_path)) < 400
    assert cluster.head_node.any_processes_alive()
    assert next(ray_cluster(toy(tmp_path, n_shards=400), 1, address=address_of(cluster)))["shard"] > 0


def test_an_actor_leaves_a_shard_that_somebody_holds_or_has_finished(tmp_path: Path) -> None:
    job = toy(tmp_path)
    replica = Replica(job.to_json())
    assert replica.begin() == {"left": list(range(8))}
    assert replica.do(5, 0.0)["shard"] == 5
    assert replica.do(5, 0.0) == {"held": False}
    with job.worker().ledger as other, other.claim(2):
        assert replica.do(2, 0.3) == {"held": True}
    assert replica.do(2, 0.3)["shard"] == 2


def test_shards_are_handed_out_two_deep_and_the_last_ones_singly() -> None:
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'conceptlab[ray]')")
    crew = crew_of(2)
    crew.todo = deque(range(5))
    crew._hand_out()
    assert sorted(shard for _, shard in crew.asked.values()) == [0, 1, 2]
    assert list(crew.todo) == [3, 4]  # as many as there are actors: whoever is free first takes them
    crew.todo.extend(range(5, 50))
    crew._hand_out()
    assert len(crew.asked) == 4


def crew_of(n_actors: int) -> Crew:
    """A crew whose actors only remember what they were asked."""
    import ray

    class Actor:
        @property
        def do(self) -> Any:
            return SimpleNamespace(remote=lambda shard, seconds: f"call {id(self)} {shard}")

    crew = Crew(ray, toy(Path("nowhere")), 0)
    crew.actors = [Actor() for _ in range(n_actors)]
    crew.ready = list(crew.actors)
    return crew


def test_bad_launches_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="0 workers were asked for; use at least 1"):
        next(ray_cluster(toy(tmp_path), 0))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        InputError, match="Ray is not installed; pip install 'conceptlab\\[ray\\]', or use local processes"
    ):
        next(ray_cluster(toy(tmp_path), 1))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "somewhere"])
def test_a_cluster_that_does_not_answer_is_one_line(address: str, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'conceptlab[ray]')")
    with pytest.raises(InputError, match="no Ray cluster at .*; start one, or use local processes"):
        next(ray_cluster(toy(tmp_path), 1, address=address))
