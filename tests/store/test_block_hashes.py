"""Blocks are hashed with BLAKE3; a store of the first schema keeps sha256, and goes on to the bytes that it would have had."""

import hashlib
import shutil
from pathlib import Path

import pytest
from blake3 import blake3

from conceptlab.errors import ResultError
from conceptlab.runs.blocks import BLOCK, HASHES, BlockWriter, FileRecord, record_of
from conceptlab.runs.place import LocalPlace
from conceptlab.runs.sealed import Damaged, unseal
from conceptlab.store import Store, manifest, wish
from conceptlab.store.repairing import needed, repair
from conceptlab.store.verifying import verify
from tests.reliability import flips, small


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole store of the first schema, with statistics."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(wish, "SCHEMA", 1)
        return flips.make(tmp_path_factory.mktemp("first"))


@pytest.fixture
def copied(first: Path, tmp_path: Path) -> Path:
    return shutil.copytree(first, tmp_path / "store")


def again(folder: Path) -> list[int]:
    """The same harvest by the conceptlab of today."""
    return small.harvest(folder, flips.WISH, small.corpus(flips.TEXTS))


def entries(folder: Path) -> dict[str, dict]:
    """File -> its entry in the commit, over all shards."""
    records = (unseal(path.read_bytes()) for path in sorted((folder / "commit").iterdir()))
    return {name: entry for record in records for name, entry in record["files"].items()}


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
@pytest.mark.parametrize("kind", HASHES)
def test_a_record_holds_the_hash_of_every_block(tmp_path: Path, size: int, kind: str) -> None:
    content = bytes(i * i % 251 for i in range(1000)) * (size // 1000 + 1)
    content = content[:size]
    writer = BlockWriter(tmp_path / "draft", kind)
    for start in range(0, size, 700_001):
        writer.write(content[start : start + 700_001])
    record = writer.close()
    plain = {"sha256": hashlib.sha256, "blake3": blake3}[kind]
    assert record.blocks == tuple(plain(content[at : at + BLOCK]).hexdigest() for at in range(0, size, BLOCK))
    assert record.sha256 == hashlib.sha256(content).hexdigest()
    assert record == record_of(content, kind) == FileRecord.of(record.entry())
    assert record.entry().get("block_hash", "sha256") == kind
    for at in {0, size // 2, size - 1} if size else ():
        index = at // BLOCK
        block = bytearray(content[index * BLOCK : (index + 1) * BLOCK])
        record.check_block("file", index, bytes(block))
        block[at - index * BLOCK] ^= 1
        with pytest.raises(Damaged, match="file is damaged between bytes"):
            record.check_block("file", index, bytes(block))


def test_the_empty_input_has_the_published_blake3() -> None:
    assert HASHES["blake3"](b"").hexdigest() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


@pytest.mark.parametrize("kind", ["md5", "", None, 3, ["blake3"], "BLAKE3"])
def test_a_hash_that_is_not_known_is_damage(kind: object) -> None:
    with pytest.raises(Damaged, match="hashed by"):
        FileRecord.of({**record_of(b"abc").entry(), "block_hash": kind})


def test_new_stores_say_blake3_and_old_ones_nothing(first: Path, tmp_path: Path) -> None:
    new = flips.make(tmp_path)
    assert (Store.open(first).manifest.schema, Store.open(new).manifest.schema) == (1, 2)
    assert {entry.get("block_hash") for entry in entries(new).values()} == {"blake3"}
    assert {"block_hash" in entry for entry in entries(first).values()} == {False}
    assert {"acts", "stats"} == {name.split("/")[0] for name in entries(new)}
    for folder, plain in ((first, hashlib.sha256), (new, blake3)):
        for name, entry in entries(folder).items():
            content = (folder / name).read_bytes()
            assert entry["blocks"] == [plain(content[i : i + BLOCK]).hexdigest() for i in range(0, len(content), BLOCK)]
    ours, theirs = small.hashes(LocalPlace(new)), small.hashes(LocalPlace(first))
    assert {name for name in ours | theirs if ours.get(name) != theirs.get(name)} == {
        "manifest.json", "plan.json", *(name for name in ours if name.startswith("commit/")),
    }  # fmt: skip


@pytest.mark.parametrize("left", [(), (1,), (0, 2)])
def test_a_store_of_the_first_schema_resumes_to_its_own_bytes(first: Path, copied: Path, left: tuple[int, ...]) -> None:
    gone = [shard for shard in Store.open(first).shards if shard not in left]
    for shard in gone:
        for name in [*Store.open(copied).commit(shard).files, f"commit/{shard:06d}.json"]:
            (copied / name).unlink()
    assert again(copied) == gone
    assert small.hashes(LocalPlace(copied)) == small.hashes(LocalPlace(first))


@pytest.mark.parametrize("kind", ["data", "statistics", "commit", "tokens", "plan.json", "plan table"])
def test_a_store_of_the_first_schema_is_repaired_to_its_own_bytes(first: Path, copied: Path, kind: str) -> None:
    name = flips.kinds(copied)[kind]
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    verdict = flips.noticed(copied, name)
    assert needed(verdict).delete
    assert repair(copied, verdict, flips._model, flips._corpus).whole
    assert small.hashes(LocalPlace(copied)) == small.hashes(LocalPlace(first))


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_lost_manifest_of_the_first_schema_is_written_anew_as_it_was(first: Path, copied: Path, how: str) -> None:
    path = copied / "manifest.json"
    path.write_bytes(path.read_bytes()[:-1]) if how == "damaged" else path.unlink()
    assert again(copied) == []
    assert small.hashes(LocalPlace(copied)) == small.hashes(LocalPlace(first))


def test_a_reader_of_the_first_schema_refuses_the_second_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flips.make(tmp_path)
    before = small.hashes(LocalPlace(tmp_path))
    for module in (manifest, wish):
        monkeypatch.setattr(module, "SCHEMA", 1)
    monkeypatch.setattr(manifest, "BLOCK_HASHES", {1: "sha256"})
    for use in (Store.open, verify, again):
        with pytest.raises(
            ResultError, match=r"newer conceptlab \(schema 2, this one reads up to 1\); update"
        ) as caught:
            use(tmp_path)
        assert "\n" not in str(caught.value)
    assert small.hashes(LocalPlace(tmp_path)) == before
