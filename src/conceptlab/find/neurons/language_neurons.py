"""Which neurons fire for one language only? The entropy over languages of how often a neuron fires (LAPE), token by token.

p[k] is the share of tokens of language k at which the neuron fires (what enters the nonlinearity is above 0); with the p
normalised over languages, LAPE is their entropy; `score` is log(languages) - LAPE: 0 where a neuron fires alike everywhere,
log(languages) where it fires in one alone. A neuron counts where its largest p reaches the 95th percentile of all p (without
that, neurons that hardly ever fire win), its entropy is at most half of log(languages), and q <= 0.05; it is exclusive to a
language where no other language's p reaches that bar. Sources: Tang et al. 2024 (LAPE); How Programming Concepts and Neurons
Are Shared in Code Language Models (2025). Departure: a bound on the entropy in place of the lowest 1 %, which is 1 % also
where there is nothing.
Control: the same with texts dealt to languages at random. Cost: one forward of the texts, counts alone are kept.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import pooled_p, q_values
from conceptlab.find.detector import DRAWS
from conceptlab.model import Model
from conceptlab.results import Provenance, Scores, Site, Units
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "language neurons",
    "paper": "Tang et al. 2024, Language-Specific Neurons; How Programming Concepts and Neurons Are Shared in Code LMs (2025)",
    "tags": ["neurons", "languages"],
    "takes": "a model, texts by language",
    "returns": "Units",
    "cost": "one forward of the texts",
}
BAR, ENTROPY, Q, AT_ONCE = 0.95, 0.5, 0.05, 64


def language_neurons(
    model: Model,
    corpora: Mapping[str, Sequence[str]],
    *,
    bar: float = BAR,
    entropy: float = ENTROPY,
    n_random: int = DRAWS,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Units:
    """Axis unit: `score` (nats), `control` mean under shuffled texts, `p`, `q`, `lape`, `language` (the one with the largest
    p), `member`, `exclusive`; [unit, language]: `fires` (p). Attribute `bar` is the 95th percentile of all p.

    Raises InputError for fewer than two languages or texts, SiteError where no layer has neurons before a nonlinearity.
    """
    small = [name for name, texts in corpora.items() if len(texts) < 2]
    if len(corpora) < 2 or small:
        raise InputError(
            f"{len(corpora)} languages came, {len(small)} of them with fewer than two texts; give two or more, each with texts"
        )
    layers = list(model.layers_with("mlp_pre"))
    model.tap("mlp_pre", (layers or [0])[0])
    texts = [text for some in corpora.values() for text in some]
    of = np.array([k for k, some in enumerate(corpora.values()) for _ in some])
    rng, before = np.random.default_rng(seed), model.forwards
    dealt = np.stack([of, *(rng.permutation(of) for _ in range(n_random))])
    rates = _rates(model, texts, dealt, len(corpora), progress)  # [draw, language, layer, neuron]
    shape = rates.shape[2:]
    rates = rates.reshape(*rates.shape[:2], -1)
    lape, top = _entropy(rates), np.log(len(corpora))
    score, null = (top - lape)[0], (top - lape)[1:]
    p = pooled_p(score, null) if len(null) else np.full(len(score), np.nan)
    at = float(np.quantile(rates[0], bar))
    over, q = rates[0] >= at - 1e-9, q_values(p) if len(null) else p
    member = over.any(0) & (lape[0] <= entropy * top) & (q <= Q)
    layer, index = np.divmod(np.arange(len(score)), shape[1])
    columns = {
        "layer": np.array(layers)[layer], "index": index, "score": score, "p": p, "q": q, "lape": lape[0], "member": member,
        "control": null.mean(0) if len(null) else np.full(len(score), np.nan), "exclusive": member & (over.sum(0) == 1),
        "language": np.array(list(corpora))[rates[0].argmax(0)],
    }  # fmt: skip
    data = xr.Dataset(
        {name: ("unit", column) for name, column in columns.items()} | {"fires": (("unit", "of"), rates[0].T)},
        coords={"of": list(corpora)},
        attrs={"kind": "neuron", "bar": at},
    )
    settings = {"bar": bar, "entropy": entropy, "n_random": n_random, "languages": list(corpora)}
    provenance = Provenance(
        "language neurons", len(texts), seed, model.name, model.revision, settings=settings,
        passes=round(model.forwards - before),
    )  # fmt: skip
    return Units("neuron", Scores(data, provenance))


def exclusive_to(units: Units, language: str) -> list[Site]:
    """The neurons exclusive to a language, most specific first."""
    table = units.table
    mine = table["exclusive"].values & (table["language"].values == language)
    order = [i for i in np.argsort(-table["score"].values, kind="stable").tolist() if mine[i]]
    return [Site("mlp_post", int(table["layer"].values[i]), (int(table["index"].values[i]),)) for i in order]


@torch.no_grad()
def _rates(model: Model, texts: list[str], dealt: np.ndarray, n_languages: int, progress: Progress) -> np.ndarray:
    """Share of tokens at which each neuron fires, for every way of dealing texts to languages [draw, text]."""
    batch, total = model.encode(texts), None
    lengths = np.array(batch.lengths, dtype=float)
    with progress.task("texts", total=len(texts)) as task:
        for begin in range(0, len(texts), AT_ONCE):
            rows = list(range(begin, min(begin + AT_ONCE, len(texts))))
            found = model.capture(batch.select(rows), "mlp_pre", positions="all")
            fired = (found["mlp_pre"] > 0).float().cpu()
            counts = torch.zeros(len(rows), *fired.shape[1:]).index_add_(0, torch.from_numpy(found.row), fired)
            hot = torch.nn.functional.one_hot(torch.from_numpy(dealt[:, rows]), n_languages).double()
            part = torch.einsum("dtk,tln->dkln", hot, counts.double()).numpy()
            total = part if total is None else total + part
            task.advance(len(rows))
    if total is None:
        raise InputError("no texts came, so nothing fires; give texts by language")
    tokens = np.stack([[lengths[draw == k].sum() for k in range(n_languages)] for draw in dealt])
    return total / np.maximum(tokens, 1)[:, :, None, None]


def _entropy(rates: np.ndarray) -> np.ndarray:
    """LAPE [draw, neuron] of rates [draw, language, neuron]; the largest possible where a neuron never fires."""
    total = rates.sum(1, keepdims=True)
    share = np.where(total > 0, rates / np.maximum(total, 1e-30), 1 / rates.shape[1])
    return -(share * np.log(np.maximum(share, 1e-30))).sum(1)
