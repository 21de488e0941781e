"""Greedy decoding with the KV cache in which every head's favourite key of each step is kept, and nothing else of its attention.

All but the last token of the prompt go through without anybody looking; from there on each step has one query, so a pattern is
one row per head, and only the place of its largest entry stays. Rows of one length run together, so that nothing is padded.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from conceptlab.errors import ModelError
from conceptlab.model.batch import Batch
from conceptlab.model.kv_cache import cache_name, cache_of
from conceptlab.model.model import Model

MAX_TOKENS = 8192  # of prompts at a time
ENDED = -1


@dataclass(frozen=True, eq=False)
class Decoded:
    """`ids` [row, step]: the new tokens, `ENDED` after a row's end; `keys` [row, step, layer, head]: the position that each head
    attended to most when it wrote that token, -1 in layers without attention (None where nobody asked)."""

    ids: Tensor
    keys: Tensor | None


def greedy_decode(model: Model, batch: Batch, n_new: int, *, top_keys: bool = False) -> Decoded:
    """The `n_new` most likely tokens, one after the other, under the active edits.

    Raises ModelError where the model has no logits or cache, or prompt and new tokens exceed its context; SiteError where
    `top_keys` are asked and no layer's attention can be seen.
    """
    longest = max(batch.lengths)
    if not model.has_logits or not model._takes_cache:
        raise ModelError(f"{model.name} does not decode with a cache; choose a causal language model")
    if longest + n_new > model.max_length:
        raise ModelError(
            f"{longest} prompt tokens and {n_new} new ones exceed the context of {model.name} ({model.max_length})"
        )
    ids = torch.full((len(batch), n_new), ENDED)
    keys = torch.full((len(batch), n_new, model.n_layers, model.n_heads), -1, dtype=torch.int32) if top_keys else None
    for rows in _alike(batch):
        found, at = _decode(model, torch.tensor([batch.ids[r] for r in rows]), n_new, top_keys=top_keys)
        ids[rows, : found.shape[1]] = found
        if keys is not None and at is not None:
            keys[rows, : at.shape[1]] = at
    model.forwards += len(batch)
    return Decoded(ids, keys)


def _alike(batch: Batch) -> Iterator[list[int]]:
    """Rows of one length together, at most `MAX_TOKENS` tokens at a time."""
    by_length: dict[int, list[int]] = {}
    for row, length in enumerate(batch.lengths):
        by_length.setdefault(length, []).append(row)
    for length, rows in by_length.items():
        step = max(1, MAX_TOKENS // length)
        yield from (rows[i : i + step] for i in range(0, len(rows), step))


@dataclass(eq=False)
class _Favourites:
    """Which key each head of each layer likes best at the running step; `held` [layer -> [row, head]]."""

    model: Model
    held: dict[int, Tensor] = field(default_factory=dict)
    at: int = 0  # the position of the query

    @contextmanager
    def watching(self) -> Iterator[None]:
        layers = self.model.layers_with("pattern")
        if not layers:
            self.model.tap("pattern", 0)  # says why no layer has it
        visits = [(self.model.tap("pattern", layer), layer, False, self._look(layer)) for layer in layers]
        with self.model.instrument.visiting(visits):
            yield

    def _look(self, layer: int) -> Any:
        def look(pattern: Tensor) -> None:
            # the cache of a sliding window holds the last keys only
            self.held[layer] = pattern[:, -1].argmax(-1) + (self.at + 1 - pattern.shape[-1])

        return look

    def taken(self, n_rows: int) -> Tensor:
        """[row, layer, head] of the step that has just run."""
        found = torch.full((n_rows, self.model.n_layers, self.model.n_heads), -1, dtype=torch.int32)
        for layer, favourite in self.held.items():
            found[:, layer, : favourite.shape[1]] = favourite.to(found)
        self.held.clear()
        return found


def _decode(model: Model, prompt: Tensor, n_new: int, *, top_keys: bool) -> tuple[Tensor, Tensor | None]:
    """New ids [row, step] of prompts [row, pos] of one length, and the favourite keys."""
    prompt, ends = prompt.to(model.device), _ends(model)
    seen = _Favourites(model)
    step, name = {"use_cache": True, **_last_only(model)}, cache_name(model)
    new, keys, past = [], [], None
    with torch.no_grad(), model.instrument.generating(torch.full((len(prompt),), prompt.shape[1])):
        if prompt.shape[1] > 1:
            past = cache_of(model.runner(input_ids=prompt[:, :-1], **step))
        token, done = prompt[:, -1:], torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
        with seen.watching() if top_keys else nullcontext():
            for number in range(n_new):
                seen.at = prompt.shape[1] - 1 + number
                out = model.runner(input_ids=token, **({} if past is None else {name: past}), **step)
                past, token = cache_of(out), out.logits[:, -1].argmax(-1, keepdim=True)
                new.append(token[:, 0].masked_fill(done, ENDED))
                if top_keys:
                    keys.append(seen.taken(len(prompt)))
                if ends is not None:
                    done = done | torch.isin(token[:, 0], ends)
                    if bool(done.all()):
                        break
    return torch.stack(new, 1).cpu(), torch.stack(keys, 1) if top_keys else None


def _last_only(model: Model) -> dict[str, int]:
    """Logits of the last token alone, where the model can leave out the others."""
    known = inspect.signature(model.runner.forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in known else {}


def _ends(model: Model) -> Tensor | None:
    """Tokens that end a text."""
    settings = getattr(model.module, "generation_config", None) or getattr(model.module, "config", None)
    found = getattr(settings, "eos_token_id", None)
    return None if found is None else torch.as_tensor(found, device=model.device).reshape(-1)
