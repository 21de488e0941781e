"""Statistics of a harvest: equal to numpy over the stored values, the same bytes however the harvest went, noticed when damaged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from conceptlab.errors import InputError, ResultError
from conceptlab.runs.blocks import record_of
from conceptlab.runs.ledger import commit_name
from conceptlab.runs.place import LocalPlace
from conceptlab.runs.sealed import seal, unseal
from conceptlab.runs.threads import threads
from conceptlab.store import Store, Wish, open_harvest
from conceptlab.store.estimate import estimate
from conceptlab.store.verifying import verify
from tests.reliability.small import N_SHARDS, WISH, corpus, harvest, hashes, model

BOTH = replace(WISH, sites=("resid_post", "embed", "z"), statistics=True)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("both")
    harvest(folder, BOTH)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("positions", ["all", "last"])
def test_statistics_are_those_of_the_stored_values(tmp_path: Path, dtype, positions: str) -> None:
    harvest(tmp_path, replace(BOTH, dtype=dtype, positions=positions))
    store = Store.open(tmp_path)
    for name, layer in (("resid_post", 0), ("resid_post", 1), ("embed", None), ("z", 1)):
        stored = store.part(name, layer)[:].float().reshape(len(store), -1).numpy()
        found = store.statistics(name, layer)
        wide = stored.astype(np.float64)
        assert (found.count == len(store)).all() and found.n_units == 16
        np.testing.assert_allclose(found.mean, wide.mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found.variance, wide.var(0), rtol=1e-11)
        assert np.array_equal(found.min, stored.min(0)) and np.array_equal(found.max, stored.max(0))
        exact = np.quantile(wide, [0.1, 0.5, 0.99], axis=0, method="inverted_cdf")
        assert (np.abs(found.quantile([0.1, 0.5, 0.99]) - exact) <= np.abs(exact) / 16 + 2.0**-24).all()
        for unit in range(16):
            order = np.lexsort((np.arange(len(store)), -stored[:, unit]))[: min(16, len(store))]
            assert found.largest.token[unit, : len(order)].tolist() == order.tolist()
            assert np.array_equal(
                store.part(name, layer)[order].float().reshape(len(order), -1)[:, unit],
                found.largest.value[unit, : len(order)],
            )


def test_statistics_alone_are_the_same_and_keep_no_values(both: Path, tmp_path: Path) -> None:
    harvest(tmp_path, replace(BOTH, values=False))
    store = Store.open(tmp_path)
    names = hashes(store.place)
    assert not [name for name in names if name.startswith("acts/")]
    expected = {name: found for name, found in hashes(LocalPlace(both)).items() if name.startswith("stats/")}
    assert {name: found for name, found in names.items() if name.startswith("stats/")} == expected
    assert len(expected) == 5 * N_SHARDS
    assert verify(tmp_path).whole
    with pytest.raises(InputError, match="statistics only"):
        store.part("embed")
    assert len(store.statistics("embed").count) == 16


def test_values_do_not_change_when_statistics_are_kept(both: Path, tmp_path: Path) -> None:
    harvest(tmp_path, replace(BOTH, statistics=False))
    plain = {name: found for name, found in hashes(LocalPlace(tmp_path)).items() if name.startswith("acts/")}
    assert plain == {name: found for name, found in hashes(LocalPlace(both)).items() if name.startswith("acts/")}
    with pytest.raises(InputError, match="--statistics"):
        Store.open(tmp_path).statistics("embed")


def test_another_order_and_a_resumed_harvest_give_the_same_bytes(both: Path, tmp_path: Path) -> None:
    opened = open_harvest(model(), corpus(), tmp_path, BOTH)
    worker = opened.worker
    with threads(1), worker.ledger:
        for shard in (4, 1):
            worker.do(shard)
    partial = Store.open(tmp_path)
    assert partial.shards == (1, 4)
    values = partial.part("embed")[:].numpy()
    found = partial.statistics("embed")
    np.testing.assert_allclose(found.mean, values.astype(float).mean(0), rtol=1e-12)
    assert np.array_equal(found.largest.token[:, 0], values.argmax(0))
    harvest(tmp_path, BOTH)
    assert hashes(LocalPlace(tmp_path)) == hashes(LocalPlace(both))


def test_parts_that_are_not_there(both: Path) -> None:
    store = Store.open(both)
    for name, layer in (("resid_post", None), ("resid_post", 7), ("embed", 0), ("mlp_post", 0)):
        with pytest.raises(InputError):
            store.statistics(name, layer)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    harvest(tmp_path, replace(WISH, sites=("embed",), values=False, statistics=True))
    path = sorted(tmp_path.glob("stats/embed/*"))[2]
    content = path.read_bytes()
    for place in range(0, len(content), 41):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ResultError, match=f"{path.name} is damaged"):
            Store.open(tmp_path).statistics("embed")
        if place % 8 == 0:
            assert [fault.shard for fault in verify(tmp_path).faults] == [2]
    path.write_bytes(content[:-1])
    with pytest.raises(ResultError, match="is damaged"):
        Store.open(tmp_path).statistics("embed")
    path.unlink()
    with pytest.raises(ResultError, match="is missing"):
        Store.open(tmp_path).statistics("embed")
    harvest(tmp_path, replace(WISH, sites=("embed",), values=False, statistics=True))
    assert [fault.shard for fault in verify(tmp_path).faults] == [2]


@pytest.mark.parametrize(
    "change",
    [
        lambda a: {},
        lambda a: {**a, "count": a["count"][:3]},
        lambda a: {**a, "count": a["count"] + 1},
        lambda a: {**a, "mean": a["mean"][:, None]},
        lambda a: {**a, "bins": np.full(16, 60000, np.uint16)},
        lambda a: {**a, "bins": np.full(16, 1 << 60)},
        lambda a: {**a, "bins": a["bins"].astype(np.float32)},
        lambda a: {**a, "bin": np.full(len(a["bin"]), -5)},
        lambda a: {**a, "largest_value": np.zeros(()), "largest_token": np.zeros(())},
        lambda a: {**a, "largest_value": a["largest_value"][:, :3], "largest_token": a["largest_token"][:, :3]},
    ],
)
def test_statistics_that_make_no_sense_are_refused_in_one_line(tmp_path: Path, change) -> None:
    """Whoever can write a store can also hash what they wrote."""
    harvest(tmp_path, replace(WISH, sites=("embed",), values=False, statistics=True))
    record = unseal((tmp_path / commit_name(1)).read_bytes())
    (name,) = record["files"]
    content = save(
        {key: np.ascontiguousarray(array) for key, array in change(load((tmp_path / name).read_bytes())).items()}
    )
    (tmp_path / name).write_bytes(content)
    record["files"][name] = record_of(content).entry()
    (tmp_path / commit_name(1)).write_bytes(seal(record))
    with pytest.raises(ResultError, match=name) as caught:
        Store.open(tmp_path).statistics("embed")
    assert "\n" not in str(caught.value)


def test_the_estimate_knows_what_is_written(tmp_path: Path) -> None:
    sizes = {}
    for label, wish in {
        "values": Wish(("embed",), threads=1),
        "both": Wish(("embed",), threads=1, statistics=True),
    }.items():
        expected = estimate(open_harvest(model(), corpus(), tmp_path / label, wish))
        assert expected is not None
        sizes[label] = expected.bytes_disk
    alone = estimate(
        open_harvest(model(), corpus(), tmp_path / "alone", Wish(("embed",), threads=1, statistics=True, values=False))
    )
    assert alone is not None and 0 < alone.bytes_disk == sizes["both"] - sizes["values"]
