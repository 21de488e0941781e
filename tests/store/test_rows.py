"""Rows of tokens: nothing is lost, and a row says where the next one begins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conceptlab.store.rows import Row, Tokens, batches, kept_positions, rows_of

LENGTHS = st.lists(st.integers(0, 23), max_size=12)


def documents(lengths: list[int], start: int = 0) -> list[Tokens]:
    """Documents whose ids say where they come from."""
    found = []
    for doc, n in enumerate(lengths):
        ids = doc * 100 + np.arange(n)
        found.append(Tokens(doc, ids, np.stack([ids, ids + 1], 1)))
    return found[start:]


def cut(lengths: list[int], layout: str, context: int, doc: int = 0, token: int = 0) -> list[Row]:
    return list(rows_of(iter(documents(lengths, doc)), layout, context, token))  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["packed", "documents"])
@given(lengths=LENGTHS, context=st.integers(1, 9))
def test_every_token_comes_once_and_in_order(layout: str, lengths: list[int], context: int) -> None:
    rows = cut(lengths, layout, context)
    ids = [int(i) for row in rows for i in row.ids]
    assert ids == [int(i) for document in documents(lengths) for i in document.ids]
    assert all(1 <= len(row) <= context for row in rows)
    assert all((row.doc == row.ids // 100).all() and (row.offsets[:, 0] == row.ids).all() for row in rows)
    if layout == "packed":
        assert all(len(row) == context for row in rows[:-1])
    else:
        assert all(len(set(row.doc.tolist())) == 1 for row in rows)


@pytest.mark.parametrize("layout", ["packed", "documents"])
@given(lengths=LENGTHS, context=st.integers(1, 9), data=st.data())
def test_the_rest_can_be_cut_from_any_row_on(
    layout: str, lengths: list[int], context: int, data: st.DataObject
) -> None:
    rows = cut(lengths, layout, context)
    if not rows:
        return
    at = data.draw(st.integers(0, len(rows) - 1))
    after = rows[at].next
    again = cut(lengths, layout, context, after.doc, after.token)
    assert [row.ids.tolist() for row in again] == [row.ids.tolist() for row in rows[at + 1 :]]


@given(lengths=st.lists(st.integers(1, 30), max_size=20).map(sorted), budget=st.integers(1, 60))
def test_batches_hold_every_row_within_the_budget(lengths: list[int], budget: int) -> None:
    found = batches(lengths, budget)
    assert [i for part in found for i in range(part.start, part.stop)] == list(range(len(lengths)))
    for part in found:
        own = lengths[part]
        assert len(own) == 1 or max(own) * len(own) <= budget


def test_kept_positions() -> None:
    assert kept_positions(4, "all").tolist() == [True] * 4
    assert kept_positions(4, "last").tolist() == [False, False, False, True]
    assert kept_positions(3, (0, -1, 7, -9)).tolist() == [True, False, True]
