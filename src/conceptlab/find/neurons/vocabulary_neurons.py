"""Which word does a neuron point at? Every neuron's vector through the unembedding, without data and without a forward.

`out` is what it writes (the final norm's gain folded in), `up` and `gate` what it reads (the gain of the norm before the MLP).
Both signs count. The best token is the one with the largest logit of the vector or of its negative; score is the cosine with its
row, which unlike a probability after softmax does not grow with the vector's length. Control: a direction that points anywhere
(`evidence.isotropic`: exact bound over all tokens and both signs, so also where one neuron stands among half a million), and
`drawn`, random directions through the same map. Source: Decoding specialised feature neurons in LLMs with the final projection
layer (2025), which reads rows of the up projection. Departures: the paper's softmax and its threshold by outliers; the gain's
folding is a choice (`fold`). With tied embeddings a neuron that detects a token also decodes to it.
Cost: neurons x vocabulary x d_model multiplications, streamed in blocks of `budget_bytes`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import q_values
from conceptlab.evidence.isotropic import largest_cosine_at, largest_cosine_draws, largest_cosine_p
from conceptlab.find.detector import DRAWS, Detector, Scored
from conceptlab.find.neurons.survey import NeuronSurvey
from conceptlab.model import Model
from conceptlab.model.neuron_weights import Gain, need_gates
from conceptlab.numerics.top_of_product import BUDGET, top_of_product
from conceptlab.results import Provenance, Scores, Units

CARD = {
    "name": "vocabulary neurons",
    "paper": "Decoding specialised feature neurons in LLMs with the final projection layer (2025)",
    "tags": ["neurons", "logits", "weights"],
    "takes": "a model",
    "returns": "Units",
    "cost": "no model passes; neurons x vocabulary x d_model multiplications",
}
Vector = Literal["out", "up", "gate"]


def vocabulary_neurons(
    model: Model,
    vector: Vector = "out",
    *,
    fold: bool = True,
    k: int = 10,
    n_random: int = 1000,
    budget_bytes: int = BUDGET,
    seed: int = 0,
) -> Units:
    """Every neuron's `k` tokens at either end.

    Axis unit: `score` cosine with its best token, `token` (its id), `text`, `sign` (1, or -1 where the negative of the vector
    points there), `logit` (of that token), `margin` (to the next), `control` (median of the largest cosine of a random
    direction), `p`, `q`. [unit, end, rank]: `ids` and `logits`, end "+" and "-". [draw]: `drawn`, scores of `n_random` random
    directions. Raises SiteError for a model without neurons, gates (where asked) or unembedding; InputError for an unknown vector.
    """
    survey = NeuronSurvey(model, seed=seed, fold=fold, budget_bytes=budget_bytes)
    asked = pointers(survey, vector)
    found = _joined([_decoded(survey, one, k) for one in asked], k)
    drawn = _drawn(survey, asked, n_random, seed)
    n_tokens, d = len(survey.vocabulary.ids), model.d_model
    p = largest_cosine_p(found.score, n_tokens, d)
    layer = np.concatenate([np.full(len(one.raw), one.layer) for one in asked])
    index = np.concatenate([np.arange(len(one.raw)) for one in asked])
    columns = {
        "layer": layer, "index": index, "score": found.score, "token": found.token, "text": texts_of(model, found.token),
        "sign": found.sign, "logit": found.logit, "margin": found.margin, "p": p, "q": q_values(p),
        "control": np.full(len(p), float(largest_cosine_at(np.array(0.5), n_tokens, d))),
    }  # fmt: skip
    ends = ("unit", "end", "rank")
    data = xr.Dataset(
        {name: ("unit", column) for name, column in columns.items()}
        | {"ids": (ends, found.ids), "logits": (ends, found.logits), "drawn": ("draw", drawn)},
        coords={"end": ["+", "-"]},
        attrs={"kind": "neuron"},
    )
    settings = {"vector": vector, "fold": fold, "k": k, "vocabulary": survey.vocabulary.to_record()}
    provenance = Provenance(
        "vocabulary neurons", n_tokens, seed, model.name, model.revision, settings=settings, passes=1,
        warnings=survey.warnings,
    )  # fmt: skip
    return Units("neuron", Scores(data, provenance))


def neurons_by_token(units: Units, *, q_max: float = 0.05) -> Mapping[str, list[tuple[int, int, int]]]:
    """The index the other way: by token text, (layer, neuron, sign) of every neuron that points at it with q <= `q_max`, best
    first."""
    table, found = units.table, {}
    for i in np.argsort(-table["score"].values, kind="stable").tolist():
        if table["q"].values[i] <= q_max:
            place = (int(table["layer"].values[i]), int(table["index"].values[i]), int(table["sign"].values[i]))
            found.setdefault(str(table["text"].values[i]), []).append(place)
    return found


@dataclass(frozen=True, eq=False)
class _Pointers:
    """Vectors `raw` [unit, d_model] of one layer as the weights hold them, and the norm between them and the unembedding: after
    them where they are written (`out`), before them where they are read."""

    layer: int
    raw: Tensor
    norm: Gain
    written: bool

    @property
    def folded(self) -> Tensor:
        """What meets the unembedding."""
        return self.norm.of(self.raw) if self.written else self.norm.back(self.raw)

    def lengths(self, rows: Tensor) -> Tensor:
        """Lengths of rows of the unembedding [..., d_model] as the raw vectors see them."""
        return (self.norm.back(rows) if self.written else self.norm.of(rows)).norm(dim=-1)


def pointers(survey: NeuronSurvey, vector: Vector) -> list[_Pointers]:
    """That vector of all neurons, by layer. Raises InputError for an unknown vector, SiteError where gates are missing."""
    if vector not in ("out", "up", "gate"):
        raise InputError(f"a neuron has no vector {vector!r}; use out, up or gate")
    if vector == "gate":
        need_gates(survey.model)
    rows = [(w, getattr(w, vector)) for w in survey.weights]
    norm = survey.end if vector == "out" else None
    return [_Pointers(w.layer, raw, norm or w.norm, vector == "out") for w, raw in rows if raw is not None]


@dataclass(frozen=True, eq=False)
class _Decoded:
    """Of every vector: `score`, `token`, `sign`, `logit`, `margin` [unit], and both ends' `ids` and `logits` [unit, 2, k]."""

    score: np.ndarray
    token: np.ndarray
    sign: np.ndarray
    logit: np.ndarray
    margin: np.ndarray
    ids: np.ndarray
    logits: np.ndarray


