"""An atlas with plausible numbers and no model behind it: ten concepts, one not found, nine layers of stream."""

import numpy as np
import torch
import xarray as xr

from conceptlab.atlas.atlas import Atlas, ConceptMap
from conceptlab.results import Provenance, Scores, Site, Subspace, Units

LAYERS = ("embed", *(str(i) for i in range(8)))
N_HEADS, D_MODEL, D_MLP = 8, 24, 43  # 8 layers x 43 = 344 neurons
NAMES = ("animal", "sentiment", "number_parity", "truth", "past_tense", "plural", "second_hop", "weekday_order",
         "speaker_is_child", "random_labels")  # fmt: skip
INTERVENTIONS = ("ablate direction", "add direction", "ablate top heads", "ablate top neurons")
READOUTS = ("KL to the unchanged next-token distribution, nats", "shift of the last layer's readout, sd")


def provenance(method: str, **more) -> Provenance:
    given = {"n": 400, "seed": 0, "model": "conceptlab/tiny-world", "revision": "3f2a9c81", "data_hash": "a1b2" * 16}
    return Provenance(method=method, **{**given, **more})


def depth_scores(rng: np.random.Generator, *, middle: float, top: float) -> Scores:
    x = np.arange(len(LAYERS))
    score = 0.5 + (top - 0.5) / (1 + np.exp(-1.6 * (x - middle))) + rng.normal(0, 0.006, len(x))
    control = np.full(len(x), 0.5) + rng.normal(0, 0.004, len(x))
    columns = {
        "score": score, "low": score - 0.03, "high": np.minimum(score + 0.025, 1.0), "control": control,
        "control_low": control - 0.04, "control_high": control + 0.05,
        "control_task": 0.5 + (score - 0.5) * 0.25, "selectivity": (score - 0.5) * 0.75,
        "compression": 1 + 3 * (score - 0.5), "noised": 0.5 + (score - 0.5) * 0.8, "quantised": score - 0.004,
    }  # fmt: skip
    data = xr.Dataset({k: ("layer", v) for k, v in columns.items()}, coords={"layer": list(LAYERS)})
    return Scores(data, provenance("depth"))


def units(rng: np.random.Generator, kind: str, per_layer: int, *, strong: list[tuple[int, int]]) -> Units:
    layer, index = (a.ravel() for a in np.mgrid[: len(LAYERS) - 1, :per_layer])
    score = 0.5 + np.abs(rng.normal(0, 0.02, layer.size))
    for i, (at, unit) in enumerate(strong):
        score[(layer == at) & (index == unit)] = 0.93 - 0.05 * i
    p = np.where(score > 0.6, 0.001, np.clip(1.2 - (score - 0.5) * 12, 0.02, 1))
    q = np.where(score > 0.6, 0.012, np.clip(p * 2, 0.3, 1))
    control = np.full(layer.size, 0.515)
    return Units.from_arrays(
        kind, layer=layer, index=index, score=score, control=control, p=p, q=q, provenance=provenance(f"{kind}s")
    )


def effect_scores(rng: np.random.Generator, *, size: float) -> Scores:
    shape = (len(INTERVENTIONS), len(READOUTS))
    score = size * np.array([[1.0, 1.8], [1.4, 2.4], [0.55, 0.9], [0.3, 0.5]]) + rng.normal(0, 0.004, shape)
    control = np.full(shape, 0.02) + rng.random(shape) * 0.01
    columns = {
        "score": score, "low": score * 0.85, "high": score * 1.15, "control": control,
        "control_high": control * 2.2, "p": np.where(score > control * 2.2, 1 / 101, 0.4),
    }  # fmt: skip
    data = xr.Dataset(
        {k: (("intervention", "readout"), v) for k, v in columns.items()},
        coords={"intervention": list(INTERVENTIONS), "readout": list(READOUTS)},
    )
    return Scores(data, provenance("effects", causal="ablation", passes=2400))


def direction(rng: np.random.Generator, name: str) -> Subspace:
    basis = torch.linalg.qr(torch.tensor(rng.normal(size=(D_MODEL, 1)), dtype=torch.float32)).Q.T
    return Subspace(
        basis=basis, mean=torch.zeros(D_MODEL), site=Site("resid_post", 5), concept=name, class_names=("no", "yes"),
        class_points=torch.tensor([[-1.0], [1.0]]), provenance=provenance("difference_of_means"),
    )  # fmt: skip


def concept_map(name: str, seed: int) -> ConceptMap:
    rng = np.random.default_rng(seed)
    found = name != "random_labels"
    depth = depth_scores(rng, middle=1.5 + 0.55 * seed, top=0.97 - 0.02 * seed if found else 0.5)
    strong = [(int(rng.integers(1, 8)), int(rng.integers(0, 8))) for _ in range(3)] if found else []
    cells = [(int(rng.integers(2, 8)), int(rng.integers(0, D_MLP))) for _ in range(4)] if found else []
    heads, neurons = units(rng, "head", N_HEADS, strong=strong), units(rng, "neuron", D_MLP, strong=cells)
    effects = effect_scores(rng, size=0.22 - 0.018 * seed if found else 0.01)
    best = int(depth["score"].values.argmax())
    value = {k: float(depth[k].values[best]) for k in ("score", "low", "high", "control")}
    first = {k: float(effects[k].values[0, 0]) for k in ("score", "low", "high", "control")}
    return ConceptMap(
        name=name, kind="binary", class_names=("no", "yes"), n=400, metric="accuracy", found=found,
        p=0.002 if found else 0.41, q=0.0025 if found else 0.41, best_layer=LAYERS[best], score=value["score"],
        score_interval=(value["low"], value["high"]), control=value["control"],
        jump=min((1.5 + 0.55 * seed) / 8, 1.0) if found else None,
        settled=min((3 + 0.55 * seed) / 8, 1.0) if found else None,
        effect=first["score"], effect_interval=(first["low"], first["high"]), effect_control=first["control"],
        effect_kind=READOUTS[0], depth=depth, heads=heads, neurons=neurons, direction=direction(rng, name),
        effects=effects, top_heads=tuple(str(s) for s in heads.top(3, q_max=0.05)),
        top_neurons=tuple(str(s) for s in neurons.top(3, q_max=0.05)),
        warnings=() if found else ("only 12 rows of the smaller class in one fold",),
    )  # fmt: skip


def geometry(names: tuple[str, ...]) -> Scores:
    rng = np.random.default_rng(7)
    factors = rng.normal(size=(len(names), 5))
    factors /= np.linalg.norm(factors, axis=1, keepdims=True)
    cosine = factors @ factors.T
    columns = {
        "score": cosine,
        "causal": cosine * 0.6 + 0.4 * np.eye(len(names)),
        "control": np.full_like(cosine, 0.16),
    }
    data = xr.Dataset(
        {k: (("concept", "concept_other"), v) for k, v in columns.items()},
        coords={"concept": list(names), "concept_other": list(names)},
    )
    return Scores(data, provenance("cosines"))


def atlas(names: tuple[str, ...] = NAMES) -> Atlas:
    model = {
        "name": "conceptlab/tiny-world", "revision": "3f2a9c81d0", "n_layers": 8, "n_heads": N_HEADS,
        "d_model": D_MODEL, "d_mlp": D_MLP, "has_logits": True,
    }  # fmt: skip
    envelope = provenance("atlas", passes=5230, settings={"folds": 5, "permutations": 499, "random_directions": 100})
    concepts = tuple(concept_map(name, seed) for seed, name in enumerate(names))
    return Atlas(model=model, concepts=concepts, geometry=geometry(names), provenance=envelope, seconds=61.4)
