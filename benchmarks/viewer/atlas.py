"""A synthetic atlas of any size for the viewer's benchmarks: plausible curves and verdicts, no model behind it.

`python -m benchmarks.viewer.atlas FOLDER [concepts] [layers]` writes one; a concept in ten is not found.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from conceptlab.atlas.atlas import Atlas, ConceptMap
from conceptlab.results import Provenance, Scores, Site, Subspace, Units

N_HEADS, D_MODEL, D_MLP = 12, 64, 16
STEMS = ("tense", "number", "place", "colour", "sentiment", "agency", "animacy", "truth", "negation", "topic")


def synthetic_atlas(n_concepts: int = 1000, n_layers: int = 48, *, seed: int = 0, cosines: int = 200) -> Atlas:
    """An atlas of `n_concepts` over `n_layers`; cosines only up to `cosines` concepts, since their table grows with the square."""
    rng = np.random.default_rng(seed)
    names = tuple(f"{STEMS[i % len(STEMS)]} {i:04d}" for i in range(n_concepts))
    concepts = tuple(_concept(rng, name, i, n_layers) for i, name in enumerate(names))
    model = {
        "name": f"synthetic-{n_layers}-layers", "revision": "synthetic", "n_layers": n_layers, "n_heads": N_HEADS,
        "d_model": D_MODEL, "d_mlp": D_MLP, "has_logits": True,
    }  # fmt: skip
    geometry = _geometry(rng, names) if n_concepts <= cosines else None
    return Atlas(model=model, concepts=concepts, geometry=geometry, provenance=_provenance("map"), seconds=1.0)


def _provenance(method: str) -> Provenance:
    return Provenance(method, n=400, seed=0, model="synthetic", revision="synthetic", data_hash="0" * 64, versions={})


def _concept(rng: np.random.Generator, name: str, at: int, n_layers: int) -> ConceptMap:
    layers = ("embed", *map(str, range(n_layers)))
    x, found = np.arange(len(layers)), at % 10 != 9
    top, middle = (rng.uniform(0.7, 1.0) if found else 0.5), rng.uniform(1, n_layers - 2)
    score = 0.5 + (top - 0.5) / (1 + np.exp(-rng.uniform(0.3, 1.5) * (x - middle))) + rng.normal(0, 0.006, len(x))
    control = 0.5 + rng.normal(0, 0.004, len(x))
    columns = {
        "score": score,
        "low": score - 0.03,
        "high": score + 0.03,
        "control": control,
        "control_high": control + 0.05,
    }
    depth = Scores(
        xr.Dataset({k: ("layer", v) for k, v in columns.items()}, coords={"layer": list(layers)}), _provenance("depth")
    )
    best, effect = int(score.argmax()), float(rng.gamma(2, 0.2)) if found else 0.01
    direction = torch.nn.functional.normalize(torch.tensor(rng.normal(size=(1, D_MODEL)), dtype=torch.float32))
    site = Site("embed") if best == 0 else Site("resid_post", best - 1)
    return ConceptMap(
        name=name, kind="binary", class_names=("no", "yes"), n=400, metric="accuracy", found=found, p=0.001 if found else 0.5,
        q=0.001 if found else 0.5, best_layer=layers[best], score=float(score[best]),
        score_interval=(float(score[best]) - 0.03, float(score[best]) + 0.03), control=float(control[best]),
        jump=float(middle / n_layers) if found else None, settled=min(1.0, float((middle + 2) / n_layers)) if found else None,
        effect=effect, effect_interval=(effect * 0.8, effect * 1.2), effect_control=0.02,
        effect_kind="log-odds of label words, nats",
        depth=depth, heads=_heads(rng, n_layers), neurons=None,
        direction=Subspace(direction, torch.zeros(D_MODEL), site, name, ("no", "yes"), torch.tensor([[-1.0], [1.0]]),
                           _provenance("difference of means")),
        effects=None, top_heads=("L1.H0.z",) if found else (), top_neurons=(),
    )  # fmt: skip


def _heads(rng: np.random.Generator, n_layers: int) -> Units:
    layer, index = (a.ravel() for a in np.mgrid[:n_layers, :N_HEADS])
    score = 0.5 + np.abs(rng.normal(0, 0.05, layer.size))
    p = np.clip(1.2 - (score - 0.5) * 8, 0.001, 1)
    return Units.from_arrays(
        "head", layer=layer, index=index, score=score, control=np.full(layer.size, 0.51), p=p, q=np.minimum(p * 3, 1),
        provenance=_provenance("heads"),
    )  # fmt: skip


def _geometry(rng: np.random.Generator, names: tuple[str, ...]) -> Scores:
    factors = rng.normal(size=(len(names), 8))
    factors /= np.linalg.norm(factors, axis=1, keepdims=True)
    dims, cosine = ("concept", "concept_other"), factors @ factors.T
    columns = {"score": (dims, cosine), "causal": (dims, cosine * 0.6), "control": (dims, np.full_like(cosine, 0.1))}
    return Scores(
        xr.Dataset(columns, coords={"concept": list(names), "concept_other": list(names)}), _provenance("cosines")
    )


if __name__ == "__main__":
    folder, *sizes = sys.argv[1:]
    made = synthetic_atlas(*map(int, sizes)).save(Path(folder))
    print(made)
