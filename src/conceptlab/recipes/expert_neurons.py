"""expert-neurons: which neurons detect a concept, and whether concepts that share them are those people find alike (2025)."""

import numpy as np

from conceptlab.data.concept_texts import read_concept_texts
from conceptlab.errors import InputError
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.find.neurons.expert_neurons import Labelled, expert_neurons, experts_of
from conceptlab.measure.geometry.expert_similarity import expert_similarity
from conceptlab.model import Model, load_model
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores
from conceptlab.worlds.concept_tree import CONCEPTS, concept_tree
from conceptlab.worlds.planted import PlantedWorld

RECIPE = {
    "id": "expert-neurons",
    "claim": "Concepts compared by the sets of neurons that detect them are arranged as people arrange them, more so than by their "
    "embeddings, and in the same categories.",
    "number": "F1 of the experts, and the rank correlation of their overlap with given similarities",
    "control": "shuffled labels, concepts in other orders, and cosines of mean embeddings",
    "world": "24 concepts in a tree, with neurons of every node and embeddings that know nothing of it",
    "model": "a causal language model with neurons, together with --data",
    "data": "CSV, JSONL or a JSON list with the columns concept (negative for texts of none), text and, optional, category",
    "methods": ["find/neurons/expert_neurons", "measure/geometry/expert_similarity"],
}
F1, ALIGNED, GAP, MOST = 0.9, 0.8, 0.2, 200


def reproduce(setup: Setup) -> Reproduction:
    """The planted world, or a user's model and texts. Raises InputError for --model without --data and the other way round."""
    if (setup.model is None) != (setup.data is None):
        raise InputError("expert-neurons takes --model and --data together: texts of concepts that the model knows")
    if setup.model is not None and setup.data is not None:
        given = read_concept_texts(setup.data, most=40 if setup.quick else MOST)
        labelled = Labelled.of(given.positives, given.negatives)
        human = None
        if given.category:
            kinds = np.array([given.category[name] for name in labelled.names])
            human = (kinds[:, None] == kinds[None]).astype(float)
        return measured(setup.model, labelled, human, quick=setup.quick, seed=setup.seed)
    return on_world(
        concept_tree(seed=setup.seed, n_texts=12 if setup.quick else 40), quick=setup.quick, seed=setup.seed
    )


def on_world(world: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on a world of concepts (or its null twin), with its truth."""
    model = load_model(world.model, tokenizer=world.tokenizer)
    labelled = Labelled.of({name: world.prompts[name] for name in CONCEPTS}, world.prompts["negative"])
    done = measured(
        model, labelled, np.array(world.truth["similarity"], dtype=float), quick=quick, seed=seed, planted=True
    )
    scores, truth = done.results["experts"], concept_tree(seed=seed).truth["experts"]
    found = {name: {f"L{s.layer}.N{s.units[0]}" for s in experts_of(scores, name)} for name in CONCEPTS}
    value, control = (
        _f1(found, truth),
        _f1(dict(zip(CONCEPTS, [*list(found.values())[1:], found[CONCEPTS[0]]], strict=True)), truth),
    )
    recovered = Finding("F1 of the experts of all concepts", value, control,
                        f"at least {F1:g} (control: each concept against its neighbour's)", value >= F1, "F1")  # fmt: skip
    return Reproduction(done.id, (recovered, *done.findings), done.provenance, 0.0, done.notes, done.results)


def measured(
    model: Model, labelled: Labelled, human: np.ndarray | None, *, quick: bool, seed: int, planted: bool = False
) -> Reproduction:
    """The findings on any model and texts; those about similarity need `human` [concept, concept]."""
    before = model.forwards
    scores = expert_neurons(model, labelled, seed=seed)
    results: dict[str, Scores] = {"experts": scores}
    counts = scores["n_experts"].values
    notes = [f"experts a concept: {int(counts.min())} to {int(counts.max())} of {scores['score'][0].size} neurons"]
    findings = [_any(scores, seed)]
    if human is not None and len(labelled.names) >= 5:
        experts = scores["expert"].values.reshape(len(labelled.names), -1)
        alike = expert_similarity(experts, human, _vectors(model, labelled), n_random=100 if quick else 1000, seed=seed)
        results["similarity"] = alike
        findings += _aligned(alike, planted) + _shuffled(model, labelled, human, seed)
    else:
        notes.append("no categories, or fewer than five concepts, so nothing was compared with people's judgements")
    provenance = Provenance(
        "expert-neurons", len(labelled.texts), seed, model.name, model.revision,
        settings={"quick": quick, "concepts": len(labelled.names)}, passes=round(model.forwards - before),
    )  # fmt: skip
    return Reproduction("expert-neurons", tuple(findings), provenance, 0.0, tuple(notes), results)


def _vectors(model: Model, labelled: Labelled) -> np.ndarray:
    """Mean last-layer stream over all tokens of each concept's positive texts, less the mean of all concepts, [concept,
    d_model]."""
    acts = model.capture(list(labelled.texts), "resid_post", layers=[model.n_layers - 1], positions="all")
    values = acts["resid_post"][:, 0].double().cpu().numpy()
    means = np.stack([values[np.isin(acts.row, np.flatnonzero(own))].mean(0) for own in labelled.positive.T])
    return means - means.mean(0)


def _permuted(labelled: Labelled, seed: int) -> Labelled:
    """The same texts with every concept's labels dealt anew among the rows that count."""
    rng, positive = np.random.default_rng([seed, 9]), np.zeros_like(labelled.positive)
    for k in range(positive.shape[1]):
        rows = np.flatnonzero(labelled.valid[:, k])
        positive[rows, k] = rng.permutation(labelled.positive[rows, k])
    return Labelled(labelled.texts, labelled.names, positive, labelled.valid)


