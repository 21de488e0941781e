"""The overview says what the concepts say, and an atlas without one is still an atlas."""

import dataclasses
import json

import numpy as np

from conceptlab.atlas.atlas import Atlas
from conceptlab.atlas.overview import CURVES, overview_of
from conceptlab.atlas.saving import slug
from conceptlab.atlas.sealing import write_sealed
from conceptlab.atlas.words import is_used
from conceptlab.results import Scores

from . import synthetic


def test_it_holds_the_numbers_of_every_concept(tmp_path):
    whole = synthetic.atlas(synthetic.NAMES[-3:])
    whole.save(tmp_path / "a")
    table = Scores.load(tmp_path / "a" / "overview").data
    for concept in whole.concepts:
        row = table.sel(concept=slug(concept.name))
        for name in CURVES:
            np.testing.assert_array_equal(row[name].values, concept.depth[name].values)
        assert bool(row["found"]) == concept.found and bool(row["used"]) == is_used(concept)
        assert str(table["layer"].values[int(row["best"])]) == concept.best_layer
        np.testing.assert_equal(float(row["settled"]), np.nan if concept.settled is None else concept.settled)
    assert table["found"].values.tolist() == [True, True, False]


def test_concepts_of_other_depths_have_none(tmp_path):
    whole = synthetic.atlas(synthetic.NAMES[:2])
    short = dataclasses.replace(whole.concepts[0].depth, data=whole.concepts[0].depth.data.isel(layer=slice(0, 4)))
    odd = dataclasses.replace(
        whole, concepts=(dataclasses.replace(whole.concepts[0], depth=short), whole.concepts[1]), geometry=None
    )
    assert overview_of(odd.concepts, odd.provenance) is None
    whole.save(tmp_path / "a")
    odd.save(tmp_path / "a")
    assert not (tmp_path / "a" / "overview").exists() and Atlas.load(tmp_path / "a") == odd


def test_an_atlas_of_before_loads(tmp_path):
    whole = synthetic.atlas(synthetic.NAMES[:2])
    manifest = whole.save(tmp_path / "a") / "manifest.json"
    record = {k: v for k, v in json.loads(manifest.read_bytes()).items() if k not in ("overview", "schema", "sha256")}
    write_sealed(manifest, record)
    assert Atlas.load(tmp_path / "a") == whole
