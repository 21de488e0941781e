"""Direct logit attribution: how much each component's own output moves an answer's logit, the rest of the model left aside.

The final norm (and a norm after a sublayer) is held at the real stream of the position, so that the contributions of all components
add up to the logits before a soft cap; what is left over is reported. Only direct effects are seen: a head that works through later
ones has contribution 0, however much depends on it. Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits;
Wang et al. 2023 (IOI) for names. Departure: all rows are used, also those the model gets wrong (choosing rows by the answer's logit
would give every component that feeds it a positive mean under the null); the share that is right is reported.
Control: the same sums for random pairs of tokens of the same kind (`evidence.random_tokens`), p over all components.
Cost: one forward of the rows; memory rows x (heads + parts) x d_model of `max_rows` rows at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, q_values
from conceptlab.evidence.random_tokens import random_pairs, token_pool
from conceptlab.evidence.row_groups import row_groups
from conceptlab.evidence.studentised import studentised_p
from conceptlab.model import Model
from conceptlab.model.capture import Activations
from conceptlab.model.components import By, component_sites, components, final_stream
from conceptlab.model.frozen_end import FrozenEnd, freeze_end
from conceptlab.model.metric import logit, logit_diff
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "direct logit attribution",
    "paper": "Elhage et al. 2021; Wang et al. 2023",
    "tags": ["attribution", "heads", "logits"],
    "takes": "a model, texts, answer and distractor tokens",
    "returns": "Scores",
    "cost": "one forward of the rows",
}


@dataclass(frozen=True, eq=False)
class _Question:
    """Token ids [row]; `wrong` None asks for the answer's logit alone. `pool` ids and `pairs` [draw, row, 2] are the null."""

    right: Tensor
    wrong: Tensor | None
    pool: Tensor
    pairs: np.ndarray

    def directions(self, end: FrozenEnd, rows: list[int]) -> Tensor:
        """[row, d_model] of the question itself."""
        right = self.right[rows][:, None]
        found = end.directions(right) if self.wrong is None else end.between(right, self.wrong[rows][:, None])
        return found[:, 0]

    def constant(self, end: FrozenEnd, rows: list[int]) -> Tensor:
        """[row]: what biases at the end of the model give."""
        made = end.constant(self.right[rows][:, None])
        return (made if self.wrong is None else made - end.constant(self.wrong[rows][:, None]))[:, 0]

    def null(self, of_pool: np.ndarray, rows: list[int]) -> np.ndarray:
        """Sum over rows [draw, component] of contributions `of_pool` [row, component, pool] to each draw's random tokens."""
        here = np.arange(len(rows))
        first, second = self.pairs[:, rows, 0], self.pairs[:, rows, 1]
        picked = [of_pool[here, :, a].sum(0) for a in first]
        if self.wrong is None:
            return np.stack(picked)
        return np.stack(picked) - np.stack([of_pool[here, :, b].sum(0) for b in second])


@torch.no_grad()
def direct_logit(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    texts: Texts,
    answers: Sequence[int],
    distractors: Sequence[int] | None = None,
    *,
    position: int | str = "last",
    by: By = "head",
    pool: Sequence[int] | None = None,
    groups: Sequence[int | str] | None = None,
    n_random: int = 1000,
    max_rows: int = 64,
    seed: int = 0,
) -> Scores:
    """Contribution of every component to logit(answer) - logit(distractor), or to logit(answer) alone; one token id per row.

    Axis `component`: `embed`, `L0.H1`, `L0.attn.bias`, `L0.mlp`, ..., and `end.bias`. `score` is the mean over rows in
    logits before a soft cap (`low`, `high`: 95 % bootstrap), `control` the mean for random tokens (`control_low`, `control_high`:
    95 % of the draws), `p` two-sided, `q` over components, `each` [row, component] the single rows. Attributes: `logit_diff`
    (their sum), `logit_diff_of_model` (after scale and cap), `residual` (largest relative error of the sum), `share_right`.
    `groups` [row] are rows that share content. Raises InputError for ids that do not fit the rows and SiteError where the stream
    is no sum of components.
    """
    batch = model.encode(texts)
    together = row_groups(groups, len(batch))
    question = _asked(model, answers, distractors, pool, together, n_random, seed)
    before = model.forwards
    each, null, ends, names = [], np.zeros(()), [], []
    for rows in in_chunks(len(batch), max_rows):
        acts = model.capture(batch.select(rows), component_sites(model, by), positions=_positions(position))
        final = final_stream(model, acts)
        end = freeze_end(model, final)
        names, own, of_pool = _contributions(model, acts, by, end, question, rows)
        each.append(own)
        null = null + question.null(of_pool, rows)
        ends.append(_of_model(model, final, question, rows))
    values = np.concatenate(each)
    data = _table(names, values, null / len(batch), together, seed)
    totals, of_model, right = np.concatenate(ends, 1)
    gap = np.abs(values.sum(1) - totals).max() / max(np.abs(totals).max(), 1e-12)
    data.attrs |= {
        "logit_diff": float(values.sum(1).mean()),
        "logit_diff_of_model": float(of_model.mean()),
        "residual": float(gap),
        "share_right": float(right.mean()),
    }
    settings = {"position": position, "by": by, "n_random": n_random, "pool": len(question.pool)}
    provenance = Provenance(
        "direct logit attribution",
        len(batch),
        seed,
        model.name,
        model.revision,
        settings=settings,
        passes=round(model.forwards - before),
    )
    return Scores(data, provenance)


