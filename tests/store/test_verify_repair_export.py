"""Damage of every kind is named and repaired to the same bytes, nothing else is touched, and other layouts hold the same values."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from conceptlab.errors import InputError, ResultError
from conceptlab.model import Model
from conceptlab.runs.place import LocalPlace
from conceptlab.store import Store, Wish
from conceptlab.store.exporting import export
from conceptlab.store.manifest import Manifest
from conceptlab.store.repairing import needed, repair
from conceptlab.store.verifying import verify
from tests.reliability.small import corpus, harvest, hashes, model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    harvest(tmp_path / "store")
    return tmp_path / "store"


def flip(path: Path, at: int = 700) -> None:
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 4
    path.write_bytes(content)


def found(folder: Path, pattern: str, number: int = 0) -> Path:
    return sorted(folder.glob(pattern))[number]


def mended(folder: Path) -> bool:
    verdict = verify(folder)
    return repair(folder, verdict, lambda _: model(), lambda _: corpus()).whole


DAMAGE = {
    "data flipped": ("acts/resid_post/1/*", flip, ["data"]),
    "data cut": ("acts/embed/*", lambda p: p.write_bytes(p.read_bytes()[:-1]), ["data"]),
    "data longer": ("acts/embed/*", lambda p: p.write_bytes(p.read_bytes() + b"x"), ["data"]),
    "data gone": ("acts/embed/*", Path.unlink, ["data"]),
    "commit flipped": ("commit/*", flip, ["commit"]),
    "commit empty": ("commit/*", lambda p: p.write_bytes(b""), ["commit"]),
    "tokens flipped": ("tokens/*", flip, ["tokens"]),
    "text gone": ("text/*", Path.unlink, ["text"]),
    "plan flipped": ("plan.json", flip, ["plan"]),
    "index gone": ("plan-*", Path.unlink, ["plan"]),
    "a stray file": (
        "acts/embed/*",
        lambda p: p.with_name("000001-0123456789ab.safetensors").write_bytes(b"x"),
        ["stray"],
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_and_repaired_to_the_same_bytes(folder: Path, what: str) -> None:
    before = hashes(LocalPlace(folder))
    pattern, damage, kinds = DAMAGE[what]
    damage(found(folder, pattern, 0 if pattern.startswith("plan") else 1))
    verdict = verify(folder)
    assert [fault.kind for fault in verdict.faults] == kinds
    if kinds != ["plan"]:
        wanted = needed(verdict)
        assert len(wanted.recompute) == (kinds[0] in ("data", "commit"))
    assert mended(folder)
    assert hashes(LocalPlace(folder)) == before


def test_repair_computes_only_what_is_broken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from conceptlab.store.harvester import Harvester

    done: list[int] = []
    plain = Harvester.do
    monkeypatch.setattr(Harvester, "do", lambda self, shard: done.append(shard) or plain(self, shard))
    flip(found(folder, "acts/embed/*", 2))
    flip(found(folder, "commit/*", 4))
    assert mended(folder)
    assert done == [2, 4]


def test_files_of_the_user_stay(folder: Path) -> None:
    (folder / "README.txt").write_text("mine")
    assert verify(folder).whole
    flip(found(folder, "acts/embed/*"))
    assert mended(folder) and (folder / "README.txt").read_text() == "mine"


def test_a_damaged_manifest_is_written_anew_by_the_same_harvest(folder: Path) -> None:
    before = hashes(LocalPlace(folder))
    flip(folder / "manifest.json")
    with pytest.raises(ResultError, match="writes it anew and keeps every finished shard"):
        Store.open(folder)
    assert [fault.kind for fault in verify(folder).faults] == ["manifest"]
    with pytest.raises(InputError, match="run the harvest command that made the store"):
        repair(folder, verify(folder), lambda _: model(), lambda _: corpus())
    with pytest.raises(ResultError):
        harvest(folder, Wish(("embed",), context=8, batch_tokens=32, shard_tokens=48, threads=1))
    assert harvest(folder) == []
    assert hashes(LocalPlace(folder)) == before


def test_repair_refuses_another_model_or_corpus(folder: Path) -> None:
    flip(found(folder, "tokens/*"))
    before = hashes(LocalPlace(folder))
    with pytest.raises(InputError, match="not the corpus"):
        repair(folder, verify(folder), lambda _: model(), lambda _: corpus(7))
    assert hashes(LocalPlace(folder)) == before

    def refuse(manifest: Manifest) -> Model:
        raise InputError(f"no {manifest.model} here")

    with pytest.raises(InputError, match="no GPT2LMHeadModel here"):
        repair(folder, verify(folder), refuse, lambda _: corpus())
    assert hashes(LocalPlace(folder)) == before


def test_an_unfinished_store_is_not_damaged(folder: Path) -> None:
    found(folder, "commit/*", 3).unlink()
    verdict = verify(folder)
    assert verdict.whole and verdict.unfinished == (3,)
    store = Store.open(folder)
    assert not store.complete and len(store["embed"]) == len(store) < store.plan.n_kept
    with pytest.raises(InputError, match="1 of 5 shards are not computed yet"):
        export(store, folder.parent / "out", "npy")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_layout_holds_the_same_values(tmp_path: Path, dtype: str) -> None:
    wish = Wish(("resid_post", "embed"), context=16, batch_tokens=32, shard_tokens=48, threads=1, dtype=dtype)  # type: ignore[arg-type]
    harvest(tmp_path / "store", wish)
    store = Store.open(tmp_path / "store")
    plain = store["resid_post", 1].read(0, len(store)).float().numpy()
    export(store, tmp_path / "npy", "npy")
    assert np.array_equal(np.load(tmp_path / "npy" / "resid_post-1.npy"), plain)
    tokens = np.load(tmp_path / "npy" / "tokens.npy")
    export(store, tmp_path / "parquet", "parquet")
    table = pq.ParquetFile(sorted((tmp_path / "parquet" / "resid_post-1").glob("*"))[1]).read()
    first, last = store.starts[1:3]
    assert np.array_equal(np.array(table["values"].to_pylist(), dtype=np.float32), plain[first:last])
    assert table["token"].to_pylist() == tokens[first:last, 2].tolist()


def test_the_saelens_layout_is_what_datasets_reads(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra conceptlab[datasets] is not installed")
    harvest(tmp_path / "store")
    store = Store.open(tmp_path / "store")
    written = export(store, tmp_path / "out", "saelens")
    assert sorted(p.name for p in written) == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "hook_embed"]
    loaded = datasets.load_from_disk(str(tmp_path / "out" / "blocks.1.hook_resid_post")).with_format("torch")
    rows = [(ids, store.starts[n] + at) for n, s in enumerate(store.shards) for ids, at in placed(store.tokens(s))]
    full = [(ids, at) for ids, at in rows if len(ids) == 16]
    assert len(loaded) == len(full) >= len(rows) - 1
    for row, (ids, at) in zip(loaded, full, strict=True):
        assert row["token_ids"].tolist() == ids.tolist()
        assert torch.equal(row["blocks.1.hook_resid_post"], store["resid_post", 1][int(at) : int(at) + 16])
    assert json.loads((written[0] / "cache_activations_runner_cfg.json").read_text())["context_size"] == 16


def placed(tokens: object) -> "list[tuple[np.ndarray, int]]":
    lengths = tokens.lengths  # type: ignore[attr-defined]
    return list(zip(tokens.ids, np.cumsum(lengths) - lengths, strict=True))  # type: ignore[attr-defined]


def test_an_export_needs_a_new_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(InputError, match="is not empty; choose a new folder"):
        export(Store.open(folder), tmp_path / "full", "npy")
