"""Which MLP neurons hold a fact? Integrated gradients of the answer over several wordings, less what other facts' prompts share.

Of each prompt: attributions to log P(answer) at the last position. A neuron passes a prompt where it reaches `least` of the largest
attribution over all layers, and belongs to the fact where it passes `share` of the fact's prompts and at most `shared` of the
prompts of other facts (negative prompts: what passes those stands for the wording or the relation). Source: Dai et al. 2022,
Knowledge Neurons (threshold 0.2, share 0.7). Departures: log probability, which does not vanish near 1; midpoint steps.
Control: the attribution on the other facts' prompts; `activation`, the plain baseline, ranks by activation and also takes neurons
that write nothing. Set effects (`measure.effects.set_effects`) decide whether the fact needs them.
Cost: a forward and about steps x layers / (2 x pos) forwards and backwards a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.measure.attribution.integrated_gradients import SITE, row_attributions
from conceptlab.model import Model
from conceptlab.model.answers import first_tokens
from conceptlab.model.metric import log_prob
from conceptlab.results import Provenance, Scores, Site
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "knowledge neurons",
    "paper": "Dai et al. 2022, Knowledge Neurons in Pretrained Transformers; Unveiling Factual Recall Behaviors (2024)",
    "tags": ["neurons", "attribution", "facts"],
    "takes": "a model, facts in several wordings with one-token answers",
    "returns": "Scores",
    "cost": "about steps x layers / (2 x pos) forwards and backwards a prompt",
}
LEAST, SHARE, SHARED, FEWEST = 0.2, 0.7, 0.3, 3


@dataclass(frozen=True)
class Fact:
    """`prompts` say the same in several wordings, each continued by `answer`."""

    name: str
    prompts: tuple[str, ...]
    answer: str


def knowledge_neurons(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    facts: Sequence[Fact],
    *,
    steps: int = 20,
    least: float = LEAST,
    share: float = SHARE,
    shared: float = SHARED,
    budget_bytes: int | None = None,
    progress: Progress = SILENT,
) -> Scores:
    """Axes (fact, layer, neuron): `score` mean attribution over the fact's prompts (nats), `control` the mean over other facts'
    prompts, `passes` and `passes_other` (shares of prompts), `member`, `activation` (mean size).

    Raises InputError for fewer than two facts, or a fact with fewer than three wordings; SiteError where the model has no neurons.
    """
    _check(facts)
    before = model.forwards
    prompts = [prompt for fact in facts for prompt in fact.prompts]
    of = np.array([i for i, fact in enumerate(facts) for _ in fact.prompts])
    metric = log_prob(first_tokens(model, prompts, [facts[i].answer for i in of.tolist()]))
    found = row_attributions(model, prompts, metric, steps=steps, budget_bytes=budget_bytes)
    progress.say(f"{len(prompts)} prompts of {len(facts)} facts attributed")
    layers = list(model.layers_with(SITE))
    fired = np.abs(model.capture(prompts, SITE)[SITE].float().cpu().numpy())
    largest = found.reshape(len(prompts), -1).max(1)[:, None, None]
    passed = (found >= least * largest) & (largest > 0)
    columns = {
        "score": _means(found, of), "control": _others(found, of), "passes": _means(passed, of),
        "passes_other": _others(passed, of), "activation": _means(fired, of),
    }  # fmt: skip
    columns["member"] = (columns["passes"] >= share) & (columns["passes_other"] <= shared)
    data = xr.Dataset(
        {name: (("fact", "layer", "neuron"), column) for name, column in columns.items()},
        coords={"fact": [fact.name for fact in facts], "layer": layers},
    )
    settings = {"steps": steps, "least": least, "share": share, "shared": shared, "metric": metric.name}
    provenance = Provenance(
        "knowledge neurons", len(prompts), 0, model.name, model.revision, settings=settings,
        passes=round(model.forwards - before), warnings=_alone(facts, columns["member"]),
    )  # fmt: skip
    return Scores(data, provenance)


def neurons_of(scores: Scores, fact: str, *, most: int | None = None, by: str = "member") -> list[Site]:
    """The neurons of a fact, those with the largest attribution above other facts' first; `by` "score" or "activation" ranks all
    neurons by that and takes the `most` largest."""
    at = scores.data.sel(fact=fact)
    value = (at["score"] - at["control"]).values if by != "activation" else at["activation"].values
    order = np.argsort(-value, axis=None, kind="stable")
    kept = at["member"].values.ravel()[order] if by == "member" else np.ones(len(order), dtype=bool)
    layer, neuron = np.unravel_index(order[kept][:most], value.shape)
    layers = at["layer"].values
    return [Site(SITE, int(layers[a]), (int(b),)) for a, b in zip(layer, neuron, strict=True)]


def _check(facts: Sequence[Fact]) -> None:
    if len(facts) < 2:
        raise InputError(f"{len(facts)} facts leave no others to compare with; give at least two")
    for fact in facts:
        if len(fact.prompts) < FEWEST:
            raise InputError(
                f"the fact {fact.name!r} has {len(fact.prompts)} wordings; give at least {FEWEST}, or the wording is the fact"
            )


def _means(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    return np.stack([values[of == i].mean(0) for i in range(of.max() + 1)])


def _others(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    sums = np.stack([values[of == i].sum(0, dtype=float) for i in range(of.max() + 1)])
    counts = np.bincount(of)[:, None, None]
    return (sums.sum(0) - sums) / (counts.sum() - counts)


def _alone(facts: Sequence[Fact], member: np.ndarray) -> tuple[str, ...]:
    without = [fact.name for fact, mine in zip(facts, member, strict=True) if not mine.any()]
    return (f"no neuron passes for {len(without)} of {len(facts)} facts: {', '.join(without[:5])}",) if without else ()
