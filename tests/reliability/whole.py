"""What must hold after anything went wrong: nothing half is visible, what is finished verifies, and going on gives equal bytes."""

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from conceptlab.errors import ResultError
from conceptlab.runs.blocks import check_file
from conceptlab.runs.ledger import Ledger
from conceptlab.runs.place import Place, place_of
from conceptlab.runs.sealed import unseal
from conceptlab.store import Store
from tests.reliability import small

PIECE = re.compile(r"plan/\d{6}\.json")  # records of a plan that is not finished


@dataclass(frozen=True)
class Found:
    """What was there before going on: which phase it was in, and the finished shards."""

    phase: str
    finished: int


def make(url: str) -> dict[str, str]:
    """The store that nothing disturbed; hash of every file."""
    assert small.harvest(url) == list(range(small.N_SHARDS))
    return small.hashes(place_of(url))


def check(url: str, expected: dict[str, str]) -> Found:
    """Raise AssertionError (or the store's own error) where a visible file is not as in the undisturbed store, a commit does not
    verify, or a store that opens does not read."""
    place = place_of(url)
    found = small.hashes(place)
    for name, digest in found.items():
        if PIECE.fullmatch(name):
            unseal(place.read(name) or b"")
        else:
            assert expected.get(name) == digest, f"{name} is visible and not as it should be"
    if "plan.json" not in found:
        assert not [name for name in found if name.startswith("commit/")]
        assert _refused(url)
        return Found("planning" if "manifest.json" in found else "nothing yet", 0)
    store = Store.open(url)
    for shard in store.shards:
        for name, record in store.commit(shard).files.items():
            check_file(place, name, record)
        assert int(store.tokens(shard).kept.sum()) == store.plan.index["n_kept"][shard]
    for site in store.sites:
        for layer in site.layers or (None,):
            assert len(store.part(site.name, layer)[:]) == len(store)
    return Found("finished" if store.complete else "harvesting", len(store.shards))


def _refused(url: str) -> bool:
    try:
        Store.open(url)
    except ResultError as error:
        return "\n" not in str(error)
    return False


def check_only(url: str, expected: dict[str, str]) -> dict[str, Any]:
    """`check` alone."""
    return asdict(check(url, expected))


def check_and_resume(url: str, expected: dict[str, str]) -> dict[str, Any]:
    """`check`, then go on: no finished shard is computed again and every file is the same as in the undisturbed store."""
    found = check(url, expected)
    before = finished(place_of(url))
    computed = small.harvest(url)
    assert not set(computed) & set(before), "a finished shard was computed again"
    assert len(computed) + len(before) == small.N_SHARDS
    same(url, expected)
    return asdict(found)


def same(url: str, expected: dict[str, str]) -> None:
    """Raise AssertionError where the files are not exactly the expected ones."""
    found = small.hashes(place_of(url))
    differ = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    assert not differ, f"not as in the undisturbed store: {json.dumps(differ)}"


def finished(place: Place) -> list[int]:
    """The shards with a commit."""
    return Ledger(place, "", small.N_SHARDS).finished()
