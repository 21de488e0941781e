"""Run only the blocks above a change: blocks below become stubs, and the first live block receives the stored stream.

Exact for any architecture whose upper blocks read nothing from the lower ones but the stream; `can_resume` tests that on the
model itself (it compares a resumed forward with a full one) before anybody relies on it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.model.instrument import replaced
from conceptlab.model.model import Model


@contextmanager
def stubbed(model: Model, first_live: int) -> Iterator[None]:
    """Blocks below `first_live` pass the stream through untouched while this context is open."""
    stubs: list[nn.Module] = []
    try:
        for block in model.stack.blocks[:first_live]:
            inner, out = block.taps["resid_pre"].key, block.taps["resid_post"].key
            block.module.forward = _stub(inner, out)  # type: ignore[method-assign]
            stubs.append(block.module)
        yield
    finally:
        for module in stubs:
            del module.forward


def _stub(inner: int | str | None, out: int | str | None) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        stream = args[inner] if isinstance(inner, int) and inner < len(args) else kwargs[inner]
        return stream if out is None else (stream,) if out == 0 else replaced((None, None), out, stream)

    return forward


def run_from(model: Model, inputs: dict[str, Tensor], layer: int, stream: Tensor, visits: list[Any]) -> None:
    """Forward `inputs` [row, col] with `stream` [row, col, d_model] as the input of block `layer`; `visits` read what follows."""
    tap = model.tap("resid_pre", layer)

    def inject(_view: Tensor) -> Tensor:
        return stream

    with stubbed(model, layer), model.instrument.visiting([(tap, layer, True, inject), *visits]), torch.no_grad():
        model._forward(dict(inputs))


def can_resume(model: Model, inputs: dict[str, Tensor], layer: int, tol: float = 1e-5) -> bool:
    """Whether a resumed forward gives the full forward's last stream on `inputs` (relative error at most `tol`)."""
    last = model.n_layers - 1
    full, start, again = [], [], []
    end = model.tap("resid_post", last)
    with (
        model.instrument.visiting(
            [(model.tap("resid_pre", layer), layer, False, _keep(start)), (end, last, False, _keep(full))]
        ),
        torch.no_grad(),
    ):
        model._forward(dict(inputs))
    try:
        run_from(model, inputs, layer, start[0], [(end, last, False, _keep(again))])
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError):
        return False  # an upper block wanted more than the stream from the blocks below
    return bool((full[0] - again[0]).norm() <= tol * full[0].norm())


def _keep(into: list[Tensor]) -> Any:
    def visit(view: Tensor) -> None:
        into.append(view.detach().clone())

    return visit
