"""concept-depth: easy concepts are readable early, others deeper; noise and rounding push depth back (Jin et al. 2024)."""

from dataclasses import replace

import numpy as np
import xarray as xr

from conceptlab.data import Concept, read_concepts
from conceptlab.errors import InputError
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.measure.probing.concept_depth import CONDITIONS, Condition, concept_depth, shifts
from conceptlab.model import Model, load_model
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores
from conceptlab.worlds.concept_at_layer import FAMILIES, concept_at_layer
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.recall_puzzles import SUBJECTS
from conceptlab.worlds.trained_recall import N_NAMES, facts_of, tokenizer, trained_recall, unseen_puzzles

RECIPE = {
    "id": "concept-depth",
    "claim": "Logistic probes on the final token at each layer read easy concepts early in the stack and hard ones only later, and "
    "perturbed text or low-precision weights push that depth back.",
    "number": "layers from the depth of the easy concept to that of the hard one, and how much noise and rounding deepen each",
    "control": "the same probes on shuffled labels, a control task, and a twin in which nothing is planted",
    "world": "one word's class, and two words compared at a shallow and at a deep layer; in the full form also a trained decoder "
    "of four layers, asked about people in a line",
    "model": "any transformer that reads text, together with --data",
    "data": "a labelled file with the columns text, label and, for several concepts, concept (the easiest first)",
    "methods": ["measure/probing/concept_depth", "measure/probing/layer_probe", "measure/probing/control_task"],
}  # fmt: skip
DEEPER, SILENT_WITHIN, TOLERATED = 1.0, 3.0, 0.25  # layers, points, layers (mean over seeds)
QUICK: tuple[Condition, ...] = ("as is", "noised", "int4")
TRAINED = 3  # models in the full form
EASY, MIDDLE, HARD = "one word's class", "two words, shallow", "two words, deep"


def reproduce(setup: Setup) -> Reproduction:
    """Probe the planted world (and, in the full form, trained models), or the user's. Raises InputError for --model without
    --data and the other way round."""
    if (setup.model is None) != (setup.data is None):
        raise InputError(
            "concept-depth takes --model and --data together: a model, and texts with labels to probe it for"
        )
    if setup.model is not None and setup.data is not None:
        concepts = list(read_concepts(setup.data))
        return measured(setup.model, concepts, quick=setup.quick, seed=setup.seed)
    world = concept_at_layer(
        appears_at=1, unused_at=3, n_layers=4, n_texts=240 if setup.quick else 480, seed=setup.seed
    )
    planted = on_world(world, quick=setup.quick, seed=setup.seed)
    return planted if setup.quick else _beside(planted, [_on_trained(setup, setup.seed + i) for i in range(TRAINED)])


