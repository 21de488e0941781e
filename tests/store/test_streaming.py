"""Shuffled reading: every token once, the same order for any number of workers, another one in another epoch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from conceptlab.errors import InputError, ResultError
from conceptlab.store import Store, Wish
from conceptlab.store.streaming import Shuffled
from tests.reliability.small import corpus, harvest

PARTS: list[tuple[str, int | None]] = [("resid_post", 1), ("embed", None)]
CHUNK = 256


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    harvest(
        folder, Wish(("resid_post", "embed"), context=16, batch_tokens=512, shard_tokens=1000, threads=1), corpus(600)
    )
    return Store.open(folder)


def test_every_token_comes_once_with_its_values(store: Store) -> None:
    drawn = list(Shuffled(store, PARTS, batch=64, buffer_tokens=3 * CHUNK, chunk=CHUNK))
    index = np.concatenate([batch.index for batch in drawn])
    assert len(store) > 10 * CHUNK
    assert np.array_equal(np.sort(index), np.arange(len(store)))
    assert not np.array_equal(index, np.sort(index))
    assert [batch.number for batch in drawn] == list(range(len(drawn)))
    for batch in drawn[::7]:
        for name, values in batch.values.items():
            site, _, layer = name.partition("/")
            assert torch.equal(values, store.part(site, int(layer) if layer else None).take(batch.index))


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_share_the_batches_of_one(store: Store, world_size: int) -> None:
    options = {"batch": 50, "buffer_tokens": 2 * CHUNK, "chunk": CHUNK, "seed": 3, "epoch": 1}
    alone = list(Shuffled(store, PARTS, **options))
    shared = [b for r in range(world_size) for b in Shuffled(store, PARTS, rank=r, world_size=world_size, **options)]
    shared.sort(key=lambda batch: batch.number)
    assert len(alone) == len(shared) == Shuffled(store, PARTS, **options).n_batches
    for a, b in zip(alone, shared, strict=True):
        assert np.array_equal(a.index, b.index) and torch.equal(a.values["embed"], b.values["embed"])


def test_workers_of_a_data_loader_share_them_too(store: Store) -> None:
    data = Shuffled(store, PARTS, batch=100, buffer_tokens=2 * CHUNK, chunk=CHUNK)
    alone = {batch.number: batch.index for batch in data}
    loaded = {b.number: b.index for b in DataLoader(data, batch_size=None, num_workers=2)}
    assert alone.keys() == loaded.keys()
    assert all(np.array_equal(alone[number], loaded[number]) for number in alone)


def test_seed_and_epoch_change_the_order_and_nothing_else_does(store: Store) -> None:
    def order(**options: int) -> np.ndarray:
        return np.concatenate(
            [b.index for b in Shuffled(store, PARTS, batch=64, buffer_tokens=4 * CHUNK, chunk=CHUNK, **options)]
        )

    assert np.array_equal(order(seed=1), order(seed=1))
    assert not np.array_equal(order(seed=1), order(seed=2))
    assert not np.array_equal(order(seed=1), order(seed=1, epoch=1))


def test_neighbours_are_spread(store: Store) -> None:
    """Tokens of one batch come from many places: neighbours in the store are rarely neighbours in a batch."""
    index = np.concatenate([b.index for b in Shuffled(store, PARTS, batch=64, buffer_tokens=1 << 14)])
    assert (np.abs(np.diff(index)) == 1).mean() < 0.05


def test_sizes_that_make_no_sense(store: Store) -> None:
    wrong = ({"batch": 0}, {"batch": 100, "buffer_tokens": 10}, {"chunk": 0}, {"rank": 2, "world_size": 2})
    for options in wrong:
        with pytest.raises(InputError):
            Shuffled(store, PARTS, **{"batch": 10, **options})  # type: ignore[arg-type]


def test_a_chunk_is_no_larger_than_the_buffer(store: Store) -> None:
    first = next(iter(Shuffled(store, PARTS, batch=64, buffer_tokens=128)))
    assert np.ptp(first.index) < 128


def test_of_many_files_only_some_are_open(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from conceptlab.store import mapped

    monkeypatch.setattr(mapped, "OPEN", 2)
    part = store["resid_post", 1]
    plain = part.read(0, len(part)).clone()
    for batch in Shuffled(store, [("resid_post", 1)], batch=64, buffer_tokens=4 * CHUNK, chunk=CHUNK):
        assert torch.equal(batch.values["resid_post/1"], plain[torch.from_numpy(batch.index)])
    assert len(part.files._held) <= 2 < len(store.shards)
    assert all(checked.all() for checked in part.files._checked.values())


@pytest.mark.parametrize("at", [5_000, -7])
def test_a_flipped_byte_is_noticed_and_an_unchecked_reader_says_nothing(tmp_path: Path, at: int) -> None:
    harvest(tmp_path, Wish(("resid_post",), context=16, batch_tokens=512, shard_tokens=1000, threads=1), corpus(600))
    file = sorted((tmp_path / "acts" / "resid_post").rglob("*.safetensors"))[1]
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(content)
    parts: list[tuple[str, int | None]] = [("resid_post", 0), ("resid_post", 1)]
    with pytest.raises(ResultError, match="damaged"):
        list(Shuffled(Store.open(tmp_path), parts, batch=64, buffer_tokens=4 * CHUNK, chunk=CHUNK))
    assert list(Shuffled(Store.open(tmp_path, verify=False), parts, batch=64, buffer_tokens=4 * CHUNK, chunk=CHUNK))


def test_a_store_that_is_elsewhere_gives_the_same_batches(store: Store) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(store.place.url, "/streamed", recursive=True)
    away = Shuffled(Store.open("memory://streamed"), PARTS, batch=64, buffer_tokens=3 * CHUNK, chunk=CHUNK)
    for here, there in zip(Shuffled(store, PARTS, batch=64, buffer_tokens=3 * CHUNK, chunk=CHUNK), away, strict=True):
        assert np.array_equal(here.index, there.index)
        assert all(torch.equal(here.values[name], there.values[name]) for name in here.values)
