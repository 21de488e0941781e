"""Bar 6: an older store opens, a newer one is refused, and nothing that a record says leaves the store."""

import json
from pathlib import Path

import pytest
import torch

from conceptlab.errors import ConceptlabError, InputError, ResultError
from conceptlab.model import load_model
from conceptlab.runs.place import LocalPlace
from conceptlab.runs.sealed import seal, unseal
from conceptlab.store import Store, open_harvest
from conceptlab.store.manifest import SCHEMA
from conceptlab.store.verifying import verify
from tests.model.tiny import tokenizer
from tests.reliability import flips, hostile, small

GOLDEN = Path(__file__).parents[1] / "store" / "golden"


def rewrite(folder: Path, name: str, **changes: object) -> None:
    record = unseal((folder / name).read_bytes())
    (folder / name).write_bytes(seal({**record, **changes}))


@pytest.mark.parametrize("schema", range(1, SCHEMA + 1))
def test_a_store_of_every_schema_opens_and_reads_the_same(schema: int) -> None:
    recorded = json.loads((GOLDEN / "numbers.json").read_text())
    store = Store.open(GOLDEN / f"schema{schema}")
    assert store.manifest.schema == schema
    hashes = {record.block_hash for shard in store.shards for record in store.commit(shard).files.values()}
    assert hashes == {{1: "sha256", 2: "blake3"}[schema]}
    assert (len(store), store.plan.n_docs, list(store.shards)) == (
        recorded["tokens"],
        recorded["docs"],
        recorded["shards"],
    )
    for name, rows in recorded["values"].items():
        site, _, layer = name.partition("/")
        part = store.part(site, int(layer) if layer else None)
        for row, values in rows.items():
            assert torch.equal(part[int(row)].double(), torch.tensor(values, dtype=torch.float64)), (name, row)
    for doc, expected in recorded["documents"].items():
        view = store.document(int(doc))
        assert view.text == expected["text"]
        assert view.token.tolist() == expected["token"]
        assert [[int(a), int(b)] for a, b in zip(view.start, view.end, strict=True)] == expected["span"]
    assert store.nonfinite() == recorded["nonfinite"]
    assert verify(GOLDEN / f"schema{schema}").whole
    assert sum(path.stat().st_size for path in (GOLDEN / f"schema{schema}").rglob("*") if path.is_file()) < 40_000


def test_a_newer_schema_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    flips.make(tmp_path)
    rewrite(tmp_path, "manifest.json", schema=99)
    before = small.hashes(LocalPlace(tmp_path))
    for use in (Store.open, verify, small.harvest):
        with pytest.raises(
            ResultError, match=r"newer conceptlab \(schema 99, this one reads up to \d+\); update"
        ) as caught:
            use(tmp_path)
        assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert small.hashes(LocalPlace(tmp_path)) == before


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "acts/../../secret", "link", "link/secret", "acts/se\0cret", "acts//secret", "."],
)
def test_a_name_in_a_commit_that_leaves_the_store_is_refused(tmp_path: Path, name: str) -> None:
    store = flips.make(tmp_path / "store")
    (tmp_path / "secret").write_text("secret")
    (store / "link").symlink_to(tmp_path)
    commit = unseal((store / "commit/000001.json").read_bytes())
    entries = list(commit["files"].values())
    rewrite(store, "commit/000001.json", files={**commit["files"], name: entries[0]})
    verdict = verify(store)
    assert [fault.shard for fault in verdict.faults if fault.kind in ("commit", "data")] == [1]
    assert "\n" not in str(verdict.faults[0])
    if not name.startswith("link"):
        with pytest.raises(InputError, match="would leave the store"):
            flips.read_everything(store)


def test_a_commit_whose_part_is_a_link_out_of_the_store_is_refused(tmp_path: Path) -> None:
    store = flips.make(tmp_path / "store")
    name = flips.kinds(store)["data"]
    (store / name).rename(tmp_path / "elsewhere")
    (store / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="leads out of the store"):
        flips.read_everything(store)
    assert not verify(store).whole


def test_another_model_in_memory_is_another_store(tmp_path: Path) -> None:
    flips.make(tmp_path)
    module = small.fresh_module()
    with torch.no_grad():
        module.transformer.wpe.weight[3, 3] += 1e-6
    other = load_model(module, tokenizer=tokenizer())
    before = small.hashes(LocalPlace(tmp_path))
    with pytest.raises(InputError, match="holds another store \\(revision was"):
        open_harvest(other, small.corpus(flips.TEXTS), tmp_path, flips.WISH)
    assert small.hashes(LocalPlace(tmp_path)) == before


def test_the_plan_of_another_store_is_refused(tmp_path: Path) -> None:
    first, second = flips.make(tmp_path / "first"), tmp_path / "second"
    small.harvest(second)
    (first / "manifest.json").write_bytes((second / "manifest.json").read_bytes())
    with pytest.raises(ConceptlabError, match="the manifest of one store and the plan of another"):
        Store.open(first)


@pytest.mark.parametrize("name", ["manifest.json", "plan.json", "commit/000001.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'{"seal": NaN}',
        b'{"seal": 1, "a": NaN}',
        b'{"seal": "x", "a": 1e999}',
        b'{"seal": 1, "a": ' + b"9" * 5000 + b"}",
        b'{"seal": 1, "a": "\\ud800"}',
        b'{"seal": 1, "seal": 2}',
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"seal": 1, "a": ' + b"[" * 700 + b"]" * 700 + b"}",
        b'{"a":' * 50_000,
    ],
)
def test_what_is_no_record_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (flips.make(tmp_path) / name).write_bytes(content)
    flips.noticed(tmp_path, name)


def test_hostile_records_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tally = hostile.attack(flips.make(tmp_path / "store"), tmp_path / "scratch", 40, seed=1)
    with capsys.disabled():
        print(f"\nreliability: {tally}")
    assert tally.refused > 20
