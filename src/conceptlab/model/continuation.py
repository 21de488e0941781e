"""A continuation token by token: each step is one forward under its own edits, so that others may use the model between two steps.

The tokens are those of `model.edited(*edits)` with `model.generate`: greedily, or sampled as `torch.manual_seed(seed)` and
`do_sample=True, top_k=0` would. The draws of two continuations with one seed are the same noise, so that their tokens differ only
where their probabilities do. Nothing stays on the model between steps; what is kept is the cache and the last logits.
Cost: one forward of the prompt, then one of a single token a step (of the whole text where the model takes no cache).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conceptlab.errors import InputError, ModelError
from conceptlab.model.decoding import _ends, _last_only
from conceptlab.model.kv_cache import cache_name, cache_of
from conceptlab.model.model import Model
from conceptlab.results import Edit, Site


@dataclass(frozen=True, eq=False)
class Token:
    """A new token: its `id`, the `log_prob` that the edited model gave it (nats, before any temperature), the `text` that it adds,
    the stream [d_model] at `read` where it was written (None without `read`), and whether it `ends` the text."""

    id: int
    log_prob: float
    text: str
    stream: Tensor | None
    ends: bool


class Continuation:
    """The text after `prompt`, one `step` after the other, under `edits` at all positions.

    `temperature` 0 takes the most likely token; above, tokens are drawn with `seed`. `read` names a stream site. `log_probs` holds
    what the edited model expected at each step [step, d_vocab] where `keep`. Raises ModelError for a model without logits or a
    prompt that leaves no room, InputError for a temperature below 0, SiteError as `Model.edited`.
    """

    def __init__(  # noqa: PLR0913 - one text, fully stated
        self,
        model: Model,
        prompt: str,
        edits: Sequence[Edit] = (),
        *,
        n_new: int = 32,
        temperature: float = 0.0,
        seed: int = 0,
        read: Site | None = None,
        keep: bool = False,
    ) -> None:
        if not model.has_logits:
            raise ModelError(f"{model.name} does not generate: {model.stack.missing.get('logits', 'it has no logits')}")
        if not temperature >= 0:
            raise InputError(f"a temperature of {temperature:g} is below 0; use 0 (the most likely token) or more")
        self.model, self.edits, self.temperature, self.read, self.keep = model, tuple(edits), temperature, read, keep
        self.prompt = model.encode(prompt).ids[0]
        if len(self.prompt) + n_new > model.max_length:
            raise ModelError(
                f"{len(self.prompt)} prompt tokens and {n_new} new ones exceed the context of {model.name} ({model.max_length})"
            )
        for edit in self.edits:
            model.check_edit(edit)
        self.n_new = n_new
        self.new: list[int] = []
        self.log_probs: list[Tensor] = []
        self._generator = torch.Generator(device=model.device).manual_seed(seed)
        self._past: Any = None
        self._stop = _ends(model)
        self._said = self._whole()
        self.over = n_new < 1

    @property
    def text(self) -> str:
        """The new text so far, without special tokens."""
        return self.model.tokenizer.decode(self.new, skip_special_tokens=True)

    def _whole(self) -> str:
        return self.model.tokenizer.decode([*self.prompt, *self.new], skip_special_tokens=True)

    def step(self) -> Token:
        """Write one more token. Raises InputError where the text is over."""
        if self.over:
            raise InputError("the text has ended; begin another continuation")
        logits, stream = self._forward()
        log_probs = logits.float().log_softmax(-1)
        if self.keep:
            self.log_probs.append(log_probs.cpu())
        chosen = self._chosen(logits)
        self.new.append(chosen)
        ends = self._stop is not None and bool((self._stop == chosen).any())
        self.over = ends or len(self.new) >= self.n_new
        said, self._said = self._said, self._whole()
        added = self._said[len(said) :] if self._said.startswith(said) else self.model.tokenizer.decode([chosen])
        if self.over:
            self._past = None
        return Token(chosen, float(log_probs[chosen]), added, stream, ends)

    @torch.no_grad()
    def _forward(self) -> tuple[Tensor, Tensor | None]:
        """Logits [d_vocab] and stream at the last token so far; the edits are on the model in here only."""
        cached = self.model._takes_cache
        ids = (*self.prompt, *self.new) if not cached or self._past is None else (self.new[-1],)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=self.model.device), **_last_only(self.model)}
        if cached:
            inputs["use_cache"] = True
        if self._past is not None:
            inputs[cache_name(self.model)] = self._past
        held: list[Tensor] = []
        seen = len(self.prompt) + len(self.new) - len(ids)
        with ExitStack() as stack:
            stack.enter_context(self.model.instrument.generating(torch.tensor([len(self.prompt)]), seen))
            stack.enter_context(self.model.edited(*self.edits))
            if self.read is not None:
                tap = self.model.tap(self.read.name, self.read.layer)
                look: Callable[[Tensor], None] = lambda stream: held.append(stream[0, -1])  # noqa: E731
                stack.enter_context(self.model.instrument.visiting([(tap, self.read.layer, False, look)]))
            out = self.model.runner(**inputs)
        self._past = cache_of(out) if cached else None
        self.model.forwards += 1
        return out.logits[0, -1], held[-1] if held else None

    def _chosen(self, logits: Tensor) -> int:
        if self.temperature == 0:
            return int(logits.argmax())
        probs = (logits.float() / self.temperature).softmax(-1)
        return int(torch.multinomial(probs[None], 1, generator=self._generator))
