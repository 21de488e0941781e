"""How an answer that follows from the context is put together: rift, writers, movers, redundancy and horizon of the same prompts.

Source: Dutta et al. 2024, How to think step-by-step. Each part is its own method with its own control; here they meet on one set of
prompts and name heads alike. Movers are found by noising single heads with prompts of the same form about other things.
Cost: that of `rift`, `answer_writers`, `logit_lens`, `context_horizon`, `activation_patching` (heads, few rows) and `set_knockout`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conceptlab.data.derivations import Derivation
from conceptlab.measure.effects.set_knockout import set_knockout
from conceptlab.measure.lenses.answer_writers import answer_writers
from conceptlab.measure.lenses.logit_lens import logit_lens
from conceptlab.measure.lenses.rift import likeliest_after_last, rift
from conceptlab.measure.patching.activation_patching import activation_patching
from conceptlab.measure.patching.context_horizon import context_horizon
from conceptlab.model import Model
from conceptlab.model.answers import first_token_pairs
from conceptlab.model.metric import logit_diff
from conceptlab.results import Scores, Site

CARD = {
    "name": "answer pathways",
    "paper": "Dutta et al. 2024, How to think step-by-step",
    "tags": ["effects", "lens", "patching", "heads"],
    "takes": "a model, prompts with answers and prompts of equal length about other things",
    "returns": "Scores",
    "cost": "two sweeps over heads and layers, five forwards",
}
MOST = 8  # heads of one kind that are followed up


@dataclass(frozen=True, eq=False)
class Pathways:
    """`scores` by part; `place` of the rift on the layer axis (-1: none) and `overtakes`, that of the answer over the prior's word;
    `writers` and `movers` as (layer, head), the strongest first."""

    scores: dict[str, Scores]
    place: int
    overtakes: int
    writers: list[tuple[int, int]]
    movers: list[tuple[int, int]]
    n_layers: int


def answer_pathways(
    model: Model,
    rows: Sequence[Derivation],
    *,
    n_patched: int = 32,
    n_random: int = 40,
    kept: float = 0.9,
    seed: int = 0,
) -> Pathways:
    """Measure every part on `rows`; heads are patched on the first `n_patched` of them, and knocked out at the last position.

    Raises InputError as the parts do: answers that share their first token, prompts whose noise differs in length.
    """
    texts, noise = [r.prompt for r in rows], [r.noise for r in rows]
    batch, few = model.encode(texts), slice(0, n_patched)
    ids, _ = first_token_pairs(model, texts, [r.answer for r in rows], [r.noise_answer for r in rows])
    other, _ = first_token_pairs(model, noise, [r.noise_answer for r in rows], [r.answer for r in rows])
    context = batch.positions_of([(0, r.context_end) for r in rows])
    found = {"horizon": context_horizon(model, batch, noise, context, ids, other_answers=other, kept=kept, seed=seed)}
    found |= {"rift": rift(model, batch, seed=seed), "writers": answer_writers(model, batch, ids, seed=seed)}
    words = [[own, ranked[0]] for own, ranked in zip(ids, likeliest_after_last(model, batch), strict=True)]
    found["answer and prior"] = logit_lens(model, batch, words, target_names=("answer", "prior"), seed=seed)
    found["patching"] = activation_patching(
        model,
        batch.select(range(len(batch))[few]),
        noise[few],
        logit_diff(ids[few], other[few]),
        site="z",
        by="head",
        seed=seed,
    )
    writers = found_heads(found["writers"])
    movers = [head for head in found_heads(found["patching"]) if head not in writers]
    if len(writers) > 1:
        sites = {f"L{layer}.H{head}": Site("z", layer, (head,)) for layer, head in writers}
        sets = {**{name: [site] for name, site in sites.items()}, "all of them": list(sites.values())}
        found["knock-out"] = set_knockout(model, batch, sets, ids, positions="last", n_random=n_random, seed=seed)
    overtakes = _overtakes(found["answer and prior"]["target_logprob"].values.mean(1))
    return Pathways(found, int(found["rift"].data.attrs["rift"]), overtakes, writers, movers, model.n_layers)


def found_heads(scores: Scores) -> list[tuple[int, int]]:
    """(layer, head) with q <= 0.05 and a score above 0, the strongest first, at most eight."""
    score, q, layers = scores["score"].values, scores["q"].values, scores["layer"].values
    good = np.argwhere((q <= 0.05) & (score > 0))
    order = np.argsort([-score[i, h] for i, h in good], kind="stable")[:MOST]
    return [(int(layers[good[at][0]]), int(good[at][1])) for at in order]


def _overtakes(logp: np.ndarray) -> int:
    """The place from which on the answer is likelier than the prior's word, [layer, word]; -1 where it is not at the end."""
    behind = np.flatnonzero(logp[:, 0] <= logp[:, 1])
    after = int(behind[-1]) + 1 if len(behind) else 0
    return after if after < len(logp) else -1
