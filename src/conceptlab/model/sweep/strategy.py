"""Which shortcuts are exact on this model: tried on the model itself, with changes that must be felt, once for each model.

`packed`  blocks below a change and positions before it are skipped
`whole`   blocks below a change are skipped, all positions of a row run (state-space layers, encoders, own attention)
`full`    nothing is skipped: every item is a plain forward under its edits
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from conceptlab.errors import ConceptlabError
from conceptlab.model.batch import Batch
from conceptlab.model.sweep.clean import keep_clean
from conceptlab.model.sweep.packed import Packed
from conceptlab.model.sweep.whole import Whole
from conceptlab.model.sweep.work import work_of
from conceptlab.model.sweep.writes import compile_writes
from conceptlab.results import Edit, Site

if TYPE_CHECKING:
    from conceptlab.model.model import Model

Kind = Literal["packed", "whole", "full"]
N_POS, AT = 9, 8
_REFUSALS = (
    RuntimeError,
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    LookupError,
)


@dataclass(frozen=True)
class Strategy:
    """`kind`, whether a change leaves the positions before it as they were, why a better kind was not taken, and whether a unit
    takes what is clean in the block it joins from the clean run (`late`)."""

    kind: Kind
    causal: bool
    note: str = ""
    late: bool = False


def tolerance(dtype: torch.dtype) -> float:
    """How far a shortcut may be from the full run, relative."""
    return 1e-5 if dtype in (torch.float32, torch.float64) else 3e-2


def find_strategy(model: "Model") -> Strategy:
    """The best kind that reproduces full runs under changes at every depth of this model."""
    if not model.reads_text:
        return Strategy("full", False, "it does not read text alone, so blocks are not called again")
    try:
        batch = _trial_batch(model)
        causal = _is_causal(model, batch)
    except (ConceptlabError, *_REFUSALS) as error:
        return Strategy("full", False, f"its blocks cannot be called again ({_said(error)})")
    if causal and _tried(model, batch, "packed", causal, late=True) is None:
        return Strategy("packed", causal, late=True)
    tries: tuple[Kind, ...] = ("packed", "whole") if causal else ("whole",)
    note = "" if causal else "its positions all depend on each other"
    for kind in tries:
        wrong = _tried(model, batch, kind, causal)
        if wrong is None:
            return Strategy(kind, causal, note)
        note = f"{note}; {kind}: {wrong}" if note else f"{kind}: {wrong}"
    return Strategy("full", causal, note)


def _trial_batch(model: "Model") -> Batch:
    size = model.module.get_input_embeddings().weight.shape[0]  # type: ignore[operator, union-attr]
    n_pos = min(N_POS, model.max_length)
    generator = torch.Generator().manual_seed(3)
    return Batch(tuple(map(tuple, torch.randint(min(5, size - 1), size, (2, n_pos), generator=generator).tolist())))


def _changes(model: "Model", n_pos: int) -> list[Edit]:
    """Large changes of the stream at several depths and positions, and of heads where there are any."""
    generator, edits = torch.Generator().manual_seed(4), []
    with torch.no_grad():
        scale = model.capture(_trial_batch(model), "resid_pre", positions="all")["resid_pre"].float().std((0, 2))
    last = model.n_layers - 1
    for layer, pos in ((0, 0), (0, n_pos // 2), (last // 2, n_pos // 2), (last, 1), (last, n_pos - 1)):
        value = torch.randn(model.d_model, generator=generator) * float(scale[layer])
        edits.append(Edit(Site("resid_pre", layer), "add", value, positions=(pos,)))
    for layer in model.layers_with("z")[:1]:
        edits.append(Edit(Site("z", layer, (0,)), "scale", strength=-2.0, positions=(n_pos // 3, n_pos - 1)))
    return edits


def _ends(model: "Model", batch: Batch, edits: list[Edit]) -> Tensor:
    """Plain full runs: the last stream at the last position under each edit, [edit, row, d_model]."""
    found, last = [], model.n_layers - 1
    for edit in edits:
        with model.edited(edit):
            found.append(model.capture(batch, "resid_post", layers=[last])["resid_post"][:, 0])
    return torch.stack(found)


def _is_causal(model: "Model", batch: Batch) -> bool:
    """Whether a change at the last position leaves the one before it as it was, in every block."""
    edit = Edit(Site("resid_pre", 0), "scale", strength=-3.0, positions=(len(batch.ids[0]) - 1,))
    before = model.capture(batch, "resid_post", positions=[-2])["resid_post"]
    with model.edited(edit):
        after = model.capture(batch, "resid_post", positions=[-2])["resid_post"]
    return bool((after - before).norm() <= tolerance(before.dtype) * before.norm())


def _tried(model: "Model", batch: Batch, kind: Kind, causal: bool, *, late: bool = False) -> str | None:
    """None where the kind is exact on the trial changes, else what is wrong."""
    n_pos = len(batch.ids[0])
    if kind == "packed" and len(model.layers_with("k")) < model.n_layers:
        return "not every block calls transformers' attention interface, so positions are not skipped"
    try:
        edits = _changes(model, n_pos)
        items = [(edit,) for edit in edits]
        kept = keep_clean(model, batch, attention=kind == "packed", late=late)
        work = work_of(items, [0, 1], n_pos, model.n_layers, causal=causal and kind == "packed")
        run = EXECUTORS[kind](kept, compile_writes(items, [0, 1], batch.lengths), {}, len(items))
        with torch.no_grad():
            ours = run.run(work).unflatten(0, (len(items), 2))
        return _compared(ours, _ends(model, batch, edits), kept.run.streams[-1][:, -1])
    except (ConceptlabError, *_REFUSALS) as error:
        return _said(error)


def _compared(ours: Tensor, plain: Tensor, clean: Tensor) -> str | None:
    error = ((ours - plain).float().norm(dim=-1) / plain.float().norm(dim=-1).clamp_min(1e-30)).max()
    if float(error) > tolerance(ours.dtype):
        return f"differs from the full run by {float(error):.1e}"
    moved = ((plain - clean).float().norm(dim=-1) / clean.float().norm(dim=-1).clamp_min(1e-30)).amax(1)
    return None if bool((moved > 0).any()) else "the trial changes were not felt, so nothing was tested"


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


EXECUTORS: dict[str, Callable[..., Packed | Whole]] = {"packed": Packed, "whole": Whole}
