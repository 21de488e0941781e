"""Edits turned into writes: for one site of one layer, which cells of which unit take which values, as flat tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import SiteError
from conceptlab.model.sweep.work import positions_of
from conceptlab.results import Edit

SET = ("set", "mean", "resample")


@dataclass(frozen=True, eq=False)
class Write:
    """One kind of write at one site. `item`, `row`, `pos` [cell]; `part` [cell] is the head or neuron (None: the whole cell);
    `value` [cell, …] (None for zero and scale), `edit` gives the op and its strength."""

    edit: Edit
    item: np.ndarray
    row: np.ndarray
    pos: np.ndarray
    part: np.ndarray | None
    value: Tensor | None

    def apply(self, view: Tensor, where: tuple[Tensor, ...], cells: Tensor) -> None:
        """Write into `view` in place, at the tokens `where` (one index [n] a leading axis), the cells numbered `cells` [n]."""
        if self.part is not None:
            where = (*where, torch.from_numpy(self.part)[cells].to(view.device))
        old = view[where]
        value = None if self.value is None else _picked(self.value, cells).to(view.device, view.dtype)
        view[where] = arithmetic(self.edit, old, value).to(view.dtype)


def _picked(value: Tensor, cells: Tensor) -> Tensor:
    return value if value.shape[0] == 1 else value[cells.to(value.device)]


def arithmetic(edit: Edit, old: Tensor, value: Tensor | None) -> Tensor:
    """What an edit makes of `old` [cell, …]."""
    if edit.op == "zero":
        return torch.zeros_like(old)
    if edit.op == "scale":
        return old * edit.strength
    if edit.op == "project_out":
        basis = edit.value.to(old.device, old.dtype)  # type: ignore[union-attr]
        centred = old if edit.center is None else old - edit.center.to(old.device, old.dtype)
        return old - edit.strength * (centred @ basis.T) @ basis
    if value is None:
        raise SiteError(f"the edit {edit} has no value")
    return old + edit.strength * value if edit.op == "add" else value.expand_as(old)


def compile_writes(
    items: list[tuple[Edit, ...]], rows: Sequence[int], lengths: Sequence[int]
) -> dict[tuple[str, int | None], list[Write]]:
    """Writes by (site name, layer) in the order of the edits, for rows `rows` of a batch of rows of `lengths` tokens."""
    groups: dict[tuple[Any, ...], list[tuple[int, Edit]]] = {}
    for number, item in enumerate(items):
        for order, edit in enumerate(item):
            form = None if edit.value is None else (edit.value.dim(), edit.value.shape[-1:])
            same = (
                edit.op,
                edit.strength,
                len(edit.site.units),
                form,
                id(edit.value) if edit.op == "project_out" else 0,
            )
            groups.setdefault((edit.site.name, edit.site.layer, order, same), []).append((number, edit))
    found: dict[tuple[str, int | None], list[Write]] = {}
    for (name, layer, *_), members in sorted(groups.items(), key=lambda g: g[0][2]):
        if name != "pattern":
            found.setdefault((name, layer), []).append(_write(members, rows, lengths))
    return found


def _write(members: list[tuple[int, Edit]], rows: Sequence[int], lengths: Sequence[int]) -> Write:
    item, row, pos, part, values = [], [], [], [], []
    for number, edit in members:
        at = [(r, p) for r, source in enumerate(rows) for p in positions_of(edit, source, lengths[source])]
        units = edit.site.units
        table = np.array(at, dtype=np.int64).reshape(-1, 2).repeat(max(1, len(units)), 0)
        item.append(np.full(len(table), number))
        row.append(table[:, 0])
        pos.append(table[:, 1])
        part.append(np.tile(np.array(units or (0,)), len(at)))
        if edit.op in (*SET, "add"):
            values.append(_values(edit, rows, lengths, len(at)))
    first = members[0][1]
    value = torch.cat(values) if values else None
    cut = np.concatenate(part) if first.site.units else None
    return Write(first, np.concatenate(item), np.concatenate(row), np.concatenate(pos), cut, value)


def cells_of(edit: Edit, lengths: Sequence[int]) -> np.ndarray:
    """Where each row's edited positions begin among those of the whole batch [row + 1]; the last entry counts them all."""
    counts = [len(positions_of(edit, row, n_pos)) for row, n_pos in enumerate(lengths)]
    return np.cumsum([0, *counts])


def _values(edit: Edit, rows: Sequence[int], lengths: Sequence[int], n_cells: int) -> Tensor:
    """The value of every cell, [row-position-unit, …], by Edit's rules: an entry a row, an entry a cell, or one for all."""
    value, n_units = edit.value.reshape(edit.value.shape or (1,)), len(edit.site.units)  # type: ignore[union-attr]
    neurons = edit.site.kind in ("neuron", "expert") and n_units > 0
    rank = 2 if not n_units or neurons else 3  # of what is written: [cell, d], [cell, unit] or [cell, unit, d]
    if edit.site.kind in ("head", "kv_head") and not n_units:
        rank = 3
    if value.dim() < rank or value.shape[0] == 1:
        one = value if value.dim() == rank else value[None]
        value = one.expand(n_cells, *one.shape[1:])
    elif value.shape[0] == len(lengths):
        each = n_cells // max(1, len(rows))
        value = value[list(rows)].repeat_interleave(each, 0)
    else:
        value = value[_own_cells(edit, value.shape[0], rows, lengths)]
    if not n_units:
        return value[:, None] if rank == 3 and value.dim() == 2 else value  # one vector, the same for every head
    if neurons:
        return value.expand(n_cells, n_units).reshape(-1)
    if value.dim() == 2:  # one vector a cell, the same for every head
        value = value[:, None]
    return value.expand(n_cells, n_units, value.shape[-1]).flatten(0, 1)


def _own_cells(edit: Edit, n_values: int, rows: Sequence[int], lengths: Sequence[int]) -> Tensor | slice:
    """Which of the values, one for each edited position of the whole batch, belong to `rows`."""
    begin = cells_of(edit, lengths)
    if n_values != begin[-1]:
        raise SiteError(
            f"{edit}: the value has {n_values} entries; give one for each of the {len(lengths)} rows, "
            f"one for each of the {begin[-1]} edited positions, or a single one"
        )
    if len(rows) == len(lengths):
        return slice(None)
    return torch.from_numpy(np.concatenate([np.arange(begin[row], begin[row + 1]) for row in rows]))
