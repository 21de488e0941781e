"""An atlas loads back equal, and no changed byte goes unnoticed."""

import dataclasses
import json
import math
import shutil

import pytest

from conceptlab.atlas.atlas import Atlas
from conceptlab.atlas.saving import concept_folder, load_concept, save_concept, slug
from conceptlab.atlas.sealing import seal
from conceptlab.errors import ConceptlabError, ResultError

from . import synthetic

HOSTILE = ("../../etc/passwd", "a/b", "a\\b", "", ".", "..", "CON", "con", "\x1b[31mred", "</script>", "x" * 5000,
           "Truth", "truth", "TRUTH", "\u202eabc", "a\x00b", "\ud800", "é", "e\u0301")  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    whole = synthetic.atlas(synthetic.NAMES[:2])
    return whole, whole.save(tmp_path_factory.mktemp("atlas") / "run")


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved[1], tmp_path / "copy")


def test_loads_back_equal(saved):
    whole, folder = saved
    assert Atlas.load(folder) == whole


def test_equality_sees_every_field(saved):
    whole, _ = saved
    concept = whole.concepts[0]
    changed = concept.depth.data.copy(deep=True)
    changed["score"].values = changed["score"].values + 1e-12
    for change in (
        {"score": concept.score + 1e-12},
        {"jump": math.nan},
        {"top_heads": ()},
        {"depth": dataclasses.replace(concept.depth, data=changed)},
        {"direction": dataclasses.replace(concept.direction, basis=concept.direction.basis * 2)},
        {"heads": concept.neurons},
        {"effects": None},
    ):
        assert dataclasses.replace(concept, **change) != concept, change
    assert dataclasses.replace(whole, seconds=1.0) != whole
    assert whole != 1


def test_nan_and_absent_parts_come_back(tmp_path, saved):
    given = {"q": math.nan, "p": math.inf, "neurons": None, "effects": None, "effect": None, "effect_interval": None}
    concept = dataclasses.replace(saved[0].concepts[0], **given)
    save_concept(tmp_path / "c", concept)
    assert load_concept(tmp_path / "c") == concept


def test_saving_twice_changes_no_array_and_drops_old_concepts(copy, saved):
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("concepts/*/depth/data.zarr/**/*") if p.is_file()}
    first = saved[0].concepts[0]
    dataclasses.replace(saved[0], concepts=(dataclasses.replace(first, q=0.5),), geometry=None).save(copy)
    kept = concept_folder(copy, first.name)
    assert load_concept(kept).q == 0.5
    assert sorted(p.name for p in (copy / "concepts").iterdir()) == [kept.name]
    assert before and all(p.stat().st_mtime_ns == t for p, t in before.items() if p.is_relative_to(kept))


def test_every_file_is_guarded(copy, saved):
    dataclasses.replace(saved[0], concepts=saved[0].concepts[:1]).save(copy)
    files = [p for p in copy.rglob("*") if p.is_file()]
    for i, path in enumerate(files):
        if path.name not in ("manifest.json", "concept.json") and i % 5:
            continue
        data = path.read_bytes()
        path.write_bytes(bytes([*data[: len(data) // 2], data[len(data) // 2] ^ 1, *data[len(data) // 2 + 1 :]]))
        with pytest.raises(ResultError) as caught:
            Atlas.load(copy)
        assert "\n" not in str(caught.value)
        path.unlink()
        with pytest.raises(ResultError):
            Atlas.load(copy)
        path.write_bytes(data)
    assert len(files) > 60
    Atlas.load(copy)


def test_a_flipped_bit_of_a_chunk_is_named(copy):
    chunk = next(copy.rglob("depth/data.zarr/score/c/0"))
    chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 4]) + chunk.read_bytes()[1:])
    with pytest.raises(ResultError, match="score/c/0 is damaged"):
        Atlas.load(copy)


def test_newer_foreign_and_malformed_folders_are_one_line(copy, tmp_path):
    manifest = copy / "manifest.json"
    record = json.loads(manifest.read_bytes())
    for data, words in (
        (json.dumps({**record, "schema": 99}).encode(), "newer conceptlab"),
        (json.dumps({**record, "kind": "scores"}).encode(), "no saved atlas"),
        (b"[" * 100_000, "damaged"),
        (b"\xff\xfe", "damaged"),
        (seal({"kind": "atlas"}), "holds no atlas"),
    ):
        manifest.write_bytes(data)
        with pytest.raises(ResultError, match=words) as caught:
            Atlas.load(copy)
        assert "\n" not in str(caught.value)
    with pytest.raises(ResultError, match="cannot be read"):
        Atlas.load(tmp_path / "nothing")


def test_hostile_names_get_folders_of_their_own(tmp_path):
    folders = {slug(name) for name in HOSTILE}
    assert len(folders) == len({f.lower() for f in folders}) == len(HOSTILE)
    for name in HOSTILE:
        at = concept_folder(tmp_path, name)
        assert at.parent == tmp_path / "concepts" and at.resolve().parent == at.parent.resolve()
        assert slug(name).isascii() and len(slug(name)) <= 51 and slug(name).lower() not in ("con", "", ".", "..")


def test_hostile_names_round_trip(tmp_path, saved):
    concepts = tuple(
        dataclasses.replace(saved[0].concepts[0], name=name) for name in (HOSTILE[0], HOSTILE[8], HOSTILE[-3])
    )
    whole = dataclasses.replace(saved[0], concepts=concepts, geometry=None)
    assert Atlas.load(whole.save(tmp_path)) == whole


def test_a_missing_concept_names_those_present(saved):
    with pytest.raises(ResultError, match="animal, sentiment"):
        saved[0].concept("colour")
    with pytest.raises(ResultError, match="two concepts"):
        dataclasses.replace(saved[0], concepts=saved[0].concepts[:1] * 2)


def test_a_disk_that_refuses_is_a_run_error(tmp_path, saved):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConceptlabError, match="cannot write") as caught:
        saved[0].save(tmp_path / "file" / "run")
    assert caught.value.exit_code == 1
