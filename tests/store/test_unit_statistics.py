"""What a unit did, from statistics alone: rows of a table, and the texts in which it was largest, as its values say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conceptlab.errors import InputError
from conceptlab.store import Store
from conceptlab.store.exporting import export
from conceptlab.store.unit_statistics import parse_unit, unit_columns
from tests.reliability.small import WISH, harvest

BOTH = replace(WISH, sites=("resid_post", "embed", "z"), statistics=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("both")
    harvest(folder, BOTH)
    return Store.open(folder)


@pytest.mark.parametrize(("name", "layer"), [("resid_post", 1), ("z", 0), ("embed", None)])
def test_exemplars_are_the_texts_of_the_largest_values(store: Store, name: str, layer: int | None) -> None:
    stored = store.part(name, layer)[:].reshape(len(store), -1).numpy()
    for unit in (0, 15):
        found = store.exemplars(name, layer, unit)
        order = np.lexsort((np.arange(len(store)), -stored[:, unit]))[:16]
        assert [exemplar.number for exemplar in found] == order.tolist()
        assert [exemplar.value for exemplar in found] == stored[order, unit].tolist()
        for exemplar in found:
            view = store.document(exemplar.doc)
            (at,) = np.flatnonzero(view.index == exemplar.number)
            start, end = int(view.start[at]), int(view.end[at])
            assert (exemplar.token, exemplar.position) == (view.token[at], view.position[at])
            assert view.text is not None and exemplar.text == view.text[start:end]
            assert view.text[:start].endswith(exemplar.before or "") and view.text[end:].startswith(
                exemplar.after or ""
            )
            assert len(exemplar.before or "") == min(start, 60)


def test_a_store_without_texts_still_says_which_token(tmp_path: Path) -> None:
    harvest(tmp_path, replace(BOTH, values=False, text=False))
    found = Store.open(tmp_path).exemplars("resid_post", 0, 3)
    assert len(found) == 16 and {(exemplar.before, exemplar.text, exemplar.after) for exemplar in found} == {
        (None, None, None)
    }


def test_one_row_a_unit(store: Store) -> None:
    stored = store.part("resid_post", 0)[:].numpy().astype(np.float64)
    columns = unit_columns(store.statistics("resid_post", 0))
    assert {len(values) for values in columns.values()} == {16} and columns["count"].tolist() == [len(store)] * 16
    np.testing.assert_allclose(columns["reach"], (stored.max(0) - stored.mean(0)) / stored.std(0), rtol=1e-6)
    exact = np.quantile(stored, 0.95, axis=0, method="inverted_cdf")
    assert (np.abs(columns["q95"] - exact) <= np.abs(exact) / 16 + 2.0**-24).all()


def test_statistics_are_exported_also_where_no_values_are_kept(store: Store, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    harvest(tmp_path / "alone", replace(BOTH, values=False))
    alone = Store.open(tmp_path / "alone")
    written = export(alone, tmp_path / "out", "statistics")
    assert sorted(path.name for path in written) == sorted(
        ["embed.parquet", *(f"{site}-{layer}.parquet" for site in ("resid_post", "z") for layer in (0, 1))]
    )
    table, columns = pq.read_table(tmp_path / "out" / "z-1.parquet"), unit_columns(store.statistics("z", 1))
    assert table.column_names == list(columns)
    for name, values in columns.items():
        assert np.array_equal(np.array(table[name].to_pylist(), dtype=values.dtype), values), name
    with pytest.raises(InputError, match="--layout statistics"):
        export(alone, tmp_path / "values", "npy")
    harvest(tmp_path / "plain")
    with pytest.raises(InputError, match="keeps no statistics"):
        export(Store.open(tmp_path / "plain"), tmp_path / "none", "statistics")
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "out", "plain"}  # what was refused left nothing


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("resid_post", "written site/layer/unit"),
        ("resid_post/0/1/2", "written site/layer/unit"),
        ("resid_post/0/-1", "written site/layer/unit"),
        ("resid_post/9/1", "stored at layers"),
        ("resid_post/3", "stored at layers"),
        ("embed/0/3", "an end of the stream"),
        ("resid_post/0/16", "units 0 to 15; 16 was asked"),
        ("z/0/16", "counted through 2 x 8"),
        ("nothing/0/1", "nothing"),
    ],
)
def test_a_unit_that_does_not_exist_is_said(store: Store, said: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_unit(store, said)
