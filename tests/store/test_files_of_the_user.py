"""A store may be made in a folder where other files lie: whatever a harvest did not make stays, come what may."""

from pathlib import Path

import pytest

from conceptlab.data.corpus import TextList
from conceptlab.errors import DataError
from conceptlab.store import open_harvest
from conceptlab.store.repairing import repair
from conceptlab.store.verifying import verify
from tests.reliability import small

OTHERS = (
    "notes.txt", "text/a.txt", "text/000001.txt", "tokens/mine.parquet", "plan/monday.md", "plan/000001.txt", "acts/x/y.npy",
    "stats.csv",
    "plan-b.txt", "commit/message.txt", "acts/one.safetensors", "text/000001-notes.parquet",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in OTHERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    return tmp_path


def left(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != ".lock")


def test_a_plan_that_cannot_be_made_takes_only_itself_back(folder: Path) -> None:
    texts = TextList((*small.corpus().texts, " "))
    with pytest.raises(DataError, match="the text is empty"):
        open_harvest(small.model(), texts, folder, small.WISH)
    assert left(folder) == sorted(OTHERS)


def test_a_harvest_and_a_repair_leave_other_files(folder: Path) -> None:
    assert small.harvest(folder) == list(range(small.N_SHARDS))
    assert set(OTHERS) <= set(left(folder))
    assert verify(folder).whole
    data = next((folder / "acts/embed").glob("000001-*"))
    data.write_bytes(data.read_bytes()[:-1])
    next((folder / "tokens").glob("000001-*")).unlink()
    verdict = verify(folder)
    assert repair(folder, verdict, lambda _: small.model(), lambda _: small.corpus()).whole
    assert set(OTHERS) <= set(left(folder))
    assert {(folder / name).read_text() for name in OTHERS} == {"mine"}
