"""What does a gated neuron do to the direction that it detects: write more of it, take it away, or write something else?

From weights alone. With g and u what the gate and the up projection read (the norm's gain folded in) and w what is written:
c1 = cos(u, w), c2 = cos(g, w), c3 = cos(g, u). A neuron with c3 < 0 is read with u and w turned round, which leaves its function as
it is. Classes from c1 and |c2| at a threshold: enrichment (1, 1), conditional enrichment (1, 0), proportional change (0, 1),
orthogonal output (0, 0), conditional depletion (-1, 0), depletion (-1, 1); `atypical` where c3 does not fit the other two.
Controls: the same neurons with what they write dealt to others of their layer (mismatched), and the law of random directions.
Source: Understanding Gated Neurons in Transformers from Their Input-Output Functionality (2025), threshold 0.5. Departure: in
narrow models a random direction reaches 0.5, so the threshold is at least what one of all cosines reaches with probability 5 %.
Cost: no forward; (3 + n_random) x neurons x d_model multiplications.
"""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import q_values
from conceptlab.evidence.isotropic import largest_cosine_at
from conceptlab.find.detector import DRAWS, Detector, Scored
from conceptlab.find.neurons.survey import NeuronSurvey
from conceptlab.model import Model
from conceptlab.model.neuron_weights import NeuronWeights, need_gates
from conceptlab.results import Provenance, Scores, Site, Units

CARD = {
    "name": "gated neurons",
    "paper": "Understanding Gated Neurons in Transformers from Their Input-Output Functionality (2025)",
    "tags": ["neurons", "weights"],
    "takes": "a model with gated MLPs",
    "returns": "Units",
    "cost": "no model passes",
}
CLASSES = (
    "enrichment", "conditional enrichment", "proportional change", "orthogonal output", "conditional depletion", "depletion",
)  # fmt: skip
THRESHOLD, BY_CHANCE = 0.5, 0.05


def gated_neurons(
    model: Model, *, fold: bool = True, threshold: float = THRESHOLD, n_random: int = DRAWS, seed: int = 0
) -> Units:
    """Every gated neuron's cosines and class.

    Axis unit: `score` c1, `gate_out` c2, `gate_up` c3 (after turning), `class`, `atypical`, `control` (mean |c1| when mismatched),
    `p` that a mismatched |c1| of the layer is as large, `q`. [layer, class]: `counts` and `counts_mismatched` (mean over draws).
    Attribute `threshold` is the one that was used. Raises SiteError for a model without gates, InputError for a threshold outside
    (0, 1).
    """
    if not 0 < threshold < 1:
        raise InputError(f"threshold={threshold:g} is no cosine between 0 and 1; the paper uses {THRESHOLD:g}")
    survey = NeuronSurvey(model, seed=seed, fold=fold)
    layers = gated_layers(survey)
    n = sum(len(w.out) for w in layers)
    at = max(threshold, float(largest_cosine_at(np.array(BY_CHANCE), 3 * n, model.d_model)))
    generator = torch.Generator().manual_seed(seed)
    parts = [_layer(w, at, n_random, generator) for w in layers]
    columns = {
        name: np.concatenate([part[name] for part in parts]) for name in parts[0] if not name.startswith("counts")
    }
    columns |= {"q": q_values(columns["p"])}
    data = xr.Dataset(
        {name: ("unit", column) for name, column in columns.items()}
        | {name: (("layer_", "class_"), np.stack([part[name] for part in parts])) for name in ("counts", "counts_mismatched")},
        coords={"layer_": [w.layer for w in layers], "class_": list(CLASSES)},
        attrs={"kind": "neuron", "threshold": at},
    )  # fmt: skip
    settings = {"fold": fold, "threshold": at, "n_random": n_random}
    provenance = Provenance("gated neurons", n, seed, model.name, model.revision, settings=settings, passes=1)
    return Units("neuron", Scores(data, provenance))


def members(units: Units, name: str) -> list[Site]:
    """The neurons of a class. Raises InputError for an unknown one."""
    if name not in CLASSES:
        raise InputError(f"no class is called {name!r}; the classes are {', '.join(CLASSES)}")
    table = units.table
    mine = np.flatnonzero(table["class"].values == name)
    return [Site("mlp_post", int(table["layer"].values[i]), (int(table["index"].values[i]),)) for i in mine]


