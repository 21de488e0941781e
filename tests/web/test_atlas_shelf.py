"""Atlases are opened leniently: what is whole is shown with its own numbers, what is broken, missing or newer is named."""

import json
import shutil

import pytest

from conceptlab.atlas.saving import PARTS, concept_folder, seal_hash, slug
from conceptlab.atlas.sealing import file_hashes, write_sealed
from conceptlab.cli.finding import save_found
from conceptlab.data import Concept, ConceptSet
from conceptlab.errors import ConceptlabError, InputError
from conceptlab.find.detector import Found
from conceptlab.results import Circuit, GraphShape, Provenance
from conceptlab.web.atlas_shelf import AtlasShelf
from conceptlab.web.desk import open_desk
from tests.atlas import synthetic

NAMES = synthetic.NAMES[:3]


@pytest.fixture(scope="module")
def whole():
    return synthetic.atlas(NAMES)


@pytest.fixture(scope="module")
def saved(whole, tmp_path_factory):
    return whole.save(tmp_path_factory.mktemp("atlas") / "run")


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def resealed(path, **changes):
    """Write a record again with other values, under a seal of its own."""
    record = {k: v for k, v in json.loads(path.read_bytes()).items() if k not in ("schema", "sha256")}
    write_sealed(path, {**record, **changes})


def test_everything_is_what_was_saved(whole, saved):
    shelf = AtlasShelf(saved, "run")
    assert [e.name for e in shelf.concepts.values()] == list(NAMES) and shelf.model == whole.model and not shelf.said
    for concept in whole.concepts:
        assert shelf.concept(slug(concept.name)) == concept
        assert shelf.values(slug(concept.name))["score"] == concept.score
        assert (shelf.part(slug(concept.name), "direction").vector == concept.direction.vector).all()
    assert shelf.geometry.data.identical(whole.geometry.data) and not shelf.broken


