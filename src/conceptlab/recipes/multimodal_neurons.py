"""multimodal-neurons: neurons of a text model that name what a picture shows, and where (Schwettmann et al. 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from conceptlab.data.records import KINDS, read_records, texts_of
from conceptlab.errors import DataError, InputError
from conceptlab.evidence import bootstrap_mean
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.find.neurons.multimodal_neurons import Pictures, activation_map, multimodal_neurons, without_neurons
from conceptlab.model import Model, load_model
from conceptlab.model.answers import first_tokens
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
    "model": "a causal language model with neurons, together with --data",
    "data": "a folder with pictures.csv (or .jsonl, .json; columns text, noun) and soft.safetensors, what an adapter gives: soft "
    "[picture, place, d_model], places [place] (tokens that it takes) and, if known, objects [picture, place] (0 or 1) "
    "and others (soft tokens of pictures of something else)",
    "methods": ["find/neurons/multimodal_neurons"],
}  # fmt: skip
RIGHT, CHANCE, TIMES, LEAST, LEAST_NOUNS = 0.7, 0.1, 5.0, 1.0, 4


def reproduce(setup: Setup) -> Reproduction:
    """Attribute, decode, localise, ablate. Raises InputError for --model without --data and the other way round, since a text model
    has no pictures of its own."""
    if (setup.model is None) != (setup.data is None):
        raise InputError(
            "multimodal-neurons takes --model and --data together: a text model, and pictures as soft tokens of its adapter"
        )
    if setup.model is not None and setup.data is not None:
        return on_users(setup.model, setup.data, quick=setup.quick, seed=setup.seed)
    return on_world(shape_captions(n_pictures=16 if setup.quick else 56, seed=setup.seed), setup)


def on_world(world: ShapeCaptions, setup: Setup) -> Reproduction:
    """The row on one world (also on its null twin)."""
    model, vocabulary = load_model(world.model, tokenizer=world.tokenizer), world.tokenizer.get_vocab()
    ids, pool = ([vocabulary[noun] for noun in of] for of in (world.nouns, world.neurons))
    given = Shown(world.texts, world.soft, world.places, world.objects, world.others)
    return measured(model, given, ids, pool, quick=setup.quick, seed=setup.seed)


def on_users(model: Model, folder: Path, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """A user's model and what its adapter makes of pictures. Raises DataError for a folder of another form, InputError for soft
    tokens that do not fit the texts or the model, or too few different nouns."""
    table = read_records(_listed(folder), ("text", "noun"))
    texts, nouns = (texts_of(table, name) for name in ("text", "noun"))
    ids = first_tokens(model, texts, nouns)
    if len(set(ids)) < LEAST_NOUNS:
        raise InputError(
            f"{folder}: {len(set(ids))} nouns differ in their first token; the control needs {LEAST_NOUNS} or more"
        )
    return measured(model, _soft(folder, texts), ids, sorted(set(ids)), quick=quick, seed=seed)


def _listed(folder: Path) -> Path:
    files = [p for p in sorted(folder.glob("pictures.*")) if p.suffix in KINDS] if folder.is_dir() else []
    if not files or not (folder / "soft.safetensors").is_file():
        raise DataError(f"{folder}: needs pictures.csv (or .jsonl, .json) and soft.safetensors; add what is missing")
    return files[0]


def _soft(folder: Path, texts: Sequence[str]) -> "Shown":
    """The tensors of the folder. Raises DataError where they are damaged, missing or of another shape."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "soft.safetensors"
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({error}); write it with safetensors") from error
    shapes = {name: list(tensor.shape) for name, tensor in found.items()}
    if not {"soft", "places"} <= set(found) or found["soft"].ndim != 3 or found["places"].ndim != 1:
        raise DataError(f"{path}: holds {shapes}; it needs soft [picture, place, d_model] and places [place]")
    objects, others = found.get("objects"), found.get("others")
    if (objects is not None and objects.shape != found["soft"].shape[:2]) or (
        others is not None and others.shape != found["soft"].shape
    ):
        raise DataError(f"{path}: holds {shapes}; objects is [picture, place] and others is shaped as soft")
    seen = None if objects is None else objects.numpy() > 0
    return Shown(tuple(texts), found["soft"], tuple(found["places"].tolist()), seen, others)


@dataclass(frozen=True, eq=False)
class Shown:
    """`soft` [picture, place, d_model] that stand at `places` of `texts`; where the object is (`objects` [picture, place]) and soft
    tokens of `others`, if known."""

    texts: tuple[str, ...]
    soft: Tensor
    places: tuple[int, ...]
    objects: np.ndarray | None = None
    others: Tensor | None = None


def measured(model: Model, given: Shown, ids: list[int], pool: list[int], *, quick: bool, seed: int) -> Reproduction:
    """The findings on any text model and soft tokens; `ids` are the pictures' nouns, `pool` those that the null draws from."""
    pictures, notes = Pictures.of(model, given.texts, given.soft, given.places), []
    n_random = min(10, len(set(pool)) - 1)
    found = multimodal_neurons(pictures, ids, pool, n_random=n_random, seed=seed)
    lost = without_neurons(pictures, found, ids, n_random=5 if quick else 20, seed=seed)
    units = _units(found, model.d_mlp, seed)
    own = np.array([np.mean([_is_top(model, v, i) for v in soft]) for soft, i in zip(given.soft, ids, strict=True)])
    findings, passes = [*_decoding(model, units, ids, own)], found.provenance.passes + lost.provenance.passes
    if given.objects is not None:
        findings.append(_located(pictures, units, given.objects, seed))
    else:
        notes.append("no objects were given, so nothing is said about where the neurons fire")
    findings.append(_needed(lost, seed))
    if given.others is not None:
        strange = Pictures.of(model, given.texts, given.others, given.places)
        quiet = multimodal_neurons(strange, ids, pool, n_random=n_random, seed=seed)
        named = [(s["q"].values <= 0.05).any((1, 2)).astype(float) for s in (found, quiet)]
        findings.append(_silent(named[0], named[1]))
        passes += quiet.provenance.passes
    else:
        notes.append("no other pictures were given, so there is no share of them with a neuron")
    provenance = Provenance(
        "multimodal-neurons", len(ids), seed, model.name, causal="ablation", settings={"quick": quick}, passes=passes
    )
    results = {"neurons": found, "without": lost}
    return Reproduction("multimodal-neurons", tuple(findings), provenance, notes=tuple(notes), results=results)


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
