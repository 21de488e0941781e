"""A sweep as a job: any launcher gives the values of the plain sweep, and a kill loses nothing that was finished."""

import json
from pathlib import Path

import numpy as np
import pytest

from conceptlab.errors import InputError, ResultError
from conceptlab.model.sweep import Sweep, gather, sweep, sweep_job
from conceptlab.runs.job import Job
from conceptlab.runs.launch import in_process, processes
from conceptlab.runs.sealed import seal
from conceptlab.runs.threads import threads
from tests.model.sweep_request import MAKE, request
from tests.runs.toy_job import bytes_of, deaths


def plain(n_parts: int | None, out: Path | None = None) -> Sweep:
    """The same sweep by `sweep` itself; with `out` in parts of its own."""
    asked = request(n_parts=n_parts)
    with threads(1):
        return sweep(asked.model, asked.clean, asked.edits, asked.metric, out=out)


def test_the_values_are_those_of_the_plain_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from conceptlab.model.sweep import parts

    reports = list(in_process(sweep_job(MAKE, tmp_path / "job")))
    assert [report["shard"] for report in reports] == [0, 1, 2, 3]
    assert sum(report["units"] for report in reports) == 25 * 5
    found, whole = gather(tmp_path / "job"), plain(4)
    assert found.values.shape == (25, 5)
    assert np.abs(found.values - whole.values).max() <= 1e-6
    assert np.array_equal(found.clean, whole.clean)
    assert (found.plan.kind, found.plan.n_units, found.notes) == (whole.plan.kind, whole.plan.n_units, whole.notes)
    monkeypatch.setattr(parts, "n_parts_for", lambda n_items, forwards: 4)
    cut = plain(4, tmp_path / "plain")
    assert np.array_equal(found.values, cut.values), "equal parts must give equal bits"
    assert found.passes == pytest.approx(cut.passes)
    assert found.plan.n_skipped == cut.plan.n_skipped


def test_ranks_and_processes_with_a_kill_give_the_same_files(tmp_path: Path) -> None:
    list(in_process(sweep_job(MAKE, tmp_path / "plain", {"budget_bytes": 10**6})))
    job = sweep_job(MAKE, tmp_path / "killed", {"budget_bytes": 10**6})
    begun = in_process(job, 3, 4)
    assert next(begun)["shard"] == 3
    begun.close()
    with pytest.raises(ResultError, match="3 of the 4 parts in .* are not finished; run the same job again"):
        gather(tmp_path / "killed")
    dying = {**job.arguments, "die_at": 1, "deaths": deaths(tmp_path / "deaths", 1)}
    reports = list(processes(Job("tests.model.sweep_request:make_dying", dying, 1), 1))
    assert sorted(report["shard"] for report in reports) == [0, 1, 2]
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "plain")
    assert np.array_equal(gather(tmp_path / "killed").values, gather(tmp_path / "plain").values)


def test_the_parts_and_the_budget_are_settled_by_the_first_worker(tmp_path: Path) -> None:
    list(in_process(sweep_job(MAKE, tmp_path, {"n_parts": None, "budget_bytes": 900_000})))
    assert list(in_process(sweep_job(MAKE, tmp_path, {"n_parts": None}))) == []
    assert gather(tmp_path).values.shape == (25, 5)


@pytest.mark.parametrize(
    ("arguments", "threads", "message"),
    [
        ({"seed": 1}, 1, "holds another sweep .edits was .* choose another folder"),
        ({"n_parts": 5}, 1, "holds another sweep .parts was 4, now 5."),
        ({"budget_bytes": 10**6}, 1, "holds another sweep .budget_bytes was"),
        ({}, 2, "holds another sweep .threads was 1, now 2."),
    ],
)
def test_another_sweep_is_refused_and_nothing_is_touched(
    arguments: dict, threads: int, message: str, tmp_path: Path
) -> None:
    next(in_process(sweep_job(MAKE, tmp_path)))
    before = bytes_of(tmp_path)
    with pytest.raises(InputError, match=message):
        next(in_process(sweep_job(MAKE, tmp_path, arguments, threads=threads)))
    assert bytes_of(tmp_path) == before


def test_bad_requests_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="25 items cannot be cut into 26 parts; use 1 to 25"):
        next(in_process(sweep_job(MAKE, tmp_path, {"n_parts": 26})))
    with pytest.raises(InputError, match="too small: one row of"):
        next(in_process(sweep_job(MAKE, tmp_path, {"budget_bytes": 10})))
    with pytest.raises(InputError, match="gives str; let it return a Request"):
        next(in_process(sweep_job("platform:machine", tmp_path)))
    with pytest.raises(InputError, match="names no function; write package.module:function"):
        next(in_process(sweep_job("request", tmp_path)))
    with pytest.raises(ResultError, match="holds no sweep .no sweep.json.; run its job first"):
        gather(tmp_path)


def test_a_value_that_is_no_number_ends_the_job_before_its_part_is_kept(tmp_path: Path) -> None:
    job = in_process(sweep_job(MAKE, tmp_path, {"nan": True}))
    assert [next(job)["shard"], next(job)["shard"]] == [0, 1]
    with pytest.raises(InputError, match="edit 6 .* that is NaN or infinite; look at the values that it writes"):
        next(job)
    assert not (tmp_path / "commit" / "000002.json").exists()


def test_a_flipped_byte_is_noticed_and_only_its_part_is_made_again(tmp_path: Path) -> None:
    list(in_process(sweep_job(MAKE, tmp_path)))
    good = gather(tmp_path)
    for path in (*sorted(tmp_path.glob("values/*")), *sorted(tmp_path.glob("commit/*")), tmp_path / "sweep.json"):
        kept = path.read_bytes()
        path.write_bytes(kept[:-3] + bytes([kept[-3] ^ 1]) + kept[-2:])
        with pytest.raises(ResultError, match="remove that file, then run the same job again"):
            gather(tmp_path)
        path.write_bytes(kept)
    next(tmp_path.glob("values/000002-*")).write_bytes(b"")
    (tmp_path / "commit" / "000002.json").unlink()
    assert [report["shard"] for report in in_process(sweep_job(MAKE, tmp_path))] == [2]
    assert np.array_equal(gather(tmp_path).values, good.values)
    record = json.loads((tmp_path / "sweep.json").read_text()) | {"schema": 2}
    (tmp_path / "sweep.json").write_bytes(seal({name: value for name, value in record.items() if name != "seal"}))
    with pytest.raises(ResultError, match="was written by another conceptlab .schema 2.; update"):
        gather(tmp_path)
