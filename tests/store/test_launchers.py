"""A harvest by any launcher and any number of workers: the same store, file for file."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from conceptlab.errors import InputError
from conceptlab.runs.launch import in_process, processes
from conceptlab.store import Store
from tests.reliability.small import N_SHARDS, WISH, corpus
from tests.store.gate import Gate, gated
from tests.store.launched import files, job, model_folder, opened

ALL = set(range(N_SHARDS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def plain(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of an undisturbed harvest in this process."""
    store = tmp_path_factory.mktemp("plain") / "store"
    assert {report["shard"] for report in in_process(job(store, folder))} == ALL
    return files(store)


def test_a_killed_worker_leaves_the_same_store(folder: Path, plain: dict[str, str], tmp_path: Path) -> None:
    made, gate = job(tmp_path / "store", folder), Gate(tmp_path / "gate")
    gate.folder.mkdir()

    def kill_one() -> None:
        os.kill(gate.waiting(2)[0][1], signal.SIGKILL)
        gate.open()

    killer = threading.Thread(target=kill_one)
    killer.start()
    reports = list(processes(gated(made, gate), 2))
    killer.join()
    assert sorted(report["shard"] for report in reports) == sorted(ALL)
    assert files(tmp_path / "store") == plain
    assert Store.open(tmp_path / "store").complete


RANK = """
import json, sys
from conceptlab.data.corpus import TextList
from conceptlab.model import load_model
from conceptlab.runs.launch import in_process
from conceptlab.store import Wish, open_harvest
store, folder, rank, texts, wish = sys.argv[1:]
wish = {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(wish).items()}
harvest = open_harvest(load_model(folder), TextList(tuple(json.loads(texts))), store, Wish(**wish))
print(json.dumps([r["shard"] for r in in_process(harvest.worker, int(rank), 2, threads=1)]))
"""


def test_ranks_that_plan_and_harvest_together(folder: Path, plain: dict[str, str], tmp_path: Path) -> None:
    plan = [json.dumps(corpus().texts), json.dumps(asdict(WISH))]
    lines = [[sys.executable, "-c", RANK, str(tmp_path), str(folder), rank, *plan] for rank in "01"]
    ranks = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for line in lines]
    done = [json.loads(process.communicate(timeout=100)[0].splitlines()[-1]) for process in ranks]
    assert sorted(done[0] + done[1]) == sorted(ALL)
    assert files(tmp_path) == plain


def test_one_launcher_after_the_other(folder: Path, plain: dict[str, str], tmp_path: Path) -> None:
    harvest = opened(tmp_path, folder)
    begun = in_process(harvest.worker, 2, 3, threads=1)
    assert next(begun)["shard"] == 2
    begun.close()
    others = processes(job(tmp_path, folder), 1)
    assert next(others)["shard"] == 0
    others.close()
    rest = {report["shard"] for report in in_process(harvest.worker, 1, 2, threads=1)}
    assert rest and not rest & {0, 2}
    assert files(tmp_path) == plain


def test_a_model_of_another_revision_ends_the_launch(folder: Path, plain: dict[str, str], tmp_path: Path) -> None:
    made = job(tmp_path / "store", folder)
    other = model_folder(tmp_path / "small")
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    wrong = type(made)(made.make, {**made.arguments, "source": str(other)}, made.threads)
    with pytest.raises(
        InputError, match="the store was made with revision .* load that revision, or choose another store"
    ):
        list(processes(wrong, 1))
    assert not any(name.startswith(("acts/", "commit/")) for name in files(tmp_path / "store"))
    list(in_process(made))
    assert files(tmp_path / "store") == plain
