"""One step of a listing under the lenses: what attention brings from subject and earlier answers, and what changes without it.

Joins Token Lens and the knock-out read at MLP outputs on the texts of one step (`listing.py`), and reads off each row's numbers.
Source: Yan and Jia 2025, Promote, Suppress, Iterate. Control: as many random positions that hold neither subject nor answers for
Token Lens, as many random other positions for the knock-out.
Cost: one forward with patterns, and 1 + 2 (1 + n_random) forwards of the step's rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from conceptlab.errors import DataError
from conceptlab.measure.lenses.listing import Step, repeated
from conceptlab.measure.lenses.mlp_response import mlp_response
from conceptlab.measure.lenses.token_lens import token_lens
from conceptlab.model import Model
from conceptlab.results import Scores

SUBJECT, SAID, RANDOM = "subject", "answers so far", "random tokens"
TOP = 3


@dataclass(frozen=True, eq=False)
class StepReading:
    """Numbers of each row [row].

    Of Token Lens summed over layers: `top` and `top_random`, whether the three likeliest tokens of the subject (of random tokens)
    all begin answers; `pushed`, `pushed_random`, the mean centred logit of answers so far, from their own tokens (from random
    ones). `repeats` is as it is, `repeats_knocked`, `repeats_random` without attention. `mlp_left` and `mlp_said` are the MLPs'
    effects of the subject on the answers left and of the answers so far on themselves, `..._random` those of random tokens.
    """

    groups: np.ndarray
    top: np.ndarray
    top_random: np.ndarray
    pushed: np.ndarray
    pushed_random: np.ndarray
    repeats: np.ndarray
    repeats_knocked: np.ndarray
    repeats_random: np.ndarray
    mlp_left: np.ndarray
    mlp_said: np.ndarray
    mlp_left_random: float
    mlp_said_random: float
    token: Scores
    response: Scores


def read_step(model: Model, step: Step, groups: Sequence[str], *, n_random: int = 5, seed: int = 0) -> StepReading:
    """Read a step that has answers so far; `groups` [row] are rows that share content (one subject).

    Raises DataError where a prompt is too short to hold other tokens.
    """
    targets = torch.cat([step.said_ids, step.left_ids], 1)
    n_said, n_left = step.said_ids.shape[1], step.left_ids.shape[1]
    names = [*(f"said {i + 1}" for i in range(n_said)), *(f"left {i + 1}" for i in range(n_left))]
    spans = {SUBJECT: step.subject, SAID: step.said_at}
    given = {"target_names": names, "groups": groups, "seed": seed}
    random = {RANDOM: _others(step, seed)}
    token = token_lens(model, step.batch, {**spans, **random}, targets, n_random=10 * n_random, **given)
    response = mlp_response(model, step.batch, spans, targets, n_random=n_random, **given)
    in_top = (token["total_rank"].values <= TOP).sum(-1) >= min(TOP, n_said + n_left)
    place = {str(name): i for i, name in enumerate(token["span"].values)}
    pushed = np.nanmean(token["total"].values[..., :n_said], -1)
    mlp = response["each"].sel(kind="mlp").sum("layer", skipna=True).values
    chance = response["control"].sel(kind="mlp").sum("layer", skipna=True).values
    known = (targets.numpy() >= 0)[:, n_said:]
    clean = model.logits(step.batch).argmax(-1).cpu().numpy()
    knocked = response["predicted"].sel(span=SAID).values
    randomly = response["predicted_control"].sel(span=SAID).values
    return StepReading(
        groups=np.asarray(groups),
        top=in_top[:, place[SUBJECT]],
        top_random=in_top[:, place[RANDOM]],
        pushed=pushed[:, place[SAID]],
        pushed_random=pushed[:, place[RANDOM]],
        repeats=repeated(clean, step.said_ids),
        repeats_knocked=repeated(knocked, step.said_ids),
        repeats_random=repeated(randomly, step.said_ids).mean(1),
        mlp_left=np.where(known, mlp[:, 0, n_said:], 0.0).sum(-1) / known.sum(-1),
        mlp_said=mlp[:, 1, :n_said].mean(-1),
        mlp_left_random=float(np.nanmean(chance[0, n_said:])),
        mlp_said_random=float(np.nanmean(chance[1, :n_said])),
        token=token,
        response=response,
    )


def _others(step: Step, seed: int) -> list[list[int]]:
    """As many random positions as the answers so far have, in no span, neither the first nor the last token."""
    rng, drawn = np.random.default_rng(seed), []
    for text, length, subject, said in zip(step.texts, step.batch.lengths, step.subject, step.said_at, strict=True):
        free = sorted(set(range(1, length - 1)) - set(subject) - set(said))
        if not free:
            raise DataError(
                f"the prompt {text[:60]!r} has no words beside subject and answers to compare with; make it longer"
            )
        drawn.append(sorted(rng.choice(free, size=min(len(said), len(free)), replace=False).tolist()))
    return drawn