def _any(scores: Scores, seed: int) -> Finding:
    """Concepts that have experts, beside shuffled labels."""
    has = (scores["n_experts"].values > 0).astype(float)
    null = scores["null_max"].values
    control = float(np.mean([null[i] > np.delete(null, i, 0).max(0) + 1e-9 for i in range(len(null))]))
    low, high = bootstrap_share(has, seed=seed)
    return Finding("concepts with at least one expert", float(has.mean()), control,
                   "interval above the share with shuffled labels (control)", low > control, "share", low, high)  # fmt: skip


def _shuffled(model: Model, labelled: Labelled, human: np.ndarray, seed: int) -> list[Finding]:
    """Alignment of what is taken for experts where labels are shuffled."""
    none = expert_neurons(model, _permuted(labelled, seed), n_random=1, seed=seed + 1)
    best = none["score"].values.reshape(len(human), -1)
    taken = best >= np.sort(best, axis=1)[:, -10:-9]
    alike = expert_similarity(taken, human, n_random=100, seed=seed)
    value, low, high = (float(alike[name][0]) for name in ("score", "low", "high"))
    return [Finding("alignment of the ten best neurons under shuffled labels", value, float(alike["control"][0]),
                    "interval holds 0", low <= 0 <= high, "rank correlation", low, high)]  # fmt: skip


def _aligned(alike: Scores, planted: bool) -> list[Finding]:
    at = alike.data.sel(by="experts")
    value, low, high, control = (float(at[name]) for name in ("score", "low", "high", "control"))
    bar, least = (f"at least {ALIGNED:g}", ALIGNED) if planted else ("interval above 0", 0.0)
    gap, gap_low, gap_high = (float(alike.data[name]) for name in ("gap", "gap_low", "gap_high"))
    beside = float(alike.data.sel(by="embedding")["score"])
    over = gap >= GAP if planted else gap_low > 0
    return [
        Finding("alignment of expert overlap with given similarities", value, control, f"{bar} (control: concepts in other orders)",
                value >= least if planted else low > 0, "rank correlation", low, high),
        Finding("alignment above that of embeddings", gap, 0.0,
                f"{f'at least {GAP:g}' if planted else 'interval above 0'} (embeddings alone: {beside:.2f})", over,
                "rank correlation", gap_low, gap_high),
    ]  # fmt: skip


def _f1(found: dict[str, set[str]], truth: dict[str, list[str]]) -> float:
    hits = sum(len(found[name] & set(mine)) for name, mine in truth.items())
    return 2 * hits / max(1, sum(map(len, found.values())) + sum(map(len, truth.values())))
