"""Apply Edits (pure data) while a model runs: the one place where an Edit becomes arithmetic."""

from dataclasses import dataclass

import torch
from torch import Tensor

from conceptlab.errors import SiteError
from conceptlab.model.attention_edits import on_pattern
from conceptlab.model.instrument import Instrument, Visit
from conceptlab.results import Edit


@dataclass(frozen=True)
class Cells:
    """The (row, column) cells an edit touches; `row` counts in the whole batch of `n_rows`, not in the running chunk."""

    row: Tensor
    n_rows: int
    col: Tensor


def edit_visit(edit: Edit, instrument: Instrument, origin: str) -> Visit:
    """The visitor that applies `edit` at its positions and units and leaves every other value bitwise as it was."""
    on_keys = edit.site.name in ("k", "v")

    def visit(view: Tensor) -> Tensor | None:
        layout = instrument.layout
        if layout is None:
            raise SiteError(f"{origin}: the edit ran outside a forward")
        if edit.site.name == "pattern" and edit.keys != "all":
            return on_pattern(edit, layout, view)
        n_cols = view.shape[1]
        offset = layout.offset + layout.n_cols - n_cols if on_keys else None
        rows, cols = layout.cells(edit.positions, n_cols=n_cols, offset=offset)
        if rows.numel() == 0:
            return None
        rows, cols = rows.to(view.device), cols.to(view.device)
        cells = Cells(*instrument.batch_rows(rows), cols)
        new = _changed(edit, view[rows, cols], cells)
        return view.index_put((rows, cols), new.to(view.dtype))

    return visit


def _changed(edit: Edit, cells: Tensor, where: Cells) -> Tensor:
    """Apply the edit to `cells` [cell, (unit,) d] or, for neurons, to single coordinates of the last axis."""
    units = list(edit.site.units)
    if not units:
        return _arithmetic(edit, cells, where)
    axis = -1 if edit.site.kind in ("neuron", "expert") else 1
    index = torch.tensor(units, device=cells.device)
    part = cells.index_select(axis, index)
    return cells.index_copy(axis, index, _arithmetic(edit, part, where).to(cells.dtype))


def _arithmetic(edit: Edit, x: Tensor, where: Cells) -> Tensor:
    value = _value(edit, x, where)
    if edit.op == "zero":
        return torch.zeros_like(x)
    if edit.op == "scale":
        return x * edit.strength
    if value is None:
        raise SiteError(f"the edit {edit} has no value")
    if edit.op == "add":
        return x + edit.strength * value
    if edit.op == "project_out":
        basis = edit.value.to(x.device, x.dtype)  # type: ignore[union-attr]
        centred = x if edit.center is None else x - edit.center.to(x.device, x.dtype)
        return x - edit.strength * (centred @ basis.T) @ basis
    return value.expand_as(x)


def _value(edit: Edit, x: Tensor, where: Cells) -> Tensor | None:
    """Values with one entry a row [row, …] or a cell [cell, …] (rows, then positions) go to their cells; others broadcast."""
    if edit.value is None or edit.op == "project_out":
        return edit.value
    value = edit.value.to(x.device, x.dtype)
    if value.dim() < x.dim() or value.shape[0] == 1:
        return value
    if value.shape[0] == where.n_rows:
        return value[where.row]
    if value.shape[0] == x.shape[0]:
        rank = torch.argsort(torch.argsort(where.row * (int(where.col.max()) + 1) + where.col))
        return value[rank]
    raise SiteError(
        f"{edit}: the value has {value.shape[0]} entries; give one for each of the {where.n_rows} rows, "
        f"one for each of the {x.shape[0]} edited positions, or a single one"
    )
