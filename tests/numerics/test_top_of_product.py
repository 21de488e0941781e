"""The streamed extremes of a product are those of the whole product, whatever the budget, and the budget holds."""

import pytest
import torch

from conceptlab.numerics.large_pages import PAGE
from conceptlab.numerics.top_of_product import GROUP, block_shape, top_of_product


@pytest.mark.parametrize(("n", "m", "k"), [(5, 3, 10), (70, 101, 10), (33, 4099, 7), (600, 2 * GROUP, 1), (1, 65, 65)])
@pytest.mark.parametrize("budget", [1, 1 << 16, 1 << 28])
def test_it_is_the_plain_product_sorted(n, m, k, budget):
    generator = torch.Generator().manual_seed(n + m)
    rows, columns = (torch.randn(size, 16, generator=generator, dtype=torch.float64) for size in (n, m))
    plain = (rows @ columns.T).float()
    found = top_of_product(rows.float(), columns.float(), k, budget_bytes=budget)
    for values, ids, largest in ((found.top, found.top_ids, True), (found.low, found.low_ids, False)):
        wanted = plain.topk(min(k, m), 1, largest=largest)
        assert torch.allclose(values, wanted.values, atol=1e-4) and bool((ids == wanted.indices).all())


def test_no_rows_give_no_extremes_and_half_precision_is_read_in_single():
    columns = torch.randn(50, 8).bfloat16()
    assert top_of_product(torch.zeros(0, 8), columns, 3).top.shape == (0, 3)
    rows = torch.randn(4, 8).bfloat16()
    assert torch.allclose(
        top_of_product(rows, columns, 1).top[:, 0], (rows.float() @ columns.float().T).amax(1), atol=1e-5
    )


@pytest.mark.parametrize("budget", [1 << 20, 1 << 24, 1 << 28, 1 << 30])
def test_a_block_fits_into_its_budget(budget):
    height, width = block_shape(36_864, 50_257, 10, budget)
    held = 4 * height * width * (1 + 4 / GROUP) + 40 * 10 * GROUP * height
    assert held <= budget and (width == 50_257) == (budget >= 1 << 24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_in_large_pages_and_several_tiles_is_the_same(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    rows, columns = (torch.randn(n, 16, generator=generator).to(dtype) for n in (70, 40_001))
    found = top_of_product(rows, columns, 5)
    whole = rows.float() @ columns.float().T
    assert 4 * whole.numel() > 4 * PAGE
    for values, ids, largest in ((found.top, found.top_ids, True), (found.low, found.low_ids, False)):
        assert torch.allclose(values, whole.topk(5, largest=largest).values, rtol=1e-5, atol=1e-5)
        assert torch.allclose(whole.gather(1, ids), values, rtol=1e-5, atol=1e-5)
