"""Which heads tell the name movers not to look at the repeated name? What each head's output at the last token does, through the
movers' queries alone, to their attention: log-odds of the answer's place over the places of the repeated name.

Path patching from the head to the movers' queries, read where it arrives and to first order: the gradient of the log-odds with
respect to the stream that enters the movers' block, keys held, times what the head adds beyond its mean over the prompts. Movers
are the (at most three) best heads of the name movers' ranking with q <= 0.05; heads that come after all of them are not searched.
Control: the movers' keys taken from other prompts of the same length, so that the head's output speaks of other names. Source: Wang
et al. 2023. Departure: the paper patches and reads the logits (`path_patching` does that). Cost: two forwards of the prompts and a
backward through one attention for each mover.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conceptlab.errors import InputError
from conceptlab.evidence import pooled_p, q_values
from conceptlab.find.detector import Detector, Scored
from conceptlab.find.heads.name_mover_heads import name_mover
from conceptlab.find.heads.naming import Naming, derangement
from conceptlab.find.heads.survey import HeadSurvey
from conceptlab.model.attention import AttentionCall, handle_attention
from conceptlab.model.blocks import CleanRun, record_run
from conceptlab.model.instrument import StopForward

CARD = {
    "name": "S-inhibition heads",
    "paper": "Wang et al. 2023, Interpretability in the Wild",
    "tags": ["heads", "attention", "composition"],
    "takes": "a model",
    "returns": "Units",
    "cost": "two forwards of the prompts with names and one backward a mover",
}
MOST_MOVERS = 3


def s_inhibition(survey: HeadSurvey) -> Scored:
    """Log-odds [layer, head] that the movers look at the answer over the repeated name, mean over prompts and movers.

    Raises InputError where no head moves names.
    """
    naming, movers = survey.naming, movers_of(survey)
    rng = np.random.default_rng(survey.seed)
    score, null = np.zeros(()), np.zeros(())
    for rows in _of_one_length(naming):
        between = _between_prompts(naming, rows, movers)  # [row, other row, layer, head]
        here = np.arange(len(rows))
        score = score + between[here, here].sum(0)
        null = null + np.stack([between[here, derangement(len(rows), rng)].sum(0) for _ in range(survey.n_draws)])
    after = np.arange(naming.model.n_layers) >= max(layer for layer, _ in movers)
    score[after] = np.nan
    settings = {"movers": [f"L{layer}.H{head}" for layer, head in movers], "unit": "log-odds of attention"}
    return Scored(score / len(naming.batch), null / len(naming.batch), len(naming.batch), settings)


def movers_of(survey: HeadSurvey) -> list[tuple[int, int]]:
    """The best name movers (layer, head) of this model. Raises InputError where there are none."""
    scored = name_mover(survey)
    flat = scored.score.reshape(-1)
    there = np.flatnonzero(np.isfinite(flat))
    q = q_values(pooled_p(flat[there] - scored.floor, scored.null.reshape(len(scored.null), -1)[:, there]))
    found = sorted(there[q <= 0.05].tolist(), key=lambda i: -flat[i])[:MOST_MOVERS]
    if not found:
        raise InputError(
            f"no head of {survey.model.name} moves names (q <= 0.05), so none can tell another where not to look"
        )
    return [divmod(i, survey.model.n_heads) for i in found]


def _of_one_length(naming: Naming) -> list[list[int]]:
    """Rows by length, those lengths that have several."""
    lengths = np.array(naming.batch.lengths)
    groups = [np.flatnonzero(lengths == n).tolist() for n in np.unique(lengths)]
    return [rows for rows in groups if len(rows) > 1]


def _between_prompts(naming: Naming, rows: list[int], movers: list[tuple[int, int]]) -> np.ndarray:
    """What the output of each head in one prompt does to the movers' attention in another [row, other, layer, head]."""
    model, batch = naming.model, naming.batch.select(rows)
    found = np.zeros((len(rows), len(rows), model.n_layers, model.n_heads))
    run = record_run(model, batch)
    places = torch.from_numpy(naming.places[rows])
    directions = {layer: torch.zeros(len(rows), model.d_model) for layer, _ in movers}
    for layer, head in movers:
        directions[layer] += _direction(run, layer, head, places) / len(movers)
    part = Naming(model, batch, naming.answer[rows], naming.repeated[rows], naming.places[rows], naming.names)
    written: dict[int, list[Tensor]] = {}
    for _, layer, outputs, _ in part.outputs():
        written.setdefault(layer, []).append(outputs)
    for layer, chunks in written.items():
        each = torch.cat(chunks)
        reached = [directions[at] for at in directions if at > layer]
        if reached:
            own = each - each.mean(0)
            found[:, :, layer] = torch.einsum("rhd,od->roh", own, sum(reached).to(own)).double().cpu().numpy()  # type: ignore[union-attr]
    return found


def _direction(run: CleanRun, layer: int, head: int, places: Tensor) -> Tensor:
    """Gradient [row, d_model] of the head's log-odds of the answer over the repeated name, in the stream at the last token."""
    calls: list[AttentionCall] = []

    def handler(_module: nn.Module, call: AttentionCall, _delegate: Callable[..., Any]) -> Any:
        calls.append(call)
        raise StopForward

    stream = run.streams[layer].detach().clone().requires_grad_()
    with handle_attention(run.model.runner, handler), torch.enable_grad():
        with suppress(StopForward):
            run.block(layer, stream)
        q = calls[0].q[:, head, -1]
        kv_head = head * calls[0].k.shape[1] // calls[0].q.shape[1]
        k = calls[0].k[:, kv_head].detach()
        scaling = calls[0].kwargs.get("scaling") or q.shape[-1] ** -0.5
        looked = k[torch.arange(len(k))[:, None], places.to(k.device)]  # [row, 3, d_head]
        odds = (q * (looked[:, 0] - looked[:, 1:].mean(1))).sum() * scaling
        grad = torch.autograd.grad(odds, stream)[0]
    return grad[:, -1].float()


DETECTOR = Detector(
    "s-inhibition",
    "turns the name movers away from the repeated name",
    s_inhibition,
    "latent reasoning",
    HeadSurvey.naming_task,
)