def _asked(  # noqa: PLR0913 - what a question is made of
    model: Model,
    answers: Sequence[int],
    distractors: Sequence[int] | None,
    pool: Sequence[int] | None,
    together: np.ndarray,
    n_random: int,
    seed: int,
) -> _Question:
    ids, d_vocab = asked_tokens(model, len(together), answers, distractors), model.unembedding.shape[0]
    drawn = token_pool(ids.numpy(), d_vocab, pool=pool, seed=seed)
    pairs = random_pairs(n_random, int(together.max()) + 1, len(drawn), seed)[:, together]
    return _Question(ids[:, 0], None if distractors is None else ids[:, 1], torch.from_numpy(drawn), pairs)


def asked_tokens(model: Model, n_rows: int, answers: Sequence[int], distractors: Sequence[int] | None) -> Tensor:
    """Token ids [row, 1 or 2] of the answers and, if any, the distractors.

    Raises InputError where they do not fit the rows or the vocabulary, or an answer is its own distractor.
    """
    metric = logit(answers) if distractors is None else logit_diff(answers, distractors)
    ids, d_vocab = metric.tokens, model.unembedding.shape[0]
    if ids is None or len(ids) != n_rows:
        raise InputError(f"{metric.n_rows} answers came with {n_rows} texts; give one token id per text")
    if int(ids.min()) < 0 or int(ids.max()) >= d_vocab:
        wrong = int(ids.max()) if int(ids.max()) >= d_vocab else int(ids.min())
        raise InputError(f"answer token {wrong} is outside the vocabulary of {d_vocab}")
    return ids


def _positions(position: int | str) -> "str | list[int]":
    return position if isinstance(position, str) else [position]


def in_chunks(n: int, size: int) -> Iterator[list[int]]:
    """Row numbers, at most `size` at a time."""
    for start in range(0, n, size):
        yield list(range(start, min(start + size, n)))


def _contributions(  # noqa: PLR0913 - one chunk of rows
    model: Model, acts: Activations, by: By, end: FrozenEnd, question: _Question, rows: list[int]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, contributions [row, component] (float64) and contributions to every token of the pool [row, component, pool]."""
    asked = question.directions(end, rows)
    pooled = end.directions(question.pool.expand(len(rows), -1)).float()
    names, own, of_pool = [], [], []
    for found, parts in components(model, acts, by):
        names += found
        own.append(torch.einsum("rcd,rd->rc", parts.double(), asked.to(parts.device)))
        of_pool.append(torch.einsum("rcd,rpd->rcp", parts, pooled.to(parts.device)))
    names.append("end.bias")
    own.append(question.constant(end, rows)[:, None].to(own[0].device))
    of_pool.append(end.constant(question.pool.expand(len(rows), -1))[:, None].to(of_pool[0]))
    return names, torch.cat(own, 1).cpu().numpy(), torch.cat(of_pool, 1).double().cpu().numpy()


def _of_model(model: Model, final: Tensor, question: _Question, rows: list[int]) -> np.ndarray:
    """For each row: the wanted number before the cap, the model's own after it, and whether the answer beats the distractor (or
    everything), [3, row]."""
    logits = model.lens(final).double()
    raw = logits
    if model.stack.softcap is not None:
        raw = model.stack.softcap * torch.atanh((logits / model.stack.softcap).clamp(-1 + 1e-12, 1 - 1e-12))
    right = question.right[rows].to(logits.device)[:, None]
    values = [x.gather(1, right)[:, 0] for x in (raw, logits)]
    best = logits.argmax(1) == right[:, 0]
    if question.wrong is not None:
        wrong = question.wrong[rows].to(logits.device)[:, None]
        values = [v - x.gather(1, wrong)[:, 0] for v, x in zip(values, (raw, logits), strict=True)]
        best = values[1] > 0
    return torch.stack([*values, best.double()]).cpu().numpy()


def _table(names: list[str], values: np.ndarray, null: np.ndarray, together: np.ndarray, seed: int) -> xr.Dataset:
    low, high = bootstrap_mean(values, together, seed=seed)
    score = values.mean(0)
    p = studentised_p(score, null)
    columns = {
        "score": score,
        "low": low,
        "high": high,
        "control": null.mean(0),
        "control_low": np.quantile(null, 0.025, axis=0),
        "control_high": np.quantile(null, 0.975, axis=0),
        "p": p,
        "q": q_values(p),
    }
    data = {name: ("component", column) for name, column in columns.items()}
    return xr.Dataset({**data, "each": (("row", "component"), values)}, coords={"component": names})
