"""Metric: one number per row, read from the logits at one position; it names the logits it needs, and only those are made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.results import Site

# logits [..., row, k or d_vocab] and the row numbers [row] -> [..., row]
Reading = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Metric:
    """`of` reads logits [..., row, k] at the real-token `position` of every row.

    `tokens` [row, k] names the logits that are read (None: the whole vocabulary); a metric that names them costs two dot
    products a row in place of an unembedding. `rows` [row] numbers the rows of the whole batch.
    """

    name: str
    of: Reading
    tokens: Tensor | None = None
    position: Literal["last"] | int = "last"
    site: Site | None = None

    @property
    def n_rows(self) -> int | None:
        """How many rows it is for (None: any)."""
        return None if self.tokens is None else len(self.tokens)


def along(site: Site | str, direction: Tensor) -> Metric:
    """What a stream site holds along `direction` [d_model] at the last position. Raises InputError for other kinds of sites."""
    site = Site.parse(site)
    if site.kind != "stream" or site.layer is None:
        raise InputError(
            f"a metric of a site reads the stream or what is added to it, not {site}; write for example L5.resid_post"
        )
    return Metric(f"along {site}", lambda values, _: values @ direction.to(values), site=site)


def _ids(ids: Sequence[int] | Tensor, what: str) -> Tensor:
    found = torch.as_tensor(ids, dtype=torch.long)
    if found.dim() == 0:
        raise InputError(f"{what} must hold one token id per row; {found.item()} is a single number")
    return found


def logit_diff(answers: Sequence[int] | Tensor, distractors: Sequence[int] | Tensor) -> Metric:
    """logit(answer) - logit(distractor) at the last position; ids [row]. Raises InputError where both are one token."""
    right, wrong = _ids(answers, "answers"), _ids(distractors, "distractors")
    if right.shape != wrong.shape:
        raise InputError(f"{len(right)} answers stand against {len(wrong)} distractors; give one of each per row")
    same = (right == wrong).nonzero().flatten().tolist()
    if same:
        raise InputError(
            f"row {same[0]}: answer and distractor share their first token ({int(right[same[0]])}), so nothing can tell them "
            "apart; choose answers that differ in their first token"
        )
    return Metric("logit_diff", lambda logits, _: logits[..., 0] - logits[..., 1], torch.stack([right, wrong], 1))


def logit(answers: Sequence[int] | Tensor) -> Metric:
    """logit(answer) at the last position; ids [row]."""
    return Metric("logit", lambda logits, _: logits[..., 0], _ids(answers, "answers")[:, None])


def log_prob(answers: Sequence[int] | Tensor) -> Metric:
    """log P(answer) at the last position, nats; ids [row]. Needs the whole vocabulary."""
    ids = _ids(answers, "answers")

    def of(logits: Tensor, rows: Tensor) -> Tensor:
        return logits.float().log_softmax(-1).gather(-1, _picked(ids, rows, logits))[..., 0]

    return Metric("log_prob", of)


def prob(answers: Sequence[int] | Tensor) -> Metric:
    """P(answer) at the last position; ids [row]. Needs the whole vocabulary."""
    inner = log_prob(answers)
    return Metric("prob", lambda logits, rows: inner.of(logits, rows).exp())


def right(answers: Sequence[int] | Tensor) -> Metric:
    """1 where the answer has the largest logit at the last position, else 0; its mean is the accuracy. ids [row]."""
    ids = _ids(answers, "answers")

    def of(logits: Tensor, rows: Tensor) -> Tensor:
        return (logits.argmax(-1) == _picked(ids, rows, logits)[..., 0]).to(torch.float32)

    return Metric("right", of)


def kl_from(clean_logits: Tensor) -> Metric:
    """KL(P_clean || P_edited) at the last position, nats; `clean_logits` [row, d_vocab]."""
    clean = clean_logits.float().log_softmax(-1)

    def of(logits: Tensor, rows: Tensor) -> Tensor:
        reference = clean.to(logits.device)[rows.to(logits.device)]
        return (reference.exp() * (reference - logits.float().log_softmax(-1))).sum(-1)

    return Metric("kl", of)


def _picked(ids: Tensor, rows: Tensor, logits: Tensor) -> Tensor:
    index = ids.to(logits.device)[rows.to(logits.device)]
    return index.expand(logits.shape[:-1])[..., None]
