"""cot-mechanism: several pathways write an answer that follows from the context, and a rift in depth (Dutta et al. 2024)."""

import numpy as np

from conceptlab.data.derivations import Derivation, read_derivations
from conceptlab.errors import InputError
from conceptlab.measure.effects.answer_pathways import Pathways, answer_pathways
from conceptlab.model import Model, load_model
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction
from conceptlab.worlds.ontology import ontology
from conceptlab.worlds.planted import PlantedWorld

RECIPE = {
    "id": "cot-mechanism",
    "claim": "In LLaMA-2 7B several pathways produce the next reasoning step side by side, and a sharp break around mid-depth "
    "divides the heads that gather ontology facts from the later ones that write answers.",
    "number": "the layer of the rift, the heads that write answers, and what knocking out one of them or all costs",
    "control": "random heads, random answers, and the same words renamed",
    "world": "an ontology in the context against a bigram prior, answered along two redundant paths",
    "model": "a causal language model that attends through transformers' interface, together with --data",
    "data": "CSV, JSONL or a JSON list with the columns prompt (up to its answer), answer, noise (a prompt of equal length about "
    "other things), noise_answer",
    "methods": ["measure/lenses/rift", "measure/lenses/answer_writers", "measure/effects/set_knockout",
                "measure/patching/activation_patching", "measure/patching/context_horizon"],
}  # fmt: skip
ONE, ALL, RANDOM, KEPT = 10.0, 50.0, 5.0, 0.9


def reproduce(setup: Setup) -> Reproduction:
    """Find the rift, writers, movers and redundancy. Raises InputError for --model without --data and the other way round."""
    if (setup.model is None) != (setup.data is None):
        raise InputError(
            "cot-mechanism takes --model and --data together: the model must solve the prompts in the file"
        )
    if setup.model is not None and setup.data is not None:
        rows = read_derivations(setup.data, most=64 if setup.quick else 200)
        return measured(setup.model, rows, quick=setup.quick, seed=setup.seed)
    return on_world(ontology(n_prompts=64 if setup.quick else 192, seed=setup.seed), quick=setup.quick, seed=setup.seed)


def on_world(world: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on an ontology world (or its null twin)."""
    clean, noise = world.prompts["clean"], world.prompts["noise"]
    cells = zip(clean, world.answers["clean"], noise, world.answers["noise"], strict=True)
    rows = [Derivation(*row, context_end=row[0].rindex(".") + 1) for row in cells]
    return measured(load_model(world.model, tokenizer=world.tokenizer), rows, quick=quick, seed=seed)


def measured(model: Model, rows: list[Derivation], *, quick: bool, seed: int) -> Reproduction:
    """The findings on any model and prompts."""
    before = model.forwards
    found = answer_pathways(
        model, rows, n_patched=8 if quick else 32, n_random=10 if quick else 40, kept=KEPT, seed=seed
    )
    notes = (
        []
        if found.place > 0
        else ["the context does not overtake the prior in the lens, so nothing can lie before or behind it"]
    )
    if len(found.writers) < 2:
        notes.append(
            f"{len(found.writers)} heads write answers beyond random answers (q <= 0.05); redundancy needs two"
        )
    findings = [*_rift(found), *_heads(found), *_redundancy(found), _horizon(found)]
    provenance = Provenance(
        "cot-mechanism", len(rows), seed, model.name, model.revision, causal="patching", passes=round(model.forwards - before),
        settings={
            "quick": quick,
            "accuracy": found.scores["horizon"].data.attrs["accuracy"],
            "rift layer": int(found.scores["rift"].data.attrs["rift_layer"]),
            "writers": [f"L{layer}.H{head}" for layer, head in found.writers],
            "movers": [f"L{layer}.H{head}" for layer, head in found.movers],
        },
    )  # fmt: skip
    return Reproduction("cot-mechanism", tuple(findings), provenance, 0.0, tuple(notes), found.scores)


def _rift(found: Pathways) -> list[Finding]:
    """The rift against the layer at which the answer itself overtakes the prior's word."""
    there = found.place > 0 and found.overtakes > 0
    places = np.arange(found.n_layers + 1)
    away = float(abs(found.place - found.overtakes)) if there else float("nan")
    return [Finding("layers between the rift and where the answer overtakes the prior", away,
                    float(np.abs(places - max(found.overtakes, 0)).mean()), "at most 1 (control: a layer at random)",
                    there and away <= 1, "layers")]  # fmt: skip


def _heads(found: Pathways) -> list[Finding]:
    """Writers at or after the rift, movers before it; the control is a head at random."""
    layer = max(found.place - 1, 0)
    behind = 1 - layer / found.n_layers

    def share(heads: list[tuple[int, int]], late: bool) -> float:
        return float(np.mean([(at >= layer) == late for at, _ in heads])) if heads and found.place > 0 else float("nan")

    late, early = share(found.writers, True), share(found.movers, False)
    return [
        Finding("answer-writing heads at or after the rift", late, behind, "all (control: a head at random)", late == 1.0, "share"),
        Finding("heads that move information before the rift", early, 1 - behind, "more than a head at random", early > 1 - behind,
                "share"),
    ]  # fmt: skip


def _redundancy(found: Pathways) -> list[Finding]:
    one, every = "largest cost of losing one answer-writing head", "cost of losing all answer-writing heads"
    if len(found.writers) < 2:
        return [Finding(name, float("nan"), 0.0, "two heads that write", False, "points") for name in (one, every)]
    data = found.scores["knock-out"].data
    alone = data.isel(set=int(data["score"].values[:-1].argmax()))
    whole = data.sel(set="all of them")
    return [
        Finding(name, float(at["score"]), float(at["control"]), bar, bool(holds and at["control"] <= RANDOM), "points",
                float(at["low"]), float(at["high"]))
        for name, at, bar, holds in (
            (one, alone, f"below {ONE:g}, random heads at most {RANDOM:g}", alone["score"] < ONE),
            (every, whole, f"above {ALL:g}, random heads at most {RANDOM:g}", whole["score"] > ALL),
        )
    ]  # fmt: skip


def _horizon(found: Pathways) -> Finding:
    """Whether the context can be exchanged at the rift without loss."""
    data = found.scores["horizon"].data
    accuracy, at = data.attrs["accuracy"], max(found.place - 1, 0)
    kept, chance = float(data["score"].values[at]), float(data["control"].values[at])
    known = found.place > 0 and data.attrs["horizon"] >= 0
    low, high = float(data["low"].values[at]), float(data["high"].values[at])
    return Finding("accuracy with another context from the rift on", kept, chance, f"at least {KEPT:.0%} of the unchanged accuracy",
                   bool(known and kept >= KEPT * accuracy), "share", low, high)  # fmt: skip
