"""What a change did, read three ways: the next-token distribution, the label words, and the concept's readout at the end.

Every reading is a loss: positive where the change took away what the row's own class brings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlab.errors import SiteError

if TYPE_CHECKING:
    from conceptlab.model.model import Model
    from conceptlab.model.replay import Replay
    from conceptlab.results import Subspace

OVERFLOW = 80.0  # e^d leaves float32 soon after
KL, WORDS, READOUT = "kl", "words", "readout"
UNITS = {
    KL: "KL to the unchanged next-token distribution, nats",
    WORDS: "log-odds of label words, nats",
    READOUT: "shift of the last layer's readout, sd",
}


@dataclass(frozen=True, eq=False)
class Judge:
    """`own` [row, d_model] is the unit direction of each row's class at the last layer, `spread` its standard deviation;
    `words` holds token ids per class and `classes` [row] the class of each row, where the data names label words."""

    model: "Model"
    clean_readout: Tensor
    own: Tensor
    spread: float
    clean_logits: Tensor | None
    classes: Tensor | None = None
    words: tuple[Tensor, ...] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def readings(self) -> tuple[str, ...]:
        """Which readings exist here, the most telling first."""
        found = [WORDS] if self.words is not None and self.clean_logits is not None else []
        return (*found, *([KL] if self.clean_logits is not None else []), READOUT)

    def losses(self, final: Tensor, at_read: Tensor) -> dict[str, Tensor]:
        """Losses [copy, row] of replays that ended in `final` and `at_read` [copy, row, d_model]."""
        shift = ((at_read - self.clean_readout) * self.own).sum(-1)
        found = {READOUT: -shift / self.spread}
        if self.clean_logits is not None:
            with torch.no_grad():
                logits = self.model.lens(final).float()
            if self.words is not None:
                found[WORDS] = self._odds(self.clean_logits[None]) - self._odds(logits)
            found[KL] = kl_from_clean(self.clean_logits, logits)
        return found

    def _odds(self, logits: Tensor) -> Tensor:
        """Log-odds [copy, row] of the words of the row's own class against those of the others."""
        per_class = torch.stack([logits[..., ids].logsumexp(-1) for ids in self.words or ()], -1)
        own = per_class.gather(-1, self.classes.expand(per_class.shape[:-1])[..., None])[..., 0]  # type: ignore[union-attr]
        mask = torch.nn.functional.one_hot(self.classes, per_class.shape[-1]).bool()  # type: ignore[arg-type]
        return own - per_class.masked_fill(mask, float("-inf")).logsumexp(-1)


def kl_from_clean(clean: Tensor, logits: Tensor) -> Tensor:
    """KL divergence [copy, row] of softmax(`logits` [copy, row, d_vocab]) from softmax(`clean` [row, d_vocab]), in nats.

    With p = softmax(clean) and d = logits - clean, less its mean under p, it is log(1 + sum p (e^d - 1)), to about 1e-6 in float32.
    `logits` is used up: vocabularies are large, and a new tensor of that size costs more than the arithmetic.
    """
    p = clean.softmax(-1)
    moved = logits.sub_(clean)
    moved -= torch.einsum("krv,rv->kr", moved, p)[..., None]
    if bool(moved.max() > OVERFLOW):
        log_p = clean.log_softmax(-1)
        return (p * (log_p - (log_p + moved).log_softmax(-1))).sum(-1)
    return torch.log1p(torch.einsum("krv,rv->kr", moved.expm1_(), p))


def class_directions(subspace: "Subspace", classes: Tensor | None, sign: Tensor | None) -> Tensor:
    """Unit direction [row, d_model] towards each row's own class (or, for a graded concept, up or down)."""
    basis = subspace.basis
    if sign is not None:
        return sign[:, None].to(basis) * basis[0]
    points = subspace.class_points.to(basis)
    toward = points[classes] @ basis  # type: ignore[index]
    return toward / toward.norm(dim=1, keepdim=True).clamp_min(1e-12)


def make_judge(
    model: "Model",
    replay: "Replay",
    last: "Subspace",
    spread: float,
    *,
    classes: Tensor | None,
    sign: Tensor | None,
    words: Sequence[Sequence[str]] | None,
) -> Judge:
    """Judge the rows of `replay` by the concept's subspace at the last layer (`spread`: sd of its readout, from training rows)."""
    logits, notes = None, []
    if model.has_logits:
        try:
            with torch.no_grad():
                logits = model.lens(replay.final).float()
        except SiteError as error:
            notes.append(str(error))
    ids, note = word_ids(model, words) if words is not None and classes is not None else (None, "")
    return Judge(
        model,
        replay.at_read,
        class_directions(last, classes, sign).to(replay.at_read),
        max(spread, 1e-12),
        logits,
        classes,
        ids,
        tuple(n for n in (*notes, note) if n),
    )


def copies_that_fit(replay: "Replay", judge: Judge, budget_bytes: int = 1 << 27) -> int:
    """How many copies of the rows may run together: logits, and what a block holds of every column, are what grows."""
    width = 0 if judge.clean_logits is None else judge.clean_logits.shape[-1] * 3
    in_block = replay.streams.shape[2] * (replay.streams.shape[3] * 8 + replay.model.d_mlp * 2)
    return max(1, budget_bytes // (4 * replay.n_rows * (width + in_block)))


def word_ids(model: "Model", words: Sequence[Sequence[str]]) -> tuple[tuple[Tensor, ...] | None, str]:
    """First token of each label word as it follows a text, per class; None and a note where two classes share one."""
    ids = []
    for group in words:
        found = {_first_token(model, word) for word in group}
        ids.append(torch.tensor(sorted(i for i in found if i is not None), dtype=torch.long))
    if any(len(i) == 0 for i in ids):
        return None, "label words were left out: a class has none that the tokenizer knows"
    flat = torch.cat(ids).tolist()
    if len(flat) != len(set(flat)):
        return None, "label words were left out: words of two classes start with the same token"
    return tuple(ids), ""


def _first_token(model: "Model", word: str) -> int | None:
    """The token that starts `word` after a space where the tokenizer marks spaces, else of the bare word."""
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    for form in (f" {word.strip()}", word.strip()):
        coded = model.tokenizer(form, add_special_tokens=False)["input_ids"]
        kept = [i for i in coded if i != unknown and model.tokenizer.decode([i]).strip()]
        if kept:
            return kept[0]
    return None
