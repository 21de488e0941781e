"""Bar 2: every single byte flipped in turn, every length that a file can be cut to: noticed by `verify` and by a reading that
verifies; `repair` computes again only what is broken."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conceptlab.errors import ConceptlabError, InputError, ResultError
from conceptlab.runs.blocks import BLOCK, BlockWriter, check_file
from conceptlab.runs.place import LocalPlace
from conceptlab.runs.sealed import Damaged
from conceptlab.store import Store
from conceptlab.store.mapped import ShardFile
from conceptlab.store.repairing import needed, repair
from conceptlab.store.shard_files import header
from conceptlab.store.verifying import Verdict, verify
from tests.reliability import small

TEXTS = 12  # a few shards
WISH = replace(small.WISH, statistics=True)
SHARDS_OWN = ("data", "statistics", "commit")  # what is computed again, not planned again
LONG_FILE = 3 * BLOCK - 4096


@dataclass
class Damage:
    """Damages done by kind of file, all of them noticed."""

    done: Counter[str] = field(default_factory=Counter)
    repaired: int = 0

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.done.items())
        mended = f"; {self.repaired:,} repaired to the same bytes" if self.repaired else ""
        return f"{self.done.total():,} ({kinds}), every one noticed by verify and by reading{mended}"


def make(folder: Path) -> Path:
    """A store of a few shards, with statistics."""
    small.harvest(folder, WISH, small.corpus(TEXTS))
    return folder


def kinds(folder: Path) -> dict[str, str]:
    """One file of every kind: kind -> name."""
    names = LocalPlace(folder).names()
    patterns = {"data": "acts/resid_post/1/000001", "statistics": "stats/embed/000001",
                "tokens": "tokens/000001", "text": "text/000000", "plan table": "plan-",
                "commit": "commit/000001", "plan.json": "plan.json", "manifest": "manifest.json"}  # fmt: skip
    return {kind: next(name for name in names if name.startswith(start)) for kind, start in patterns.items()}


def read_everything(folder: Path, statistics: bool = False) -> None:
    """A reading that verifies: every value, token and text, and where asked the statistics."""
    store = Store.open(folder)
    for site in store.sites:
        for layer in site.layers or (None,):
            part = store.part(site.name, layer)
            assert len(part[:]) == store.plan.n_kept
            if statistics:
                store.statistics(site.name, layer)
    for shard in store.shards:
        store.tokens(shard)
    for doc in range(store.plan.n_docs):
        store.document(doc)


def noticed(folder: Path, name: str) -> Verdict:
    """The verdict of `verify`. Raises AssertionError where it, or a reading, does not notice that `name` is damaged."""
    verdict = verify(folder)
    assert not verdict.whole, f"{name}: verify found nothing"
    named = {fault.name for fault in verdict.faults} | {str(fault) for fault in verdict.faults}
    assert any(name in text for text in named) or name in ("plan.json", "manifest.json"), (name, named)
    assert all("\n" not in str(fault) for fault in verdict.faults)
    try:
        read_everything(folder, statistics=name.startswith("stats/"))
    except ConceptlabError as error:
        assert "\n" not in str(error)
        return verdict
    raise AssertionError(f"{name}: reading noticed nothing")


def flip(folder: Path, every: int = 1, seed: int = 0) -> Damage:
    """Flip bytes of one file of each kind, one at a time: all of them, or each `every`-th from a random start."""
    rng, tally = random.Random(seed), Damage()
    for kind, name in kinds(folder).items():
        path = folder / name
        content = path.read_bytes()
        step = _step(kind, every)
        for at in range(rng.randrange(step), len(content), step):
            changed = bytearray(content)
            changed[at] ^= rng.randrange(1, 256)
            path.write_bytes(changed)
            noticed(folder, name)
            tally.done[kind] += 1
        path.write_bytes(content)
    assert verify(folder).whole
    return tally


def cut(folder: Path, every: int = 1, seed: int = 0) -> Damage:
    """Cut one file of each kind to every length (or each `every`-th), and make it longer or take it away."""
    rng, tally = random.Random(seed), Damage()
    for kind, name in kinds(folder).items():
        path = folder / name
        content = path.read_bytes()
        step = _step(kind, every)
        for length in sorted({0, len(content) - 1, *range(rng.randrange(step), len(content), step)}):
            path.write_bytes(content[:length])
            noticed(folder, name)
            tally.done[kind] += 1
        path.write_bytes(content + b"\0")
        noticed(folder, name)
        if kind != "commit":  # a shard without a commit is not finished, which is no damage
            path.unlink()
            noticed(folder, name) if kind not in ("plan.json", "manifest") else refused(folder)
        path.write_bytes(content)
    assert verify(folder).whole
    return tally


def _step(kind: str, every: int) -> int:
    """Statistics are the largest file and the slowest to read: in short forms fewer of their bytes are tried."""
    return 8 * every if kind == "statistics" and every > 1 else every


def refused(folder: Path) -> None:
    """A store without its manifest or plan does not open."""
    with pytest.raises(ResultError):
        Store.open(folder)


def long_file(folder: Path, count: int, seed: int = 0) -> Damage:
    """Cut and flip a file of three blocks `count` times each, at block borders and at random."""
    place, rng, tally = LocalPlace(folder), random.Random(seed), Damage()
    n_tokens = (LONG_FILE - 128) // 64
    with place.drafts("long") as drafts:
        writer = BlockWriter(drafts / "values")
        writer.write(header((n_tokens, 16), "float32"))
        values = np.random.default_rng(seed).standard_normal((n_tokens, 16), dtype=np.float32)
        writer.write(values.tobytes())
        record = writer.close()
        place.publish(writer.draft, "acts/long")
    path = folder / "acts/long"
    content = path.read_bytes()

    def bad() -> None:
        with pytest.raises(Damaged):
            check_file(place, "acts/long", record)
        with pytest.raises(ResultError):
            ShardFile(place, "acts/long", record).read(0, n_tokens)

    assert torch.equal(ShardFile(place, "acts/long", record).read(0, n_tokens), torch.from_numpy(values))
    borders = [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, len(content) - 1]
    for length in [*borders, *(rng.randrange(4096, len(content)) for _ in range(count - len(borders)))]:
        path.write_bytes(content[:length])
        bad()
        tally.done["cut"] += 1
    for at in [*borders, *(rng.randrange(len(content)) for _ in range(count - len(borders)))]:
        path.write_bytes(content[:at] + bytes([content[at] ^ rng.randrange(1, 256)]) + content[at + 1 :])
        bad()
        tally.done["flip"] += 1
    return tally


def repaired(folder: Path, count: int, seed: int = 0) -> Damage:
    """Damage files of every kind in some way, `count` times, and repair: the same bytes, and nothing whole is computed again."""
    place, rng, tally = LocalPlace(folder), random.Random(seed), Damage()
    expected = small.hashes(place)
    ways = _ways(rng)
    for number in range(count):
        kind = list(kinds(folder))[number % len(kinds(folder))]
        name = kinds(folder)[kind]
        path = folder / name
        untouched = {path: path.stat().st_mtime_ns for path in (folder / "commit").iterdir()}
        path.write_bytes(next(ways)(path.read_bytes()))
        verdict = noticed(folder, name)
        if kind == "manifest":
            with pytest.raises(InputError, match="run the harvest command"):
                repair(folder, verdict, _model, _corpus)
            assert small.harvest(folder, WISH, small.corpus(TEXTS)) == []
        else:
            broken = needed(verdict).recompute
            assert broken == ((1,) if kind in SHARDS_OWN else ()), (kind, broken)
            assert repair(folder, verdict, _model, _corpus).whole
        assert small.hashes(place) == expected, kind
        same = {path for path, time in untouched.items() if path.stat().st_mtime_ns == time}
        assert len(untouched) - len(same) == (kind in SHARDS_OWN), kind
        tally.done[kind] += 1
        tally.repaired += 1
    return tally


def _ways(rng: random.Random) -> Iterator[Callable[[bytes], bytes]]:
    def flipped(content: bytes) -> bytes:
        at = rng.randrange(len(content))
        return content[:at] + bytes([content[at] ^ rng.randrange(1, 256)]) + content[at + 1 :]

    def shorter(content: bytes) -> bytes:
        return content[: rng.randrange(len(content))]

    def longer(content: bytes) -> bytes:
        return content + rng.randbytes(rng.randrange(1, 5000))

    while True:
        yield from (flipped, shorter, longer)


def _model(manifest: object):  # type: ignore[no-untyped-def]  # noqa: ANN202 - the form of `repair`
    return small.model()


def _corpus(manifest: object):  # type: ignore[no-untyped-def]  # noqa: ANN202 - the form of `repair`
    return small.corpus(TEXTS)
