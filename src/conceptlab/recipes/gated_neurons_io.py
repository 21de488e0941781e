"""gated-neurons-io: what gated neurons do to the direction they detect, and whether recall of facts needs those that enrich it."""

import numpy as np

from conceptlab.data.fact_queries import FactQuery, read_fact_queries
from conceptlab.errors import InputError
from conceptlab.evidence.isotropic import largest_cosine_at
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.find.neurons.gated_neurons import CLASSES, gated_neurons
from conceptlab.measure.effects.set_effects import set_effects
from conceptlab.model import Model, load_model
from conceptlab.model.answers import first_tokens
from conceptlab.model.metric import log_prob
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores, Site, Units
from conceptlab.worlds.gated_classes import gated_classes
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.trained_facts import fact_queries, facts_tokenizer, people, trained_facts

RECIPE = {
    "id": "gated-neurons-io",
    "claim": "Neurons of gated MLPs fall into classes by what they write relative to what they read; those that write more of it "
    "(enrichment) prevail in early and middle layers, those that take it away in late ones.",
    "number": "share of planted neurons classed right, and what recall of facts loses without the neurons that enrich most",
    "control": "neurons given what another of their layer writes, random directions, and as many random neurons of the same layers",
    "world": "planted classes in a random Llama, and a small Llama trained on facts",
    "model": "a causal language model with gated MLPs",
    "data": "CSV, JSONL or a JSON list with the columns prompt, subject, answer, associated: facts that the model knows",
    "methods": ["find/neurons/gated_neurons", "measure/effects/set_effects"],
}
# the share of neurons that is taken away: of 20 neurons, a tenth and a fifth, the least that did it in all of seeds 100 to 104
TOP, LEVEL, MODELS = 0.1, 0.05, 8


def reproduce(setup: Setup) -> Reproduction:
    """Planted classes and a trained model; or a user's model, with facts where there are any.

    Raises InputError for --data without --model, SiteError for a model without gates.
    """
    if setup.model is None:
        if setup.data is not None:
            raise InputError("gated-neurons-io --data needs --model: the facts must be ones that the model knows")
        planted = on_world(gated_classes(seed=setup.seed), seed=setup.seed)
        random = by_chance(gated_classes(seed=setup.seed, null=True), seed=setup.seed)
        models = [on_facts(setup, setup.seed + i) for i in range(1 if setup.quick else MODELS)]
        found = models[0]
        more = () if setup.quick else (_over_models(models, setup.seed),)
        results = {**{f"planted {k}": v for k, v in planted.results.items()}, **found.results}
        return Reproduction(
            found.id, (*planted.findings, random, *found.findings, *more), found.provenance, 0.0, found.notes, results
        )
    queries = read_fact_queries(setup.data, most=100 if setup.quick else 400) if setup.data is not None else []
    return measured(setup.model, queries, quick=setup.quick, seed=setup.seed)


def on_world(world: PlantedWorld, *, seed: int = 0) -> Reproduction:
    """What of the planted classes (of their null twin: of the classes that the world has) is found from the weights."""
    units = gated_neurons(load_model(world.model, tokenizer=world.tokenizer), seed=seed)
    table, wanted = units.table, gated_classes(seed=seed).truth["classes"]
    names = [f"L{a}.N{b}" for a, b in zip(table["layer"].values, table["index"].values, strict=True)]
    said = dict(zip(names, table["class"].values.tolist(), strict=True))
    right = np.array([said[name] == kind for name, kind in wanted.items()], dtype=float)
    others = np.array([said[name] != "orthogonal output" for name in names if name not in wanted], dtype=float)
    counts = table["counts_mismatched"].values
    dealt = float(1 - counts[:, CLASSES.index("orthogonal output")].sum() / counts.sum())
    low, high = bootstrap_share(right, seed=seed)
    stray_low, stray_high = bootstrap_share(others, seed=seed)
    findings = (
        Finding("planted neurons in their class", float(right.mean()), dealt,
                "all of them (control: in any class when given another's output)", bool(right.all()), "share", low, high),
        Finding("other neurons in any class", float(others.mean()), dealt, "none (control: when given another's output)",
                not others.any(), "share", stray_low, stray_high),
    )  # fmt: skip
    return Reproduction("gated-neurons-io", findings, units.scores.provenance, 0.0, (), {"classes": units})


def by_chance(world: PlantedWorld, *, seed: int = 0) -> Finding:
    """Whether random weights keep to the law of random directions."""
    model = load_model(world.model, tokenizer=world.tokenizer)
    table = gated_neurons(model, seed=seed).table
    bound = float(largest_cosine_at(np.array(LEVEL), 1, model.d_model))
    beyond = (np.abs(table["score"].values) >= bound).astype(float)
    low, high = bootstrap_share(beyond, seed=seed)
    return Finding("random weights: neurons beyond the 95 % point of random directions", float(beyond.mean()), LEVEL,
                   "its interval holds 5 %, the exact law (control)", low <= LEVEL <= high, "share", low, high)  # fmt: skip


