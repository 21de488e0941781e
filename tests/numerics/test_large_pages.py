"""Lent memory is lent again when nobody looks at it, and never before."""

import gc

import torch

from conceptlab.numerics.large_pages import PAGE, Spaces, roomy

N = 4 * PAGE // 4  # the smallest that is worth large pages, in float32


def test_what_a_view_still_shows_is_not_lent_again() -> None:
    spaces = Spaces(3)
    first = spaces.take(N)
    where, row = first.data_ptr(), first[5:7]
    row[:] = 3.0
    del first
    second = spaces.take(N)
    assert second.data_ptr() != where
    second.zero_()
    assert row.tolist() == [3.0, 3.0]
    del row
    assert spaces.take(N).data_ptr() == where


def test_numpy_and_storage_hold_it_too() -> None:
    spaces = Spaces(3)
    lent = spaces.take(N)
    where, array = lent.data_ptr(), lent.numpy()[1:]
    del lent
    assert spaces.take(N).data_ptr() != where
    held = torch.from_numpy(array).untyped_storage()
    del array
    assert spaces.take(N).data_ptr() != where
    del held
    gc.collect()
    assert spaces.take(N).data_ptr() == where


def test_smaller_pieces_fit_and_larger_ones_do_not() -> None:
    spaces = Spaces(2)
    where = spaces.take(2, N).data_ptr()
    assert spaces.take(N, dtype=torch.bfloat16).data_ptr() != where  # not worth it
    assert spaces.take(N).data_ptr() == where
    assert spaces.take(3, N).shape == (3, N)
    lent = spaces.take(2, N, dtype=torch.bfloat16)
    assert lent.dtype == torch.bfloat16
    assert lent.shape == (2, N)


def test_no_more_than_so_many_wait() -> None:
    spaces = Spaces(2)
    lent = [spaces.take(N) for _ in range(5)]
    del lent
    assert len(spaces._lent) == 2


def test_room_of_any_type_can_be_filled() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        for shape in ((3, 5), (3, N)):
            made = roomy(*shape, dtype=dtype)
            made.fill_(7)
            assert made.shape == shape
            assert (made == 7).all()
