"""Differences of two atlases: their intervals cover what they say, find what is planted, and say nothing where nothing is."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from conceptlab.errors import ConceptlabError
from conceptlab.plot.relations import relation_chart
from conceptlab.web.desk import open_desk, told_apart
from conceptlab.web.pages.compare import compare_view, difference, excludes_zero, no_cosine
from tests.atlas import synthetic

NAMES = (*synthetic.NAMES[:3], synthetic.NAMES[-1])


def side(value, low, high):
    return {"v": value, "low": low, "high": high}


def test_intervals_of_equal_halves_join_as_roots_of_squares():
    found = difference(side(0.5, 0.4, 0.6), side(0.8, 0.7, 0.9), "v", "low", "high")
    np.testing.assert_allclose(found, (0.3, 0.3 - np.hypot(0.1, 0.1), 0.3 + np.hypot(0.1, 0.1)))
    assert excludes_zero(found)
    assert difference(side(0.5, None, 0.6), side(0.8, 0.7, 0.9), "v", "low", "high") == (pytest.approx(0.3), None, None)
    assert difference(side(float("nan"), 0, 1), side(0.8, 0.7, 0.9), "v", "low", "high") is None


def test_they_cover_the_difference_about_as_often_as_they_say():
    rng, z, covered, found = np.random.default_rng(0), 1.96, [], []
    for gap in (0.0, 0.3):
        for _ in range(800):
            spread = rng.uniform(0.02, 0.08, 2)
            a, b = 0.5 + rng.normal(0, spread[0]), 0.5 + gap + rng.normal(0, spread[1])
            made = difference(
                side(a, a - z * spread[0], a + z * spread[0]), side(b, b - z * spread[1], b + z * spread[1]), "v", "low", "high"
            )  # fmt: skip
            covered.append(made[1] <= gap <= made[2])
            found.append((gap, excludes_zero(made)))
    assert 0.93 < np.mean(covered) < 0.97
    assert 0.03 < np.mean([f for gap, f in found if gap == 0]) < 0.07
    assert np.mean([f for gap, f in found if gap]) > 0.9


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    home = tmp_path_factory.mktemp("pair")
    one = synthetic.atlas(NAMES)
    changed = dataclasses.replace(one.concepts[1], score=0.55, score_interval=(0.5, 0.6), best_layer="2")
    other = dataclasses.replace(one, concepts=(one.concepts[0], changed, *one.concepts[2:]))
    wide = dataclasses.replace(one, model={**one.model, "d_model": 99, "name": "wide"})
    apart = dataclasses.replace(one, model={**one.model, "name": "apart", "revision": "other"})
    for name, atlas in (("one", one), ("other", other), ("wide", wide), ("apart", apart)):
        atlas.save(home / name)
    made = open_desk([home / name for name in ("one", "other", "wide", "apart")])
    yield made
    made.jobs.close()


def test_the_planted_difference_comes_first_and_is_the_only_one(desk):
    content = compare_view(desk, {"atlas": "one", "other": "other"}).content
    rows = content["rows"]
    assert rows[0]["name"] == NAMES[1] and rows[0]["differs"] and rows[0]["difference"] < -0.2
    assert content["pair"]["differ"] == 1 and content["pair"]["n"] == 4 and content["pair"]["same_texts"]
    assert all(row["difference"] == 0 and not row["differs"] for row in rows[1:])
    assert all(row["cosine"] == pytest.approx(1, abs=1e-6) for row in rows)
    assert rows[0]["one"]["depth"] != rows[0]["other"]["depth"]
    assert len(content["chart"].rows) == 4


def test_cosines_are_shown_only_where_they_mean_something(desk):
    why = {id: no_cosine(desk.atlas("one"), desk.atlas(id)) for id in ("other", "wide", "apart")}
    assert why["other"] == "" and "99 wide" in why["wide"] and "bases of their own" in why["apart"]
    assert all(row["cosine"] is None for row in compare_view(desk, {"atlas": "one", "other": "apart"}).content["rows"])


def test_two_checkpoints_in_folders_of_one_name_are_told_apart(tmp_path):
    early = synthetic.atlas(NAMES)
    late = dataclasses.replace(early, model={**early.model, "revision": "step-2000"})
    for run, atlas in (("early", early), ("late", late)):
        atlas.save(tmp_path / run / "atlas")
    desk = open_desk([tmp_path / "early/atlas", tmp_path / "late/atlas"])
    desk.jobs.close()
    assert [shelf.name for shelf in desk.atlases.values()] == ["early/atlas", "late/atlas"]
    pair = compare_view(desk, {}).content["pair"]
    assert (pair["one"]["name"], pair["other"]["name"]) == ("early/atlas", "late/atlas")
    assert pair["one"]["model"] == pair["other"]["model"] and pair["other"]["revision"] == "step-2000"
    assert pair["one"]["revision"] != "step-2000" and no_cosine(*desk.atlases.values()) == ""


def test_names_of_folders():
    paths = [Path(p) for p in ("/a/x/atlas", "/a/y/atlas", "/b/y/atlas", "/b/other")]
    assert list(told_apart(paths).values()) == ["x/atlas", "a/y/atlas", "b/y/atlas", "other"]


def test_search_sort_and_bad_queries(desk):
    found = compare_view(desk, {"atlas": "one", "other": "other", "find": NAMES[2].upper(), "sort": "name"}).content
    assert [row["name"] for row in found["rows"]] == [NAMES[2]]
    with pytest.raises(ConceptlabError, match="sort='no'"):
        compare_view(desk, {"atlas": "one", "other": "other", "sort": "no"})


def test_relations_are_the_cosines_of_the_table_nearest_first():
    geometry = synthetic.geometry(NAMES)
    chart = relation_chart(geometry, NAMES[0])
    cosine = geometry["score"].sel(concept=NAMES[0]).to_series().drop(NAMES[0])
    assert [row["concept"] for row in chart.rows] == list(cosine.abs().sort_values(ascending=False).index)
    np.testing.assert_allclose(
        [row["cosine"] for row in chart.rows], cosine[[r["concept"] for r in chart.rows]], rtol=1e-5
    )
    assert relation_chart(geometry, "nobody") is None and len(relation_chart(geometry, NAMES[0], most=2).rows) == 2
