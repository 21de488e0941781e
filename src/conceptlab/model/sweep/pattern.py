"""Edits of attention from chosen queries to chosen keys, for a group of units that start at one position."""

from dataclasses import dataclass

import torch
from torch import Tensor

from conceptlab.errors import SiteError
from conceptlab.model.attention import AttentionCall, form_pattern, mix_values
from conceptlab.model.attention_edits import changed_mask, heads_of
from conceptlab.model.sweep.work import positions_of
from conceptlab.results import Edit
from conceptlab.results.edit import AT_SCORES


@dataclass(frozen=True, eq=False)
class PatternEdits:
    """The pattern edits of one layer by item; `rows` are the batch's rows of `n_pos` tokens."""

    by_item: dict[int, list[Edit]]
    rows: tuple[int, ...]
    n_rows: int
    n_pos: int

    def mixed(self, call: AttentionCall, first: int, items: list[int], row_of: list[int]) -> Tensor:
        """z [unit, query, head, d_head] of a call whose queries begin at `first`, unit u being item `items[u]` on `row_of[u]`."""
        for unit, (item, row) in enumerate(zip(items, row_of, strict=True)):
            for edit in (e for e in self.by_item.get(item, ()) if e.op in AT_SCORES):
                call.mask = changed_mask(edit, call, self._touched(edit, call, first, unit, row))
        pattern = form_pattern(call)
        for unit, (item, row) in enumerate(zip(items, row_of, strict=True)):
            for edit in (e for e in self.by_item.get(item, ()) if e.op not in AT_SCORES):
                pattern = self._changed(edit, pattern, self._touched(edit, call, first, unit, row), row)
        return mix_values(pattern, call.v)

    def _touched(self, edit: Edit, call: AttentionCall, first: int, unit: int, row: int) -> Tensor:
        """Which scores [unit, head, query, key] an edit of one unit touches."""
        touched = torch.zeros((*call.q.shape[:3], call.k.shape[2]), dtype=torch.bool)
        source = self.rows[row]
        queries = [p - first for p in positions_of(edit, source, self.n_pos) if p >= first]
        keys = list(positions_of(edit, source, self.n_pos, edit.keys))
        heads = heads_of(edit, call.q.shape[1]).flatten().nonzero().flatten()
        index = torch.tensor(queries)[:, None, None], heads[None, :, None], torch.tensor(keys)[None, None, :]
        touched[unit, index[1], index[0], index[2]] = True
        return touched.to(call.q.device)

    def _changed(self, edit: Edit, pattern: Tensor, touched: Tensor, row: int) -> Tensor:
        if edit.op == "zero":
            return pattern.masked_fill(touched, 0.0)
        if edit.op == "scale":
            return torch.where(touched, pattern * edit.strength, pattern)
        if edit.op != "set" or edit.value is None:
            raise SiteError(f"{edit}: attention patterns take set, zero, scale, mask or scale_scores")
        return torch.where(touched, self._value(edit, pattern, row), pattern)

    def _value(self, edit: Edit, pattern: Tensor, row: int) -> Tensor:
        """A pattern to set, spread over [unit, head, query, key]: given as [key], [head, key] or [row, head, key]."""
        value = edit.value.to(pattern)  # type: ignore[union-attr]
        n_units = len(edit.site.units) or pattern.shape[1]
        if value.dim() >= 3 and value.shape[0] == self.n_rows:
            value = value[self.rows[row]]
        whole = pattern.new_zeros(pattern.shape[1], pattern.shape[3])
        heads = list(edit.site.units) or slice(None)
        given = value.expand(n_units, value.shape[-1])
        whole[heads, : given.shape[-1]] = given[:, : whole.shape[-1]]
        return whole[None, :, None, :]
