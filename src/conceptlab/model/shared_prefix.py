"""Many texts that begin alike: the beginning is run once, its keys and values are kept, and only the rest of each text is run.

What comes out is what whole texts give, up to the rounding of other batch shapes. Rests of one length run together, so nothing is
padded and positions need no correction. Source: the usual prefix cache of decoders. Cost: one forward of the beginning, then the
tokens of the rests.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conceptlab.errors import InputError, ModelError
from conceptlab.model.kv_cache import cache_name, cache_of
from conceptlab.model.model import Model
from conceptlab.model.spans import same_length_groups

ROWS = 128


@dataclass(frozen=True, eq=False)
class Continued:
    """`ids` [row, step] the most likely new tokens, `stream` [row, layer, d_model] at each text's last token (embedding first)."""

    ids: Tensor
    stream: Tensor


def continue_all(model: Model, beginning: str, rests: Sequence[str], n_new: int) -> Continued:
    """Read `beginning` + each rest and write `n_new` tokens greedily.

    Raises InputError where a rest melts into the last token of the beginning or is empty, ModelError where the model has no cache,
    or text and new tokens exceed the context.
    """
    whole, first = model.encode([beginning + rest for rest in rests]), model.encode(beginning).ids[0]
    if not model.has_logits or not model._takes_cache:
        raise ModelError(f"{model.name} does not decode with a cache; choose a causal language model")
    if max(whole.lengths) + n_new > model.max_length:
        raise ModelError(
            f"{max(whole.lengths)} prompt tokens and {n_new} new ones exceed the context of {model.name} ({model.max_length}); "
            "give fewer demonstrations"
        )
    n = len(first)
    for row, ids in enumerate(whole.ids):
        if ids[:n] != first or len(ids) == n:
            raise InputError(
                f"row {row}: the text melts into the last token of what stands before it, or is empty; separate them"
            )
    new = torch.zeros(len(whole), n_new, dtype=torch.long)
    stream = torch.zeros(len(whole), model.n_layers + 1, model.d_model)
    name = cache_name(model)
    with torch.no_grad():
        kept = cache_of(model.runner(input_ids=torch.tensor([first], device=model.device), use_cache=True))
        for rows in same_length_groups(whole, ROWS):
            ids = torch.tensor([whole.ids[r][n:] for r in rows], device=model.device)
            new[rows], stream[rows] = _run(model, ids, _repeated(kept, len(rows)), name, n_new)
    model.forwards += 1 + sum(len(ids) - n for ids in whole.ids) / max(n, 1)
    return Continued(new, stream)


def _run(model: Model, ids: Tensor, past: Any, name: str, n_new: int) -> tuple[Tensor, Tensor]:
    """New ids [row, step] and the stream [row, layer, d_model] at the last of `ids` [row, pos]."""
    held: dict[int, Tensor] = {}

    def look(place: int):
        def keep(values: Tensor) -> None:
            held.setdefault(place, values[:, -1].float().cpu())  # the first forward's; later ones are new tokens

        return keep

    taps = [(model.tap("embed"), None, False, look(0))]
    taps += [(model.tap("resid_post", layer), layer, False, look(layer + 1)) for layer in range(model.n_layers)]
    with model.instrument.visiting(taps):
        out = model.runner(input_ids=ids, use_cache=True, **{name: past})
    found = []
    for step in range(n_new):
        found.append(out.logits[:, -1].argmax(-1))
        if step + 1 < n_new:
            out = model.runner(input_ids=found[-1][:, None], use_cache=True, **{name: cache_of(out)})
    return torch.stack(found, 1).cpu(), torch.stack([held[i] for i in range(model.n_layers + 1)], 1)


def _repeated(kept: Any, n: int) -> Any:
    """A copy of the cache for `n` rows; the kept one is never written into."""
    if not hasattr(kept, "batch_repeat_interleave"):
        raise ModelError(
            f"a cache of the kind {type(kept).__name__} cannot be shared between rows; choose another model"
        )
    own = copy.deepcopy(kept)
    own.batch_repeat_interleave(n)
    return own
