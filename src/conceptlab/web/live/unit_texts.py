"""Where in the labelled texts a unit is most active, token by token, beside another unit of its layer.

A neuron's activation is what enters the down projection; a head's is the length of what it mixes from the values (`z`). A text
counts by its largest token. Control: the same statistic of another unit of the layer, and where the unit's largest value lies
among those of all units of the layer. Cost: one forward of each text, up to the layer.
"""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError, ModelError
from conceptlab.measure.lenses.targets import exact_token_texts
from conceptlab.model import Model
from conceptlab.web.jobs import Said
from conceptlab.web.live.unit_weights import Unit, other_unit

MOST_TEXTS = 1024
AT_ONCE = 32
SHOWN = 12

Row = tuple[str, str, str]  # text, label, concept


def unit_texts(
    model: Model, unit: Unit, rows: Sequence[Row], seed: int = 0
) -> Generator[Said | None, None, dict[str, Any]]:
    """The texts with the largest activations, and how activations are spread. At most `MOST_TEXTS` texts, evenly chosen, of
    those that fit into the context. Raises InputError where none does."""
    other = other_unit(unit, unit.size(model), seed)
    picked = np.unique(np.linspace(0, len(rows) - 1, min(MOST_TEXTS, len(rows))).astype(int))
    chosen = [row for row in (rows[i] for i in picked) if _fits(model, row[0])]
    if not chosen:
        raise InputError(f"none of the {len(picked)} texts has between 1 and {model.max_length} tokens")
    batch = model.encode([text for text, _, _ in chosen])
    own: list[np.ndarray] = []
    rival: list[np.ndarray] = []
    largest = None
    for begin in range(0, len(chosen), AT_ONCE):
        part = batch.select(list(range(begin, min(begin + AT_ONCE, len(chosen)))))
        values = _activations(model, unit, part)
        here = values.max(0).values
        largest = here if largest is None else torch.maximum(largest, here)
        own += _split(values[:, unit.index], part.lengths)
        rival += _split(values[:, other], part.lengths) if other is not None else []
        yield Said(
            min(1.0, (begin + AT_ONCE) / len(chosen)), f"{min(begin + AT_ONCE, len(chosen)):,} of {len(chosen):,} texts"
        )
    peaks = np.array([row.max() for row in own])
    order = np.argsort(-peaks, kind="stable")[:SHOWN]
    above = 0.0 if largest is None else float((largest > largest[unit.index]).float().mean())
    return {
        "n": len(chosen), "of": len(rows), "other_index": other, "max": float(peaks.max()), "min": float(min(r.min() for r in own)),
        "mean": float(np.concatenate(own).mean()), "above": above,
        "other": None if not rival else {"max": float(max(r.max() for r in rival)), "mean": float(np.concatenate(rival).mean())},
        "examples": [_example(model, batch.ids[i], own[i], chosen[i]) for i in order.tolist()],
    }  # fmt: skip


def _fits(model: Model, text: str) -> bool:
    """Whether the model can read the text; one that it cannot is left out."""
    try:
        model.encode(text)
    except ModelError:
        return False
    return True


@torch.no_grad()
def _activations(model: Model, unit: Unit, part: Any) -> Tensor:
    """[token, unit of the layer], float32, rows one after the other."""
    values = model.capture(part, unit.site, layers=[unit.layer], positions="all").at(unit.site, unit.layer).float()
    return values.norm(dim=-1).cpu() if unit.kind == "head" else values.cpu()


def _split(values: Tensor, lengths: Sequence[int]) -> list[np.ndarray]:
    return [part.numpy() for part in values.split(list(lengths))]


def _example(model: Model, ids: Sequence[int], values: np.ndarray, row: Row) -> dict[str, Any]:
    _, label, concept = row
    texts = exact_token_texts(model, np.array(ids)).tolist()
    return {"tokens": texts, "values": values.tolist(), "max": float(values.max()), "label": label, "concept": concept}
