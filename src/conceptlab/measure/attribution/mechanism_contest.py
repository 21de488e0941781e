"""A contest of two answers: how often each wins, where each rises in the lens, and which components write for either of them.

For prompts that say something else than what is known: the share of rows that the fact wins; the logit lens of both words by
layer and token role; direct logit attribution on logit(fact) - logit(counterfactual) at the last position, positive for the fact;
and the attention of every head from there to the words of one role. Source: Ortu et al. 2024, Competition of Mechanisms. Control:
random pairs of answers (attribution) and random words (lens), each as its own method has it. Cost: four forwards, and an
unembedding of every token and layer.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, q_values
from conceptlab.evidence.random_tokens import token_pool
from conceptlab.evidence.row_groups import row_groups
from conceptlab.evidence.sign_flips import sign_flip_p
from conceptlab.measure.attribution.direct_logit import direct_logit
from conceptlab.measure.lenses.lens_pass import lens_pieces, record_streams
from conceptlab.model import Model
from conceptlab.model.batch import Batch
from conceptlab.model.model import Texts
from conceptlab.model.spans import Spans, complete_spans
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "contest of mechanisms",
    "paper": "Ortu et al. 2024, Competition of Mechanisms",
    "tags": ["attribution", "lens", "heads"],
    "takes": "a model, texts, two answers, token roles",
    "returns": "Scores",
    "cost": "four forwards of the rows, a lens of every token",
}
WORDS = ("fact", "counterfactual")


def mechanism_contest(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    texts: Texts,
    facts: Sequence[int],
    counterfactuals: Sequence[int],
    roles: Mapping[str, Sequence[Sequence[int]]],
    *,
    looked_at: str = "attribute",
    groups: Sequence[int | str] | None = None,
    n_random: int = 1000,
    seed: int = 0,
) -> Scores:
    """`facts`, `counterfactuals` are token ids [row]; `roles` real-token positions of each row by name (what they leave is named
    `first token`, `rest`, `last token`); `looked_at` is the role whose attention is read.

    Axis component: `score low high control control_low control_high p q each` of `direct_logit`, and `attention` (NaN where a
    component is no head). Axes role, layer, word: `lens` (mean log-probability), `lens_control` (that of random words), `lens_q`;
    axes role, word: `rises`, the first place on the layer axis from which on q <= 0.05 (-1: none). Without axes: `win_rate` of
    the fact with `win_low`, `win_high`. Attribute `gap`: largest difference of a row's summed contributions to its own logit
    difference (NaN under a soft cap). `groups` [row] are rows that share content (one fact in several prompts). Raises InputError
    for ids or roles that do not fit, SiteError where the stream is no sum of components.
    """
    batch, before = model.encode(texts), model.forwards
    spans = complete_spans(batch, roles)
    if looked_at not in spans:
        raise InputError(f"no role is called {looked_at!r}; the roles are {', '.join(spans)}")
    together = row_groups(groups, len(batch))
    direct = direct_logit(model, batch, facts, counterfactuals, groups=groups, n_random=n_random, seed=seed)
    difference = _difference(model, batch, facts, counterfactuals)
    data = direct.data.assign(attention=("component", _attention(model, batch, spans[looked_at], direct.data)))
    data = data.merge(_lens_by_role(model, batch, np.stack([facts, counterfactuals], 1), spans, together, seed))
    wins = (difference > 0).astype(float)
    low, high = bootstrap_mean(wins, together, seed=seed)
    data = data.assign(win_rate=wins.mean(), win_low=low, win_high=high, difference=("row", difference))
    gap = np.abs(direct["each"].values.sum(1) - difference).max() if model.stack.softcap is None else np.nan
    data.attrs = {**direct.data.attrs, "gap": float(gap)}
    settings = {"roles": list(spans), "looked_at": looked_at, "n_random": n_random}
    provenance = Provenance(
        "contest of mechanisms", len(batch), seed, model.name, model.revision,
        settings=settings, passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data, provenance)


def heads_for_fact(contest: Scores, *, most: int = 2) -> list[str]:
    """Heads that look at the role and write for the fact (q <= 0.05), the strongest first, at most `most`."""
    data = contest.data
    found = (data["q"].values <= 0.05) & (data["score"].values > 0) & (data["attention"].values > 0)
    order = np.argsort(-data["score"].values, kind="stable")
    return [str(data["component"].values[i]) for i in order if found[i]][:most]


def _difference(model: Model, batch: Batch, facts: Sequence[int], counterfactuals: Sequence[int]) -> np.ndarray:
    """logit(fact) - logit(counterfactual) [row], as the model gives them."""
    logits, rows = model.logits(batch).double(), range(len(batch))
    return (logits[rows, list(facts)] - logits[rows, list(counterfactuals)]).detach().cpu().numpy()


def _attention(model: Model, batch: Batch, keys: Sequence[Sequence[int]], data: xr.Dataset) -> np.ndarray:
    """Mean attention [component] from the last position to the keys; NaN where there is no pattern to read."""
    layers = model.layers_with("pattern")
    found = np.full(data.sizes["component"], np.nan)
    if not layers:
        return found
    pattern = model.capture(batch, "pattern")["pattern"].double().cpu().numpy()  # [row, layer, head, key]
    mean = np.mean([pattern[row][..., list(own)].sum(-1) for row, own in enumerate(keys)], axis=0)
    names = {f"L{layer}.H{head}": mean[i, head] for i, layer in enumerate(layers) for head in range(mean.shape[1])}
    return np.array([names.get(str(name), np.nan) for name in data["component"].values])


def _lens_by_role(
    model: Model, batch: Batch, words: np.ndarray, spans: Spans, together: np.ndarray, seed: int
) -> xr.Dataset:
    """The lens of both words [row, word] at the tokens of each role, against the mean of random words at the same tokens.

    Rows of a group are one observation: their mean margin is what the signs are flipped of.
    """
    streams = record_streams(model, batch, "all")
    pool = torch.from_numpy(token_pool(words, model.unembedding.shape[0], seed=seed))
    asked = torch.from_numpy(words[streams.row])
    own = np.zeros((len(streams.labels), *words[streams.row].shape))
    other = np.zeros(own.shape[:2])
    for tokens, at, logp, _ in lens_pieces(model, streams):
        own[at, tokens] = logp.gather(1, asked[tokens].to(logp.device)).double().cpu().numpy()
        other[at, tokens] = logp[:, pool.to(logp.device)].double().mean(1).cpu().numpy()
    roles = {role: rows for role, rows in spans.items() if any(rows)}
    group = together[streams.row]
    lens, control, p = [], [], []
    for rows in roles.values():
        inside = np.array([pos in rows[row] for row, pos in zip(streams.row, streams.position, strict=True)])
        margin = _group_means((own - other[..., None])[:, inside], group[inside])
        lens.append(own[:, inside].mean(1))
        control.append(other[:, inside].mean(1))
        p.append(sign_flip_p(margin, seed=seed))
    q = q_values(np.ravel(p)).reshape(np.shape(p))  # [role, layer, word]
    stays = np.flip(np.logical_and.accumulate(np.flip(q <= 0.05, 1), 1), 1)
    by = ("role", "layer", "word")
    data = {"lens": (by, np.stack(lens)), "lens_control": (by[:2], np.stack(control)), "lens_q": (by, q)}
    rises = (("role", "word"), np.where(stays.any(1), stays.argmax(1), -1))
    coords = {"layer": list(streams.labels), "role": list(roles), "word": list(WORDS)}
    return xr.Dataset({**data, "rises": rises}, coords=coords)


def _group_means(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Means [group, layer, word] of `values` [layer, token, word]."""
    return np.stack([values[:, group == one].mean(1) for one in np.unique(group)])
