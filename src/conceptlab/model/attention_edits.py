"""Edits of attention from chosen queries to chosen keys: before softmax (as an additive mask) or after it (on the pattern)."""

from collections.abc import Callable

import torch
from torch import Tensor

from conceptlab.errors import SiteError
from conceptlab.model.attention import AttentionCall, explicit_mask
from conceptlab.model.layout import Layout
from conceptlab.results import Edit


def key_columns(edit: Edit, layout: Layout, rows: Tensor, n_keys: int) -> Tensor:
    """Which keys an edit touches, [cell, key] for cells in `rows` [cell]; keys are real-token positions, cached ones included."""
    if isinstance(edit.keys, str) and edit.keys == "all":
        return torch.ones(len(rows), n_keys, dtype=torch.bool)
    key_row, key_col = layout.cells(edit.keys, n_cols=n_keys, offset=0)
    table = torch.zeros(layout.n_rows, n_keys, dtype=torch.bool)
    table[key_row, key_col] = True
    return table[rows]


def on_pattern(edit: Edit, layout: Layout, view: Tensor) -> Tensor | None:
    """Zero or scale `view` [row, query, head, key] at the edit's queries, heads and keys; what is left is not renormalised."""
    rows, cols = layout.cells(edit.positions)
    if rows.numel() == 0:
        return None
    touched = key_columns(edit, layout, rows, view.shape[-1]).to(view.device)[:, None]
    rows, cols = rows.to(view.device), cols.to(view.device)
    cells = view[rows, cols]
    factor = 0.0 if edit.op == "zero" else edit.strength
    changed = torch.where(touched & heads_of(edit, cells.shape[1]).to(view.device), cells * factor, cells)
    return view.index_put((rows, cols), changed)


def heads_of(edit: Edit, n_heads: int) -> Tensor:
    """Which heads an edit touches, [head, 1]."""
    chosen = torch.zeros(n_heads, 1, dtype=torch.bool)
    chosen[list(edit.site.units) or slice(None)] = True
    return chosen


def scores_visit(edit: Edit, layout_of: Callable[[], Layout | None]) -> Callable[[AttentionCall], Tensor]:
    """The additive mask [row, head, query, key] of a running attention call under `mask` or `scale_scores`."""

    def visit(call: AttentionCall) -> Tensor:
        layout = layout_of()
        if layout is None:
            raise SiteError(f"{edit}: the edit ran outside a forward")
        rows, cols = layout.cells(edit.positions)
        shape = (call.q.shape[0], call.q.shape[1], call.q.shape[2], call.k.shape[2])
        touched = torch.zeros(shape, dtype=torch.bool)
        touched[rows, :, cols] = key_columns(edit, layout, rows, shape[3])[:, None] & heads_of(edit, shape[1])
        return changed_mask(edit, call, touched.to(call.q.device))

    return visit


def changed_mask(edit: Edit, call: AttentionCall, touched: Tensor) -> Tensor:
    """The call's additive mask with the edit at the `touched` [row, head, query, key] scores.

    Raises SiteError when a query would lose every key, or scores are capped before softmax.
    """
    mask = explicit_mask(call)
    mask = torch.zeros((), dtype=call.q.dtype, device=call.q.device) if mask is None else mask
    mask = mask.expand(touched.shape)
    if edit.op == "mask":
        low = torch.finfo(call.q.dtype).min
        hidden = mask.masked_fill(touched, low)
        if bool(((hidden <= low / 2).all(-1) & touched.any(-1)).any()):
            raise SiteError(
                f"{edit}: a query would be left without any key; keep at least one, for example the query itself"
            )
        return hidden
    return mask + (edit.strength - 1) * torch.where(touched, scores(call), 0.0)


def scores(call: AttentionCall) -> Tensor:
    """Scaled products of queries and keys [row, head, query, key], without mask. Raises SiteError where they are capped."""
    if call.kwargs.get("softcap"):
        raise SiteError(f"{type(call.module).__name__} caps its scores before softmax, so scaling them is not additive")
    groups = call.q.shape[1] // call.k.shape[1]
    keys = call.k.repeat_interleave(groups, dim=1) if groups > 1 else call.k
    scaling = call.kwargs.get("scaling")
    return call.q @ keys.transpose(2, 3) * (call.q.shape[-1] ** -0.5 if scaling is None else scaling)