@torch.no_grad()
def _decoded(survey: NeuronSurvey, pointing: _Pointers, k: int) -> _Decoded:
    ends = top_of_product(pointing.folded, survey.unembedding, max(2, k), budget_bytes=survey.budget_bytes)
    logits = torch.stack([ends.top, -ends.low], 1)  # [unit, end, rank]
    ids = torch.stack([ends.top_ids, ends.low_ids], 1)
    best = ids[..., 0]
    lengths = torch.cat([pointing.lengths(survey.unembedding[part].float()) for part in best.split(4096)])
    cosine = logits[..., 0] / (pointing.raw.norm(dim=1, keepdim=True) * lengths).clamp_min(1e-30)
    end, here = cosine.argmax(1), torch.arange(len(best), device=best.device)
    kept, chosen = survey.vocabulary.ids[ids], logits[here, end]
    margin = chosen[:, 0] - chosen[:, -1 if chosen.shape[1] < 2 else 1]
    sign = torch.tensor([1.0, -1.0], device=logits.device)[:, None]
    values = (cosine[here, end], kept[here, end, 0], 1 - 2 * end, chosen[:, 0], margin, kept, logits * sign)
    return _Decoded(*(v.cpu().numpy() for v in values))


def _joined(parts: list[_Decoded], k: int) -> _Decoded:
    found = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(_Decoded)}
    return _Decoded(**{**found, "ids": found["ids"][..., :k], "logits": found["logits"][..., :k]})


def _drawn(survey: NeuronSurvey, asked: list[_Pointers], n: int, seed: int) -> np.ndarray:
    """Scores [draw] of random directions as the weights would hold them, shared out over the layers' norms."""
    generator, parts = torch.Generator().manual_seed(seed), []
    for number, one in enumerate(asked):
        size = len(range(number, n, len(asked)))
        rows = torch.randn(size, one.raw.shape[1], generator=generator).to(one.raw)
        parts.append(_decoded(survey, replace(one, raw=rows), 1).score)
    return np.concatenate(parts)


def texts_of(model: Model, ids: np.ndarray) -> np.ndarray:
    """What the tokens say; their numbers where there is no tokenizer."""
    distinct, back = np.unique(ids, return_inverse=True)
    said = [str(i) if model.tokenizer is None else model.tokenizer.decode([int(i)]) for i in distinct]
    return np.array(said, dtype=str)[back]


def vocabulary(survey: NeuronSurvey) -> Scored:
    """Cosine [layer, neuron] of what a neuron writes with its best token. Raises as `vocabulary_neurons`."""
    score = np.full((survey.model.n_layers, survey.model.d_mlp), np.nan)
    for one in pointers(survey, "out"):
        score[one.layer, : len(one.raw)] = _decoded(survey, one, 1).score
    n_tokens = len(survey.vocabulary.ids)
    null = largest_cosine_draws((DRAWS, *score.shape), n_tokens, survey.model.d_model)
    return Scored(
        score, null, n_tokens, {"vector": "out", "vocabulary": survey.vocabulary.to_record()}, survey.warnings
    )


DETECTOR = Detector("vocabulary", "writes towards one word", vocabulary)
