"""Edits of attention from chosen queries to chosen keys, for a group of units that start at one position."""

from dataclasses import dataclass

import torch
from torch import Tensor

from conceptlab.errors import SiteError
from conceptlab.model.attention import AttentionCall, form_pattern, mix_values
from conceptlab.model.attention_edits import changed_mask, heads_of
from conceptlab.model.sweep.work import positions_of
from conceptlab.model.sweep.writes import cells_of
from conceptlab.results import Edit
from conceptlab.results.edit import AT_SCORES


@dataclass(frozen=True, eq=False)
class PatternEdits:
    """The pattern edits of one layer by item; `rows` are those rows of a batch with `lengths` that run together."""

    by_item: dict[int, list[Edit]]
    rows: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def n_pos(self) -> int:
        """Tokens of each of `rows`."""
        return self.lengths[self.rows[0]]

    def mixed(self, call: AttentionCall, first: int, items: list[int], row_of: list[int]) -> Tensor:
        """z [unit, query, head, d_head] of a call whose queries begin at `first`, unit u being item `items[u]` on `row_of[u]`."""
        for unit, (item, row) in enumerate(zip(items, row_of, strict=True)):
            for edit in (e for e in self.by_item.get(item, ()) if e.op in AT_SCORES):
                call.mask = changed_mask(edit, call, self._touched(edit, call, first, unit, row))
        pattern = form_pattern(call)
        for unit, (item, row) in enumerate(zip(items, row_of, strict=True)):
            for edit in (e for e in self.by_item.get(item, ()) if e.op not in AT_SCORES):
                pattern = self._changed(edit, pattern, self._touched(edit, call, first, unit, row), first, row)
        return mix_values(pattern, call.v)

    def _touched(self, edit: Edit, call: AttentionCall, first: int, unit: int, row: int) -> Tensor:
        """Which scores [unit, head, query, key] an edit of one unit touches."""
        touched = torch.zeros((*call.q.shape[:3], call.k.shape[2]), dtype=torch.bool)
        source = self.rows[row]
        queries = [p - first for p in positions_of(edit, source, self.n_pos) if p >= first]
        keys = list(positions_of(edit, source, self.n_pos, edit.keys))
        heads = heads_of(edit, call.q.shape[1]).flatten().nonzero().flatten()
        at, seen = (torch.tensor(listed, dtype=torch.long) for listed in (queries, keys))  # which may be empty
        index = at[:, None, None], heads[None, :, None], seen[None, None, :]
        touched[unit, index[1], index[0], index[2]] = True
        return touched.to(call.q.device)

    def _changed(self, edit: Edit, pattern: Tensor, touched: Tensor, first: int, row: int) -> Tensor:
        if edit.op == "zero":
            return pattern.masked_fill(touched, 0.0)
        if edit.op == "scale":
            return torch.where(touched, pattern * edit.strength, pattern)
        if edit.op != "set" or edit.value is None:
            raise SiteError(f"{edit}: attention patterns take set, zero, scale, mask or scale_scores")
        return torch.where(touched, self._value(edit, pattern, first, row), pattern)

    def _value(self, edit: Edit, pattern: Tensor, first: int, row: int) -> Tensor:
        """A pattern to set, spread over [unit, head, query, key]: one for all, one a row of the batch, or one an edited query."""
        value, source = edit.value.to(pattern), self.rows[row]  # type: ignore[union-attr]
        asked = torch.tensor(positions_of(edit, source, self.n_pos)) - first
        heads = list(edit.site.units) or list(range(pattern.shape[1]))
        if value.dim() >= 3 and value.shape[0] == len(self.lengths):
            value = value[source]
        elif value.dim() >= 3 and value.shape[0] > 1:
            begin = cells_of(edit, self.lengths)
            value = value[begin[source] : begin[source + 1]]
        value = value[..., : pattern.shape[3]].expand(len(asked), len(heads), -1)[asked >= 0]
        whole = pattern.new_zeros(pattern.shape[1], pattern.shape[2], pattern.shape[3])
        whole[torch.tensor(heads)[:, None], asked[asked >= 0], : value.shape[-1]] = value.transpose(0, 1)
        return whole