@pytest.mark.parametrize("part", list(PARTS))
@pytest.mark.parametrize("how", ["damaged", "missing", "newer"])
def test_a_broken_part_is_named_and_the_rest_is_shown(whole, folder, part, how):
    at = concept_folder(folder, NAMES[0]) / part
    file = max((p for p in at.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if how == "missing":
        file.unlink()
    elif how == "damaged":
        data = file.read_bytes()
        file.write_bytes(bytes([*data[:-1], data[-1] ^ 1]))
    else:
        record = at / ("result.json" if part == "direction" else "scores.json")
        record.write_text(json.dumps({**json.loads(record.read_text()), "schema": 99}))
    shelf = AtlasShelf(folder, "run")
    found, asked = shelf.concept(NAMES[0]), whole.concepts[0]
    assert getattr(found, part) is None and set(shelf.broken_parts(NAMES[0])) == {part}
    said = shelf.broken_parts(NAMES[0])[part]
    assert "\n" not in said and str(folder) not in said and part in said
    assert all(getattr(found, other) is not None for other in PARTS if other != part) and found.score == asked.score
    assert shelf.concept(NAMES[1]) == whole.concepts[1]


def test_a_part_written_by_a_newer_version_is_named(folder):
    seal = concept_folder(folder, NAMES[0]) / "concept.json"
    at = seal.parent / "depth" / "scores.json"
    at.write_text(json.dumps({**json.loads(at.read_text()), "schema": 99}))
    record = json.loads(seal.read_bytes())
    resealed(seal, files=file_hashes(seal.parent, without="concept.json"), parts=[*record["parts"], "holograms"])
    manifest = folder / "manifest.json"
    resealed(manifest, concepts={**json.loads(manifest.read_bytes())["concepts"], NAMES[0]: seal_hash(seal.parent)})
    shelf = AtlasShelf(folder, "run")
    assert shelf.concept(NAMES[0]).depth is None and shelf.concept(NAMES[0]).heads is not None
    broken = shelf.broken_parts(NAMES[0])
    assert "newer" in broken["depth"] and "newer" in broken["holograms"]


def test_a_changed_record_breaks_its_concept_alone(folder):
    seal = concept_folder(folder, NAMES[0]) / "concept.json"
    seal.write_bytes(seal.read_bytes().replace(b'"n": 400', b'"n": 401', 1))
    shelf = AtlasShelf(folder, "run")
    with pytest.raises(ConceptlabError, match="damaged"):
        shelf.concept(NAMES[0])
    assert shelf.concept(NAMES[1]).n == 400
    list(shelf.gather())
    assert shelf.overview is not None


@pytest.mark.parametrize(("data", "word"), [(b"{", "damaged"), (b'{"kind": "atlas", "schema": 99}', "newer")])
def test_a_broken_manifest_stands_in_the_list(folder, data, word):
    (folder / "manifest.json").write_bytes(data)
    desk = open_desk([folder])
    shelf = desk.atlas("run")
    assert word in shelf.said and not shelf.concepts and shelf.overview is None and shelf.geometry is None
    desk.jobs.close()


def test_the_overview_is_read_or_made(whole, folder):
    saved = AtlasShelf(folder, "run").overview
    resealed(folder / "manifest.json", overview=None)
    shelf = AtlasShelf(folder, "run")
    assert shelf.overview is None
    assert list(shelf.gather()) == [(1, 3), (2, 3), (3, 3)]
    assert shelf.overview.data.identical(saved.data)


def test_a_damaged_overview_is_named_and_made_again(folder):
    next((folder / "overview").rglob("score/c/0/0")).write_bytes(b"x")
    shelf = AtlasShelf(folder, "run")
    assert shelf.overview is None and "damaged" in shelf.broken["overview"]
    list(shelf.gather())
    assert shelf.overview.data.sizes["concept"] == 3


def test_ids_differ_and_folders_that_are_none_are_refused(saved, tmp_path):
    twin = shutil.copytree(saved, tmp_path / "other" / "run")
    desk = open_desk([saved, twin])
    assert list(desk.atlases) == ["run", "run-2"] and desk.atlas().folder == saved
    desk.jobs.close()
    inside = open_desk([tmp_path / "other"])
    assert list(inside.atlases) == ["run"]
    inside.jobs.close()
    (tmp_path / "empty").mkdir()
    for bad in (tmp_path / "empty", tmp_path / "nothing"):
        with pytest.raises(InputError, match="holds no atlas"):
            open_desk([bad])


def test_texts_are_those_of_the_atlas_or_none(saved, whole):
    concept = Concept("animal", ("a", "b"), synthetic.np.array([0, 1]), "binary", ("no", "yes"))
    other = ConceptSet("other.csv", (concept,))
    desk = open_desk([saved], concept_set=other)
    found, why = desk.texts(desk.atlas(), "animal")
    assert found is None and "hash differs" in why
    desk.concept_set = ConceptSet("own.csv", (concept,), data_hash=whole.provenance.data_hash)
    assert desk.texts(desk.atlas(), "animal")[0] is concept
    assert "no concept" in desk.texts(desk.atlas(), "plural")[1]
    desk.jobs.close()


def test_rankings_and_circuits_beside_an_atlas_are_found(whole, folder):
    home = folder.parent
    save_found(
        Found({"induction": whole.concepts[0].heads}, {}), home / "conceptlab-findings" / "tiny-heads", "head", 5
    )
    made = Provenance("by hand", n=8, seed=0, model="tiny")
    circuit = Circuit.from_edges(GraphShape(1, 2), [("embed", "logits", 1.0)], made)
    circuit.save(home / "explained" / "circuit")
    (home / "explained" / "explanation.json").write_text("{}")
    (home / "broken").mkdir()
    (home / "broken" / "found.json").write_text('{"detectors": {"x": {"folder": "../../etc"}}}')
    desk = open_desk([folder])
    (finding,) = desk.findings.values()
    assert finding.kind == "head" and finding.model == "conceptlab/tiny-world"
    assert finding.units("induction").table.identical(whole.concepts[0].heads.table)
    assert desk.circuits == {"explained": circuit}
    assert "no record" in desk.broken["broken"]
    desk.jobs.close()