def on_facts(setup: Setup, seed: int) -> Reproduction:
    """The small model that was trained on facts, asked what it knows."""
    trained = trained_facts(seed=seed, cache=setup.cache, progress=setup.progress)
    model = load_model(trained.model, tokenizer=facts_tokenizer())
    known = people(seed).kind == 0
    queries = [q for q, kept in zip(fact_queries(seed, per_person=1), known, strict=True) if kept]
    return measured(model, queries, quick=setup.quick, seed=seed)


def measured(model: Model, queries: list[FactQuery], *, quick: bool, seed: int) -> Reproduction:
    """The findings on any model with gates; those about facts need `queries`."""
    before, units = model.forwards, gated_neurons(model, seed=seed)
    findings = [*_prevailing(units), *_by_depth(units, model.n_layers, seed)]
    results: dict[str, Scores | Units] = {"classes": units}
    if queries:
        sets = {"enrich": most(units, 1), "deplete": most(units, -1)}
        prompts = [q.prompt for q in queries]
        metric = log_prob(first_tokens(model, prompts, [q.answer for q in queries]))
        lost = set_effects(
            model, prompts, sets, metric, op="mean", groups=[q.subject for q in queries], same_layers=True,
            n_random=40 if quick else 200, seed=seed,
        )  # fmt: skip
        results["ablated"] = lost
        findings += _lost(lost)
    provenance = Provenance(
        "gated-neurons-io", max(len(queries), 1), seed, model.name, model.revision, causal="ablation" if queries else "none",
        settings={"quick": quick, "threshold": units.table.attrs["threshold"], "ablated": TOP},
        passes=round(model.forwards - before),
    )  # fmt: skip
    return Reproduction("gated-neurons-io", tuple(findings), provenance, 0.0, (), results)


def most(units: Units, sign: int) -> list[Site]:
    """The tenth of all neurons with the largest c1 (sign 1) or the most negative (-1)."""
    n = max(1, round(TOP * units.table.sizes["unit"]))
    order = np.argsort(-sign * units.table["score"].values, kind="stable")[:n]
    layer, index = (units.table[name].values[order].tolist() for name in ("layer", "index"))
    return [Site("mlp_post", a, (b,)) for a, b in zip(layer, index, strict=True)]


def _prevailing(units: Units) -> list[Finding]:
    """More neurons lean to enrichment and depletion than when mismatched."""
    sure = (units.table["p"].values <= LEVEL).astype(float)
    low, high = bootstrap_share(sure)
    return [Finding("neurons that write along what they read, either way (p <= 0.05)", float(sure.mean()), LEVEL,
                    "interval above the share by chance (control)", low > LEVEL, "share", low, high)]  # fmt: skip


def _by_depth(units: Units, n_layers: int, seed: int) -> list[Finding]:
    """Mean c1 of the first half of the layers less that of the second, beside neurons dealt to halves at random."""
    c1, early = units.table["score"].values, units.table["layer"].values < n_layers / 2
    if early.all() or not early.any():
        return []
    rng = np.random.default_rng(seed)
    found = float(c1[early].mean() - c1[~early].mean())
    drawn = [c1[order].mean() - c1[~order].mean() for order in (rng.permutation(early) for _ in range(1000))]
    spread = float(np.std(drawn))
    return [Finding("cosine of input and output: early layers less late ones", found, float(np.mean(drawn)),
                    "reported; above 0 says that enrichment lies early (control: layers dealt at random)", None, "cosine",
                    found - 1.96 * spread, found + 1.96 * spread)]  # fmt: skip


def _over_models(models: list[Reproduction], seed: int) -> Finding:
    """In how many models trained alike, from other seeds, the enriching neurons are the ones that recall needs."""
    held = np.array([next(f.holds for f in m.findings if f.name.endswith("enrich most")) for m in models], dtype=float)
    low, high = bootstrap_share(held, seed=seed)
    return Finding(f"of {len(models)} models: those whose recall needs the neurons that enrich most", float(held.mean()), LEVEL,
                   "interval above 5 %, what random neurons would reach (control)", low > LEVEL, "share", low, high)  # fmt: skip


def _lost(lost: Scores) -> list[Finding]:
    found = []
    for name, what in (("enrich", "enrich"), ("deplete", "deplete")):
        at = {
            k: float(lost.data.sel(set=name)[k])
            for k in ("score", "low", "high", "control", "control_high", "p", "size")
        }
        bar = "more than as many random neurons of the same layers (p <= 0.05)" if what == "enrich" else "reported"
        holds = at["p"] <= LEVEL and at["low"] > at["control_high"] if what == "enrich" else None
        found.append(Finding(f"recall lost without the {at['size']:.0f} neurons that {what} most", at["score"], at["control"],
                             bar, holds, "nats", at["low"], at["high"]))  # fmt: skip
    return found
