"""Neurons through the unembedding beside the plain product of the same matrices, whose result is thrown away.

Minimal arithmetic: neurons x vocabulary x d_model multiply-adds (GPT-2-small's shape: 36,864 x 50,257 x 768 = 1.42e12, 9.4 forwards
of 8 x 128 tokens) and one comparison of every entry with what is largest and with what is smallest. The plain product works in the
same blocks of 512 neurons into one buffer: to keep the whole of it would take 7.4 GB.
"""

from collections.abc import Callable
from functools import partial

import torch

from conceptlab.measure.attribution.integrated_gradients import row_attributions
from conceptlab.model import Batch, load_model
from conceptlab.model.gradients import gradients
from conceptlab.model.metric import log_prob
from conceptlab.numerics.top_of_product import MOST_ROWS, top_of_product

from .models import SIZES, make_subject
from .pairs import ratio
from .table import Row, timed

SHAPE = (36_864, 50_257, 768)
TARGET, K = 1.2, 10


def neuron_rows(*, tiny: bool = False, limit: float = 240.0) -> list[Row]:
    """The ten largest and smallest entries of every row of the product, in three budgets."""
    n, d_vocab, d_model = (256, 2_000, 32) if tiny else SHAPE
    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.randn(size, d_model, generator=generator) for size in (n, d_vocab))
    group = f"Neurons through the unembedding: {n:,} x {d_vocab:,} x {d_model}, the plain product in blocks = 1"
    plain = plain_product(rows, columns)
    found = []
    for mib in (256, 64, 16):
        call = partial(top_of_product, rows, columns, K, budget_bytes=mib << 20)
        timing = ratio(call, plain, n=2 if tiny else 3, limit=limit)
        found.append(timed(group, f"top {K} of both signs, {mib} MiB", timing, target=TARGET if mib == 256 else None))
    return found


def plain_product(rows: torch.Tensor, columns: torch.Tensor) -> Callable[[], None]:
    """The product alone."""
    held = torch.empty(len(columns), min(MOST_ROWS, len(rows)))

    def run() -> None:
        for at in range(0, len(rows), MOST_ROWS):
            block = rows[at : at + MOST_ROWS].T
            torch.mm(columns, block, out=held[:, : block.shape[1]])

    return run


def gradient_rows(*, tiny: bool = False, n_pos: int = 32, limit: float = 60.0) -> list[Row]:
    """Integrated gradients of all neurons of one prompt, in forwards and backwards of that prompt.

    Minimal arithmetic: 22 scaled copies of the last token of each of L layers, each through half of the layers on average, is
    11 L / n_pos forwards and backwards; and the unembedding of 22 L last tokens.
    """
    size = {"tiny": True, "n_layers": 2} if tiny else {}
    found = []
    for kind in SIZES:
        subject = make_subject(kind, 1, n_pos, **size)
        model, batch = load_model(subject.module), Batch(tuple(map(tuple, subject.ids.tolist())))
        metric = log_prob([3])
        there = [("mlp_post", layer) for layer in range(model.n_layers)]
        group = f"Integrated gradients of all neurons, {n_pos} tokens, one forward and backward of the prompt = 1"
        _ = model.sweep_strategy  # asked of a model once
        timing = ratio(
            lambda m=model, b=batch, t=metric: row_attributions(m, b, t),
            lambda m=model, b=batch, t=metric, p=there: gradients(m, b, t, p),
            n=2 if tiny else 7,
            limit=limit,
        )
        floor = f"{11 * model.n_layers / n_pos:.1f} without the unembedding"
        found.append(timed(group, f"{kind}, 20 steps, {model.n_layers} layers", timing, target=20.0, note=floor))
    return found