def on_world(world: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on a world of planted layers (or its null twin)."""
    model, concepts = load_model(world.model, tokenizer=world.tokenizer), planted_concepts(world)
    types = {c.name: _tools(c) for c in concepts}
    done = measured(model, concepts, quick=quick, seed=seed, types=types)
    found = done.results["depth"].data["depth"].sel(condition="as is").mean("seed").values
    planted = world.truth["concepts"]
    wanted = [1, *(planted[name]["appears_at"] + 1 for name in ("used", "unused"))] if planted else [np.nan] * 3
    right = np.abs(found - np.array(wanted, dtype=float)) < 0.5
    by_chance = 1 / (model.n_layers + 1)
    extra = Finding("planted concepts found at the layer where they were planted", float(right.mean()), by_chance,
                    "all (control: a layer at random)", bool(right.all()), "share")  # fmt: skip
    return replace(done, findings=(extra, *done.findings))


def planted_concepts(world: PlantedWorld) -> list[Concept]:
    """The class of the text's colour, which layer 0 carries to the last word, and the two planted comparisons."""
    assert world.concepts is not None  # noqa: S101 - this world has them
    used, unused = world.concepts["used"], world.concepts["unused"]
    second = set(FAMILIES["colour"][1])
    labels = np.array([int(any(word in second for word in text.split())) for text in used.texts])
    easy = Concept(EASY, used.texts, labels, "binary", ("first", "second"))
    return [easy, replace(used, name=MIDDLE), replace(unused, name=HARD)]


def _tools(concept: Concept) -> np.ndarray:
    """The tool that each text names: types for the control task."""
    words = [w for group in FAMILIES["tool"] for w in group]
    return np.array([next(w for w in text.split() if w in words) for text in concept.texts])


def measured(
    model: Model, concepts: list[Concept], *, quick: bool, seed: int, types: dict[str, np.ndarray] | None = None
) -> Reproduction:
    """The findings on any model and concepts, the first of which is taken for the easiest and the last for the hardest."""
    conditions, n_seeds = (QUICK, 2) if quick else (CONDITIONS, 5)
    found = concept_depth(
        model,
        concepts,
        conditions=conditions,
        n_seeds=n_seeds,
        permutations=10 if quick else 20,
        types=types,
        seed=seed,
    )
    notes: list[str] = []
    findings = (
        _deeper(found, notes),
        _silent(found),
        _shallower(found, notes),
        _selective(found, notes),
        *_lost(found),
    )
    provenance = Provenance(
        "concept-depth", found.provenance.n, seed, model.name, model.revision, passes=found.provenance.passes,
        settings={
            "quick": quick,
            "concepts": [c.name for c in concepts],
            "depths": _plain(found.data["depth"].sel(condition="as is").mean("seed")),
            "jumps": _plain(found.data["jump"].sel(condition="as is").mean("seed")),
            "settled": _plain(found.data["settled"].sel(condition="as is").mean("seed")),
        },
    )  # fmt: skip
    return Reproduction("concept-depth", findings, provenance, 0.0, tuple(notes), {"depth": found})


def _plain(places: xr.DataArray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in places.values]


def _deeper(found: Scores, notes: list[str]) -> Finding:
    """The hardest concept's depth less the easiest one's, seed by seed; the control is how far one concept's depth differs
    between seeds."""
    name = "layers from the depth of the easiest concept to that of the hardest"
    places = found.data["depth"].sel(condition="as is").values  # [concept, seed]
    away = places[-1] - places[0]
    if not np.isfinite(away).all() or len(places) < 2:
        notes.append(f"{name}: needs two concepts that are readable beyond shuffled labels")
        return Finding(name, float("nan"), None, f"at least {DEEPER:g}", False, "layers")
    spread = float(np.nanmax(np.ptp(places, axis=1)))
    return Finding(name, float(away.mean()), spread, f"at least {DEEPER:g} (control: one concept, other folds)",
                   bool(away.mean() >= DEEPER), "layers", float(away.min()), float(away.max()))  # fmt: skip


def _silent(found: Scores) -> Finding:
    """How far the mean of shuffled-label probes is from chance at its worst layer; beside it the real labels."""
    at = found.data.sel(condition="as is")
    chance = np.array(found.data.attrs["chance"])
    away = 100 * float(np.abs(at["control"].values - chance[:, None]).max())
    real = 100 * float(np.abs(at["score"].values - chance[:, None]).max())
    return Finding("shuffled labels: largest distance from chance of any layer", away, real,
                   f"at most {SILENT_WITHIN:g} (control: the real labels)", away <= SILENT_WITHIN, "points")  # fmt: skip


def _shallower(found: Scores, notes: list[str]) -> Finding:
    """Mean shifts of depth; the control is the same between folds alone: half of the seeds against the other half."""
    name = "concepts and conditions in which noise or rounding makes the depth shallower"
    moved = shifts(found).mean("seed", skipna=True).values.ravel()
    moved = moved[np.isfinite(moved)]
    if not len(moved):
        notes.append(f"{name}: no concept is readable with and without a condition")
        return Finding(name, float("nan"), None, "none", None, "share")
    plain = found.data["depth"].sel(condition="as is").values
    folds = np.abs(plain[:, ::2].mean(1) - plain[:, 1::2].mean(1)) if plain.shape[1] > 1 else np.array([np.nan])
    below = (moved < -TOLERATED).astype(float)
    low, high = bootstrap_share(below)
    by_folds = float((folds[np.isfinite(folds)] > TOLERATED).mean()) if np.isfinite(folds).any() else 0.0
    return Finding(name, float(below.mean()), by_folds, f"none by more than {TOLERATED:g} layers (control: other folds alone)",
                   not below.any(), "share", low, high)  # fmt: skip


def _selective(found: Scores, notes: list[str]) -> Finding:
    """The real task beside the control task at each concept's best layer."""
    name = "score at the best layer beside the control task's"
    at = found.data.sel(condition="as is")
    best = at["score"].argmax("layer")
    task = float(at["control_task"].isel(layer=best).mean())
    score = float(at["score"].isel(layer=best).mean())
    if not np.isfinite(task):
        notes.append(f"{name}: every row is of one type, so there is no control task")
        return Finding(name, score, None, "above the control task", None, "mean over concepts")
    return Finding(name, score, task, "above the control task", score > task, "mean over concepts")


def _lost(found: Scores) -> list[Finding]:
    """What each condition costs at the best layer of the model as it is; open, since the size is not claimed."""
    at = found.data["score"].sel(condition="as is")
    best = at.argmax("layer")
    findings = []
    for condition in found.data["condition"].values[1:]:
        loss = 100 * (at.isel(layer=best) - found.data["score"].sel(condition=condition).isel(layer=best)).values
        shuffled = found.data["control"]
        null = 100 * (shuffled.sel(condition="as is") - shuffled.sel(condition=condition)).isel(layer=best).values
        moved = shifts(found).sel(condition=condition).mean("seed", skipna=True).values
        finite = moved[np.isfinite(moved)]
        told = f"reported (mean shift of the depth {finite.mean():+.2f} layers)" if len(finite) else "reported"
        findings.append(Finding(f"points lost at the best layer: {condition}", float(loss.mean()), float(null.mean()), told, None,
                                "points", float(loss.min()), float(loss.max())))  # fmt: skip
    return findings


def _on_trained(setup: Setup, seed: int) -> Reproduction:
    """A decoder of four layers trained on puzzles about people in a line: who is asked about, and who stands at the other end."""
    made = trained_recall(seed=seed, n_layers=4, cache=setup.cache, progress=setup.progress)
    puzzles = unseen_puzzles(600, seed)
    texts = tuple(p.text("reasoning") for p in puzzles)
    half = {name: i % 2 for i, name in enumerate(SUBJECTS[:N_NAMES])}
    asked = np.array([half[text.split()[-1]] for text in texts])
    answer = np.array([half[p.answer("reasoning", facts_of(seed))] for p in puzzles])
    _, lines = np.unique(np.array([sorted(p.line) for p in puzzles]), axis=0, return_inverse=True)
    concepts = [Concept(name, texts, labels, "binary", ("even", "odd"), groups=lines.ravel())
                for name, labels in (("who is asked about", asked), ("who stands at the other end", answer))]  # fmt: skip
    done = measured(load_model(made.model, tokenizer=tokenizer()), concepts, quick=setup.quick, seed=seed)
    return replace(done, notes=(*done.notes, made.note) if made.note else done.notes)


def _beside(planted: Reproduction, trained: list[Reproduction]) -> Reproduction:
    """The planted world's findings, and for the trained models the mean of the two that the row's claim is about."""
    deeper, shallower = ([r.findings[i] for r in trained] for i in (0, 2))
    mark = f"{len(trained)} trained models: "
    values, shares = [f.value for f in deeper], [f.value for f in shallower]
    controls = [f.control for f in deeper if f.control is not None]
    folds = [f.control for f in shallower if f.control is not None]
    extra = (
        replace(deeper[0], name=mark + deeper[0].name, value=float(np.mean(values)), control=float(np.mean(controls or [np.nan])),
                low=float(np.min(values)), high=float(np.max(values)), holds=all(f.holds for f in deeper)),
        replace(shallower[0], name=mark + shallower[0].name, value=float(np.mean(shares)),
                control=float(np.mean(folds or [np.nan])), low=float(np.min(shares)), high=float(np.max(shares)),
                holds=all(f.holds is True for f in shallower)),
    )  # fmt: skip
    notes = (*planted.notes, *dict.fromkeys(mark + n for r in trained for n in r.notes))
    results = {**planted.results, **{f"trained {i}": r.results["depth"] for i, r in enumerate(trained)}}
    settings = {**planted.provenance.settings, "trained": [dict(r.provenance.settings) for r in trained]}
    passes = sum(r.provenance.passes for r in (planted, *trained))
    return replace(planted, findings=(*planted.findings, *extra), notes=notes, results=results,
                   provenance=replace(planted.provenance, settings=settings, passes=passes))  # fmt: skip
