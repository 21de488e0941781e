"""Read sites: only those asked for, only at the positions asked for, only real tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import SiteError
from conceptlab.model.held import Held, holdable
from conceptlab.model.instrument import Instrument, Visit
from conceptlab.model.layout import Layout, Positions

ENDS = ("embed", "final_norm", "logits")


def asked_layers(
    sites: str | Sequence[str] | Mapping[str, Sequence[int]],
    layers: Sequence[int] | None,
    layers_with: Callable[[str], tuple[int, ...]],
) -> dict[str, tuple[int, ...]]:
    """The layers of every asked site, none for an end of the stream; by default all that have the site."""
    if isinstance(sites, Mapping):
        return {name: () if name in ENDS else tuple(chosen) for name, chosen in sites.items()}
    names = [sites] if isinstance(sites, str) else sites
    return {name: () if name in ENDS else tuple(layers_with(name) if layers is None else layers) for name in names}


@dataclass(frozen=True, eq=False)
class Activations:
    """Values of real tokens: `acts["resid_post"]` is [token, layer, d_model], `z` [token, layer, head, d_head], `mlp_post`
    [token, layer, d_mlp], `pattern` [token, layer, head, key_pos] (0 beyond a row's end), ends of the stream [token, …].

    What one forward gave whole is put together when it is first asked for; treat it as read-only.
    `row` and `position` [token] say which text and which real token; `layers` names the layer axis of each site.
    """

    values: dict[str, Tensor | Held]
    row: np.ndarray
    position: np.ndarray
    layers: dict[str, tuple[int, ...]]

    def __getitem__(self, site: str) -> Tensor:
        if site not in self.values:
            raise SiteError(f"{site!r} was not captured; captured were {', '.join(self.values)}")
        found = self.values[site]
        if isinstance(found, Held):
            found = self.values[site] = found.stacked()
        return found

    def at(self, site: str, layer: int) -> Tensor:
        """One layer of one site, [token, …]."""
        if layer not in self.layers.get(site, ()):
            raise SiteError(
                f"L{layer}.{site} was not captured; captured layers of {site} are {self.layers.get(site, ())}"
            )
        return self[site][:, self.layers[site].index(layer)]

    def by_layer(self, site: str) -> list[Tensor]:
        """Every layer of one site, each [token, …] (an end of the stream: one): the model's own tensors where they were kept, so
        that nothing is copied."""
        found = self.values.get(site)
        if isinstance(found, Held):
            return found.flat()
        found = self[site]
        return list(found.unbind(1)) if site in self.layers else [found]


@dataclass(frozen=True)
class _Place:
    """The asked cells of one forward's views: their `rows` and `cols`, the tokens they become, and whether they are `whole`
    (every cell of the view, in order) and `alone` (every token of the batch, in order)."""

    rows: Tensor
    cols: Tensor
    target: Tensor
    whole: bool
    alone: bool


class Collector:
    """Fills preallocated [token, layer, …] tensors while chunks of rows run, so memory is held once; where one forward is the
    whole batch and every token is asked for, keeps the model's own tensors and copies nothing."""

    def __init__(
        self, counts: Sequence[int], instrument: Instrument, positions: Positions, max_keys: int, *, hold: bool = True
    ) -> None:
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.instrument, self.positions, self.max_keys, self.hold = instrument, positions, max_keys, hold
        self.values: dict[str, Tensor | Held] = {}
        self.rows: Sequence[int] = ()
        self._places: dict[tuple[int, int, int, torch.device], _Place] = {}

    def begin(self, rows: Sequence[int]) -> None:
        """The next forward runs these rows of the batch."""
        self.rows = rows
        self._places.clear()

    def spoilt(self) -> bool:
        """Whether the forward went on to write into a tensor that was kept; such sites are copied from now on, so run again."""
        found = {site for site, held in self.values.items() if isinstance(held, Held) and not held.unchanged}
        self.instrument.overwritten |= found
        for site in found:
            del self.values[site]
        return bool(found)

    def reader(self, site: str, axis: int | None, n_layers: int, keep_graph: bool) -> Visit:
        """A visitor that stores layer number `axis` (None: an end of the stream, without a layer axis)."""
        on_keys = site in ("k", "v")

        def visit(view: Tensor) -> None:
            layout = self._layout()
            place = self._place(layout, view, on_keys)
            picked = view if keep_graph else view.detach()
            aligned = site != "pattern" or self._keys_aligned(layout, view)
            if self.hold and place.alone and aligned and not keep_graph and self._keeps(site, picked):
                self._held(site, axis, n_layers).put(axis or 0, picked)
                return
            cells = picked.flatten(0, 1) if place.whole else picked[place.rows, place.cols]
            if not aligned:
                cells = self._align_keys(cells, place.rows, layout)
            self._store(site, axis, n_layers, cells, place.target, keep_graph)

        return visit

    def _keeps(self, site: str, view: Tensor) -> bool:
        return site not in self.instrument.overwritten and holdable(view)

    def _held(self, site: str, axis: int | None, n_layers: int) -> Held:
        found = self.values.get(site)
        if not isinstance(found, Held):
            found = self.values[site] = Held.empty(site, n_layers or 1, ends=axis is None)
        return found

    def _layout(self) -> Layout:
        if self.instrument.layout is None:
            raise SiteError("nothing is running: capture inside a forward")
        return self.instrument.layout

    def _place(self, layout: Layout, view: Tensor, on_keys: bool) -> _Place:
        """Worked out once a forward, since its views share rows and columns (keys may have columns of earlier forwards)."""
        n_cols = view.shape[1]
        offset = layout.offset + layout.n_cols - n_cols if on_keys else layout.offset
        key = (layout.n_rows, n_cols, offset, view.device)
        if key not in self._places:
            rows, cols = layout.cells(self._chunk_positions(), n_cols=n_cols, offset=offset)
            target = torch.cat([torch.arange(self.starts[r], self.starts[r + 1]) for r in self.rows])
            whole = torch.equal(rows * n_cols + cols, torch.arange(layout.n_rows * n_cols))
            alone = whole and torch.equal(target, torch.arange(int(self.starts[-1])))
            to = view.device
            self._places[key] = _Place(rows.to(to), cols.to(to), target.to(to), whole, alone)
        return self._places[key]

    def _chunk_positions(self) -> Positions:
        if (
            isinstance(self.positions, str)
            or not len(self.positions)
            or not isinstance(self.positions[0], (list, tuple))
        ):
            return self.positions
        return [self.positions[r] for r in self.rows]  # type: ignore[misc]

    def _keys_aligned(self, layout: Layout, view: Tensor) -> bool:
        """Whether key 0 of every row is its first real token and there are as many keys as the longest row of the batch has."""
        return view.shape[-1] == self.max_keys and bool(
            (layout.pad_left == 0).all() & (layout.length == self.max_keys).all()
        )

    def _align_keys(self, cells: Tensor, rows: Tensor, layout: Layout) -> Tensor:
        """Shift left-padded rows so that key 0 is the first real token, and fill up to the longest row of the batch."""
        keys = torch.arange(self.max_keys, device=cells.device)
        start, length = layout.pad_left.to(cells.device)[rows], layout.length.to(cells.device)[rows]
        index = (start[:, None] + keys).clamp_max(cells.shape[-1] - 1)
        beyond = keys >= length[:, None]
        return cells.gather(-1, index[:, None].expand(*cells.shape[:-1], -1)).masked_fill(beyond[:, None], 0.0)

    def _store(
        self, site: str, axis: int | None, n_layers: int, cells: Tensor, target: Tensor, keep_graph: bool
    ) -> None:
        total = int(self.starts[-1])
        if not isinstance(self.values.get(site), Tensor):
            shape = (total, *cells.shape[1:]) if axis is None else (total, n_layers, *cells.shape[1:])
            self.values[site] = cells.new_zeros(shape)
        found = self.values[site]
        if not isinstance(found, Tensor):
            return
        if axis is not None and found.shape[2:] != cells.shape[1:]:
            raise SiteError(f"layers of {site} differ in shape here; capture them one layer at a time (layers=[...])")
        if keep_graph:
            index = (target,) if axis is None else (target, torch.full_like(target, axis))
            self.values[site] = found.index_put(index, cells)
            return
        into = found if axis is None else found[:, axis]
        into.index_copy_(0, target, cells)
