"""Rows of logits read in blocks give what sorting and log_softmax give."""

import pytest
import torch

from conceptlab.numerics.row_readout import largest, read_chosen, read_rows
from conceptlab.numerics.token_ranks import ranks


@pytest.mark.parametrize("n", [7, 513, 5000, 50257])
def test_it_equals_the_plain_way(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(9, n, generator=generator) * 3
    ids = torch.randint(0, n, (9, 3), generator=generator)
    found = read_rows(x, ids, 5, block_bytes=4 * n * 4)
    plain = x.log_softmax(1)
    top = plain.topk(5, 1)
    assert torch.equal(found.top_ids, top.indices)
    torch.testing.assert_close(found.top, top.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.entropy, -(plain.exp() * plain).sum(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.log_prob, plain.gather(1, ids), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.log_sum, x.logsumexp(1), rtol=1e-5, atol=1e-5)
    assert torch.equal(found.rank, ranks(x, ids))
    log_prob, rank = read_chosen(x, ids, found.log_sum)
    assert torch.equal(rank, found.rank)
    torch.testing.assert_close(log_prob, found.log_prob)


def test_ties_share_their_middle_rank_and_block_size_changes_nothing() -> None:
    x = torch.randint(0, 4, (11, 6000), generator=torch.Generator().manual_seed(1)).float()
    ids = torch.arange(22).reshape(11, 2)
    small, large = read_rows(x, ids, 3, block_bytes=1), read_rows(x, ids, 3, block_bytes=1 << 30)
    assert torch.equal(small.rank, ranks(x, ids))
    assert torch.equal(small.rank, large.rank)
    assert torch.equal(small.top, large.top)


def test_tokens_that_never_come_and_the_largest_at_the_very_end() -> None:
    x = torch.full((2, 5003), -torch.inf)
    x[:, :4] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    x[1, -1] = 9.0
    found = read_rows(x, torch.tensor([[3], [5002]]), 4)
    assert found.top_ids.tolist() == [[3, 2, 1, 0], [5002, 3, 2, 1]]
    p = x.softmax(1)
    torch.testing.assert_close(found.entropy, torch.special.entr(p).sum(1))
    assert found.rank.flatten().tolist() == [1.0, 1.0]


def test_largest_of_wide_rows() -> None:
    x = torch.randn(6, 20011, generator=torch.Generator().manual_seed(2))
    values, at = largest(x, 8)
    assert torch.equal(values, x.topk(8, 1).values)
    assert torch.equal(x.gather(1, at), values)
