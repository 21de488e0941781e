"""Streaming statistics equal plain numpy over all values, however they come in batches and are merged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conceptlab.numerics import streaming
from conceptlab.numerics.log_bins import EDGES, MIDDLES, N_BINS, RELATIVE_ERROR, ZERO, bins, quantiles
from conceptlab.numerics.streaming import Statistics

KINDS = ("normal", "cauchy", "lognormal", "shifted", "relu", "few values", "constant")


def values(kind: str, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = {
        "normal": lambda: rng.standard_normal(shape),
        "cauchy": lambda: rng.standard_cauchy(shape),
        "lognormal": lambda: rng.lognormal(0, 4, shape) * rng.choice([-1, 1], shape),
        "shifted": lambda: 1000 + 0.1 * rng.standard_normal(shape),
        "relu": lambda: np.maximum(rng.standard_normal(shape) - 2, 0),
        "few values": lambda: rng.integers(-2, 3, shape),
        "constant": lambda: np.full(shape, -3.25),
    }[kind]()
    return x.astype(np.float32)


def collected(x: np.ndarray, batch: int, *, k: int = 16, first: int = 0) -> Statistics:
    found = Statistics(x.shape[1], k)
    for start in range(0, len(x), batch):
        found.update(x[start : start + batch], first + start)
    return found


def assert_plain(found: Statistics, x: np.ndarray, first: int = 0) -> None:
    """What numpy says about the finite values [token, unit] of one stream."""
    for unit in range(x.shape[1]):
        finite = np.isfinite(x[:, unit])
        column = x[finite, unit].astype(np.float64)
        assert found.count[unit] == len(column)
        assert found.nan[unit] == np.isnan(x[:, unit]).sum()
        assert found.inf[unit] == np.isinf(x[:, unit]).sum()
        if not len(column):
            assert np.isnan(found.variance[unit]) and found.min[unit] == np.inf and found.max[unit] == -np.inf
            continue
        scale = np.abs(column).mean() + 1e-300
        assert abs(found.mean[unit] - column.mean()) <= 1e-12 * scale
        assert abs(found.variance[unit] - column.var()) <= 1e-11 * column.var() + 1e-24 * scale**2
        assert (found.min[unit], found.max[unit]) == (column.min(), column.max())
        order = np.lexsort((np.flatnonzero(finite), -column))[: found.largest.k]
        held = found.largest.token[unit] >= 0
        assert np.array_equal(found.largest.value[unit][held], column[order])
        assert np.array_equal(found.largest.token[unit][held], np.flatnonzero(finite)[order] + first)
        exact = np.bincount(bins(x[finite, unit]), minlength=N_BINS)
        assert np.array_equal(found.histogram[unit], exact)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "batch"), [(1, 1), (5, 2), (700, 64), (5000, 5000), (5000, 333)])
def test_statistics_equal_those_of_numpy(kind: str, n: int, batch: int) -> None:
    x = values(kind, (n, 7))
    found = collected(x, batch)
    assert_plain(found, x)
    shares = [0, 0.01, 0.25, 0.5, 0.9, 0.999, 1]
    exact = np.quantile(x.astype(np.float64), shares, axis=0, method="inverted_cdf")
    error = np.abs(found.quantile(shares) - exact)
    inside = np.abs(exact) < 2.0**24
    assert (error <= np.maximum(RELATIVE_ERROR * np.abs(exact), 2.0**-24))[inside].all()
    assert found.quantile(0.5).shape == (7,)


def test_many_units_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = values("normal", (300, 29))
    whole = collected(x, 300)
    monkeypatch.setattr(streaming, "UNITS", 5)
    monkeypatch.setattr(streaming, "TOKENS", 64)
    cut = collected(x, 100)
    assert_plain(cut, x)
    assert np.array_equal(cut.histogram, whole.histogram) and np.array_equal(cut.largest.token, whole.largest.token)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_merge_to_the_whole(kind: str) -> None:
    x = values(kind, (4000, 5), seed=1)
    whole = collected(x, 4000, first=10)
    cuts = [0, 3, 3, 1000, 1001, 2500, 4000]
    parts = [collected(x[a:b], 400, first=10 + a) for a, b in zip(cuts, cuts[1:], strict=False)]
    merged = Statistics(5)
    for part in parts:
        merged.merge(part)
    assert_plain(merged, x, first=10)
    scale = np.abs(x).mean(0)
    assert (np.abs(merged.mean - whole.mean) <= 1e-12 * scale).all()
    assert (np.abs(merged.m2 - whole.m2) <= 1e-12 * whole.m2 + 1e-24 * len(x) * scale**2).all()
    backwards = Statistics(5)
    for part in reversed(parts):
        backwards.merge(part)
    for name in ("count", "min", "max", "histogram"):
        assert np.array_equal(getattr(backwards, name), getattr(whole, name))
    assert np.array_equal(backwards.largest.token, whole.largest.token)
    assert np.array_equal(backwards.largest.value, whole.largest.value)


def test_a_part_may_count_its_tokens_from_zero() -> None:
    x = values("few values", (500, 4))
    merged = collected(x[:200], 200)
    merged.merge(collected(x[200:], 100), first_token=200)
    assert_plain(merged, x)


def test_what_is_not_finite_is_counted_and_enters_nothing_else() -> None:
    x = values("normal", (900, 6), seed=2)
    rng = np.random.default_rng(3)
    for bad in (np.nan, np.inf, -np.inf):
        x[rng.integers(0, 900, 40), rng.integers(0, 4, 40)] = bad
    x[:, 4] = np.nan
    for batch in (900, 100, 7):
        found = collected(x, batch)
        assert_plain(found, x)
        assert np.isnan(found.quantile(0.5)[4]) and found.count[4] == 0 and found.count[5] == 900


def test_batches_that_come_out_of_order_keep_the_earlier_of_equal_values() -> None:
    x = values("few values", (600, 3))
    found = Statistics(3, 8)
    for start in (400, 0, 200):
        found.update(x[start : start + 200], start)
    assert_plain(found, x)


@settings(max_examples=150, deadline=None)
@given(
    x=hnp.arrays(np.float32, st.tuples(st.integers(0, 40), st.integers(1, 3)), elements=st.floats(width=32)),
    batch=st.integers(1, 40),
    k=st.integers(0, 5),
)
def test_any_float32_is_counted_once(x: np.ndarray, batch: int, k: int) -> None:
    found = collected(x, batch, k=k)
    finite = np.isfinite(x)
    assert np.array_equal(found.histogram.sum(1), finite.sum(0))
    assert np.array_equal(found.count + found.nan + found.inf, np.full(x.shape[1], len(x)))
    for unit in range(x.shape[1]):
        column = x[finite[:, unit], unit]
        order = np.lexsort((np.flatnonzero(finite[:, unit]), -column))[:k]
        assert found.largest.token[unit, : len(order)].tolist() == np.flatnonzero(finite[:, unit])[order].tolist()


@settings(max_examples=300, deadline=None)
@given(hnp.arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_a_value_lies_between_the_edges_of_its_bin(x: np.ndarray) -> None:
    at = bins(x)
    wide = x.astype(np.float64)
    tiny = np.abs(wide) < 2.0**-129
    assert (at[tiny] == ZERO).all()
    low, high = np.where(wide > 0, EDGES[at], -EDGES[at + 1]), np.where(wide > 0, EDGES[at + 1], -EDGES[at])
    assert ((low <= np.abs(wide)) & (np.abs(wide) < high))[~tiny].all()
    inside = ~tiny & (np.abs(wide) >= 2.0**-24) & (np.abs(wide) < 2.0**24)
    assert (np.abs(MIDDLES[at] - wide) <= RELATIVE_ERROR * np.abs(wide))[inside].all()


def test_bins_rise_with_the_value() -> None:
    assert len(EDGES) == N_BINS + 1 and (np.diff(EDGES) >= 0).all() and (np.diff(MIDDLES) >= 0).all()
    rising = np.concatenate([-np.geomspace(2**30, 2**-30, 5000), [0], np.geomspace(2**-30, 2**30, 5000)]).astype(
        np.float32
    )
    assert (np.diff(bins(rising)) >= 0).all() and bins(rising)[0] == 0 and bins(rising)[-1] == N_BINS - 1
    assert set(bins(rising)) == set(range(N_BINS))
    assert np.isnan(quantiles(np.zeros((2, N_BINS), int), np.array([0.5]))).all()


def test_arrays_hold_everything() -> None:
    x = values("lognormal", (500, 9))
    x[3, 2] = np.nan
    found = collected(x, 100, k=4)
    arrays = found.arrays()
    again = Statistics.from_arrays(arrays)
    assert_plain(again, x)
    assert all(np.array_equal(array, again.arrays()[name]) for name, array in arrays.items())
    empty = Statistics.from_arrays(Statistics(3).arrays())
    assert empty.count.tolist() == [0, 0, 0] and empty.histogram.sum() == 0
    for name, wrong in {
        "mean": np.zeros(4),
        "bin": np.zeros(1, np.uint16),
        "largest_token": np.zeros((9, 3), np.int64),
    }.items():
        with pytest.raises(ValueError, match="has the shape"):
            Statistics.from_arrays({**arrays, name: wrong})
    with pytest.raises(ValueError, match="does not exist"):
        Statistics.from_arrays({**arrays, "bin": np.full_like(arrays["bin"], N_BINS)})


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="do not merge"):
        Statistics(3).merge(Statistics(4))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Statistics(3).quantile(1.5)
