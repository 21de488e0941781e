"""multimodal-neurons: neurons of a text model that name what a picture shows, and where (Schwettmann et al. 2023)."""

import numpy as np
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.find.neurons.multimodal_neurons import Pictures, activation_map, multimodal_neurons, without_neurons
from conceptlab.model import Model, load_model
from conceptlab.model.neuron_weights import neuron_weights
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores
from conceptlab.worlds.shape_captions import ShapeCaptions, shape_captions

RECIPE = {
    "id": "multimodal-neurons",
    "claim": "Projected image tokens are no language yet: neurons inside the text model turn them into words, act where the object "
    "is, and the caption depends on them.",
    "number": "share of pictures whose best neuron decodes to the noun, overlap of its activation with the object, noun lost "
    "without the best twenty",
    "control": "random neurons of the same layers, the soft tokens' own decoding, pictures of things that no neuron reads",
    "world": "pictures of shapes as soft tokens before a small text model with planted neurons",
    "model": "",
    "data": "",
    "methods": ["find/neurons/multimodal_neurons"],
}  # fmt: skip
RIGHT, CHANCE, TIMES, LEAST = 0.7, 0.1, 5.0, 1.0


def reproduce(setup: Setup) -> Reproduction:
    """Attribute, decode, localise, ablate. Raises InputError for --model and --data, since soft tokens belong to an adapter."""
    if setup.model is not None or setup.data is not None:
        raise InputError(
            "multimodal-neurons runs on its world; with an adapter of your own call Pictures.of and multimodal_neurons"
        )
    return on_world(shape_captions(n_pictures=16 if setup.quick else 56, seed=setup.seed), setup)


def on_world(world: ShapeCaptions, setup: Setup) -> Reproduction:
    """The row on one world (also on its null twin)."""
    model, vocabulary = load_model(world.model, tokenizer=world.tokenizer), world.tokenizer.get_vocab()
    ids, pool = ([vocabulary[noun] for noun in of] for of in (world.nouns, world.neurons))
    pictures, strange = (Pictures.of(model, world.texts, s, world.places) for s in (world.soft, world.others))
    found, quiet = (multimodal_neurons(of, ids, pool, seed=setup.seed) for of in (pictures, strange))
    lost = without_neurons(pictures, found, ids, n_random=5 if setup.quick else 20, seed=setup.seed)
    units = _units(found, model.d_mlp, setup.seed)
    own = np.array([np.mean([_is_top(model, v, i) for v in soft]) for soft, i in zip(world.soft, ids, strict=True)])
    named = [(s["q"].values <= 0.05).any((1, 2)).astype(float) for s in (found, quiet)]
    findings = (
        *_decoding(model, units, ids, own),
        _located(pictures, units, world.objects, setup.seed),
        _needed(lost, setup.seed),
        _silent(named[0], named[1]),
    )
    provenance = Provenance(
        "multimodal-neurons", len(ids), setup.seed, model.name, causal="ablation", settings={"quick": setup.quick},
        passes=found.provenance.passes + quiet.provenance.passes + lost.provenance.passes,
    )  # fmt: skip
    return Reproduction("multimodal-neurons", findings, provenance, results={"neurons": found, "without": lost})


Units = dict[str, list[tuple[int, int]]]  # (layer, neuron) of every picture, by kind


def _units(found: Scores, d_mlp: int, seed: int) -> Units:
    """The best neuron of every picture, and a random one."""
    rng, layers = np.random.default_rng(seed), found["layer"].values.tolist()
    at = [np.unravel_index(int(of.argmax()), of.shape) for of in found["score"].values]
    best = [(int(layers[int(a)]), int(n)) for a, n in at]
    return {"best": best, "random": [(int(rng.choice(layers)), int(rng.integers(d_mlp))) for _ in best]}


def _decoding(model: Model, units: Units, ids: list[int], own: np.ndarray) -> tuple[Finding, ...]:
    out = {of.layer: of.out for of in neuron_weights(model)}
    hits = {
        kind: np.array([_is_top(model, out[layer][n], i) for (layer, n), i in zip(of, ids, strict=True)], dtype=float)
        for kind, of in units.items()
    }
    return (
        _share("the best neuron decodes to the picture's noun, beside random neurons", hits["best"], hits["random"]),
        _share("the same, beside the soft tokens' own decoding", hits["best"], own),
    )


def _is_top(model: Model, vector: Tensor, token: int) -> bool:
    return int((model.unembedding.float() @ vector.float()).argmax()) == token


def _located(pictures: Pictures, units: Units, objects: np.ndarray, seed: int) -> Finding:
    overlap = {kind: _overlaps(pictures, of, objects) for kind, of in units.items()}
    best, random = overlap["best"], overlap["random"]
    holds = bool(best.mean() > random.mean())
    return _mean("overlap (IoU) of where the best neuron fires with the object", best, random, "above random neurons", holds, "",
                 seed)  # fmt: skip


def _needed(lost: Scores, seed: int) -> Finding:
    best, random = lost["score"].values, lost["control"].values
    holds = bool(best.mean() >= TIMES * max(0.0, float(random.mean())) and best.mean() > LEAST)
    return _mean("log probability of the noun lost without the best 20 neurons", best, random, f"at least {TIMES:g} times random "
                 f"neurons, and {LEAST} nats", holds, "nats", seed)  # fmt: skip


def _overlaps(pictures: Pictures, units: list[tuple[int, int]], objects: np.ndarray) -> np.ndarray:
    """IoU [picture] of the patches where a neuron is above half of its largest activation with the object."""
    found = np.zeros(len(units))
    for layer in sorted({layer for layer, _ in units}):
        rows = [i for i, (at, _) in enumerate(units) if at == layer]
        maps = activation_map(pictures, layer, [n for _, n in units])[rows]
        on = maps > 0.5 * maps.max(1, keepdims=True).clip(1e-9)
        both, either = (on & objects[rows]).sum(1), (on | objects[rows]).sum(1)
        found[rows] = both / np.maximum(either, 1)
    return found


def _share(name: str, values: np.ndarray, control: np.ndarray) -> Finding:
    share, beside = float(values.mean()), float(control.mean())
    bar = f"at least {RIGHT:.0%}, control at most {CHANCE:.0%}"
    return Finding(name, share, beside, bar, share >= RIGHT and beside <= CHANCE, "share", *bootstrap_share(values))


def _silent(found: np.ndarray, quiet: np.ndarray) -> Finding:
    low, high = bootstrap_share(found)
    bar, beside = f"control at most {CHANCE:.0%}, and the share's interval above it", float(quiet.mean())
    return Finding("pictures with a neuron at q <= 0.05, beside pictures of what no neuron reads", float(found.mean()), beside, bar,
                   beside <= CHANCE < low, "share", low, high)  # fmt: skip


def _mean(name: str, values: np.ndarray, control: np.ndarray, bar: str, holds: bool, unit: str, seed: int) -> Finding:
    low, high = bootstrap_mean(values[:, None], seed=seed)
    return Finding(
        name, float(values.mean()), float(control.mean()), bar, bool(holds), unit, float(low[0]), float(high[0])
    )
