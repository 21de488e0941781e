"""The precision of the highest cells: against counting by hand, with ties, and at chance."""

import numpy as np
import pytest

from conceptlab.numerics.top_cells import chance_corrected, shuffled_precision, top_cell_precision


@pytest.fixture
def some():
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 40)), rng.random((9, 40)) < rng.uniform(0.1, 0.8, (9, 1))


def test_it_is_the_share_of_the_highest_cells(some):
    maps, masks = np.round(some[0], 2), some[1]  # far apart in the resolution of ties
    found = top_cell_precision(maps * 1e3, masks)
    for m, one in enumerate(maps):
        for s, mask in enumerate(masks):
            size = int(mask.sum())
            border = np.sort(one)[-size]
            if (one == border).sum() == 1:
                assert found[m, s] == pytest.approx(mask[np.argsort(-one)[:size]].mean(), abs=1e-6)


def test_ties_count_by_the_mean_over_ways_to_break_them():
    fires = np.array([[1.0, 1, 0, 0, 0, 0]])
    masks = np.array([[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]], dtype=bool)
    assert top_cell_precision(fires, masks)[0] == pytest.approx([(2 + 2 * 2 / 4) / 4, 0.5, 0.0])
    nothing = np.zeros((1, 6))
    assert top_cell_precision(nothing, masks)[0] == pytest.approx(masks.mean(1))
    assert chance_corrected(top_cell_precision(nothing, masks), masks)[0] == pytest.approx([0, 0, 0], abs=1e-6)


def test_shuffled_maps_and_shuffled_sets_are_the_same_null(some):
    maps, masks = some
    orders = np.random.default_rng(1).permuted(np.tile(np.arange(40), (20, 1)), axis=1)
    found = shuffled_precision(maps, masks, orders)
    for draw, order in enumerate(orders):
        moved = np.empty_like(maps)
        moved[:, order] = maps  # the cell that the set calls i is now the map's order[i]
        same = chance_corrected(top_cell_precision(maps[:, np.argsort(order)], masks), masks).max(1)
        assert np.allclose(found[draw], same, atol=1e-6)
    assert abs(chance_corrected(top_cell_precision(maps, masks), masks).mean()) < 0.1


def test_a_set_of_all_cells_says_nothing():
    assert chance_corrected(np.ones((1, 1)), np.ones((1, 4), dtype=bool))[0, 0] == -np.inf