def gated_layers(survey: NeuronSurvey) -> list[NeuronWeights]:
    """The layers whose MLP has gates. Raises SiteError where there are none."""
    need_gates(survey.model)
    return [w for w in survey.weights if w.gate is not None]


def cosines(weights: NeuronWeights) -> Tensor:
    """c1, c2, c3 [neuron, 3], turned so that c3 is not negative."""
    gate, up, out = _unit(weights.reads("gate")), _unit(weights.reads("up")), _unit(weights.out)
    c3 = (gate * up).sum(1)
    sign = torch.where(c3 < 0, -1.0, 1.0)
    return torch.stack([(up * out).sum(1), (gate * out).sum(1) * sign, c3 * sign], 1)


def mismatched(weights: NeuronWeights, n: int, generator: torch.Generator) -> Tensor:
    """The same [draw, neuron, 3] where every neuron is given what another of its layer writes."""
    gate, up, out = _unit(weights.reads("gate")), _unit(weights.reads("up")), _unit(weights.out)
    c3 = (gate * up).sum(1)
    sign = torch.where(c3 < 0, -1.0, 1.0)
    drawn = []
    for _ in range(n):
        shift = int(torch.randint(1, max(2, len(out)), (), generator=generator))
        order = torch.randperm(len(out), generator=generator).to(out.device)
        other = torch.empty_like(order)
        other[order] = order.roll(shift)
        theirs = out[other]
        drawn.append(torch.stack([(up * theirs).sum(1), (gate * theirs).sum(1) * sign, c3 * sign], 1))
    return torch.stack(drawn)


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.double(), dim=1)


def _classes(found: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Class number and whether it is atypical, of cosines [..., 3]."""
    rough = np.sign(found) * (np.abs(found) >= threshold)
    c1, c2, c3 = (rough[..., i].astype(int) for i in range(3))
    second = np.abs(c2)
    number = np.where(c1 > 0, 1 - second, np.where(c1 < 0, 4 + second, 3 - second))
    return number, (c3 != c1 * c2) & ((c1 != 0) | (c2 != 0))


def _layer(
    weights: NeuronWeights, threshold: float, n_random: int, generator: torch.Generator
) -> dict[str, np.ndarray]:
    found = cosines(weights).cpu().numpy()
    null = mismatched(weights, n_random, generator).cpu().numpy()
    number, atypical = _classes(found, threshold)
    by_chance, _ = _classes(null, threshold)
    pool = np.sort(np.abs(null[..., 0]).ravel())
    above = len(pool) - np.searchsorted(pool, np.abs(found[:, 0]) - 1e-12, side="left")
    every = np.arange(len(CLASSES))
    return {
        "layer": np.full(len(found), weights.layer), "index": np.arange(len(found)), "score": found[:, 0],
        "gate_out": found[:, 1], "gate_up": found[:, 2], "class": np.array(CLASSES)[number], "atypical": atypical,
        "control": np.full(len(found), pool.mean()), "p": (1 + above) / (1 + len(pool)),
        "counts": (number[:, None] == every).sum(0), "counts_mismatched": (by_chance[..., None] == every).sum(1).mean(0),
    }  # fmt: skip


def _scored(survey: NeuronSurvey, sign: int) -> Scored:
    """Signed c1 [layer, neuron] beside mismatched neurons."""
    layers, model = gated_layers(survey), survey.model
    generator = torch.Generator().manual_seed(survey.seed)
    score = np.full((model.n_layers, model.d_mlp), np.nan)
    null = np.full((DRAWS, model.n_layers, model.d_mlp), np.nan)
    for weights in layers:
        size = len(weights.out)
        score[weights.layer, :size] = sign * cosines(weights)[:, 0].cpu().numpy()
        null[:, weights.layer, :size] = sign * mismatched(weights, DRAWS, generator)[..., 0].cpu().numpy()
    return Scored(score, null, int(np.isfinite(score).sum()), {"sign": sign})


def enrichment(survey: NeuronSurvey) -> Scored:
    """How much of what a neuron reads it writes again, [layer, neuron]. Raises SiteError without gates."""
    return _scored(survey, 1)


def depletion(survey: NeuronSurvey) -> Scored:
    """How much of what a neuron reads it takes away, [layer, neuron]. Raises SiteError without gates."""
    return _scored(survey, -1)


DETECTOR = Detector("enrichment", "writes more of what it reads", enrichment)
DEPLETION = Detector("depletion", "takes away what it reads", depletion)
