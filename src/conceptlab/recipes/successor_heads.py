"""successor-heads: one head says what comes next of numbers, days and months, through the last digit (Gould et al. 2023)."""

import numpy as np

from conceptlab.data.ordinals import read_families
from conceptlab.errors import InputError
from conceptlab.find.detector import ranked
from conceptlab.find.heads.successor_heads import counting_on, succession, successor
from conceptlab.find.heads.survey import HeadSurvey
from conceptlab.measure.effects.head_losses import head_losses
from conceptlab.measure.probing.modular_features import residue_probe, residue_swap
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores, Units
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.successor import successor as successor_world

RECIPE = {
    "id": "successor-heads",
    "claim": "Language models of many sizes have a head that maps ordinal words to their successors, by way of features of "
    "numbers modulo 10 that can be moved by vector arithmetic.",
    "number": "share of ordinal words of which one head's output says the successor; last digits read, and moved, in its input",
    "control": "other steps than +1, all other heads, numbers modulo 9, shuffled digits, and the head's loss on other text",
    "world": "numbers, days and months with one successor head, a first MLP that carries, and heads that copy and go back",
    "model": "a causal language model whose tokenizer keeps numbers, days, months or letters as single tokens",
    "data": "CSV, JSONL or a JSON list with the columns family and word, in the order of each series",
    "methods": ["find/heads/successor_heads", "measure/probing/modular_features", "measure/effects/head_losses"],
}
SCORE, OTHERS, PROBE, NEAR, SWAP, LOST = 0.80, 0.20, 0.95, 0.05, 0.80, 0.1


def reproduce(setup: Setup) -> Reproduction:
    """Score every head, then probe, swap and ablate with the best. Raises InputError for --data without --model."""
    families = None if setup.data is None else read_families(setup.data)
    if setup.model is not None:
        return measured(HeadSurvey(setup.model, seed=setup.seed, families=families), quick=setup.quick)
    if families is not None:
        raise InputError("successor-heads --data needs --model: the planted world has series of its own")
    return on_world(successor_world(seed=setup.seed), quick=setup.quick, seed=setup.seed)


def on_world(world: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on a successor world (or its null twin)."""
    planted = [name for name, head in world.truth["heads"].items() if head["role"] == "successor"]
    survey = HeadSurvey(load_model(world.model, tokenizer=world.tokenizer), seed=seed)
    return measured(survey, planted=planted, quick=quick)


def measured(survey: HeadSurvey, *, planted: list[str] | None = None, quick: bool = True) -> Reproduction:
    """The findings on any model."""
    model, ordinals, before = survey.model, survey.ordinals, survey.model.forwards
    scored = successor(survey)
    provenance = Provenance(
        "successor-heads", scored.n, survey.seed, model.name, model.revision, causal="patching",
        settings={"quick": quick, **scored.settings},
    )  # fmt: skip
    units = ranked("head", scored, provenance)
    layer, head = (int(i) for i in np.unravel_index(np.nanargmax(scored.score), scored.score.shape))
    findings, results = [_stands_out(scored.score)], {"heads": units, "succession": succession(model, ordinals)}
    if planted is not None:
        findings.append(_identified(units, planted))
    digits, notes, more = _digits(survey, (layer, head), n_shuffles=19 if quick else 199)
    lost, ablated = _lost(survey, layer, head)
    provenance = Provenance(
        "successor-heads", scored.n, survey.seed, model.name, model.revision, causal="patching",
        settings={"quick": quick, "head": f"L{layer}.H{head}", **scored.settings}, warnings=scored.warnings,
        passes=round(model.forwards - before),
    )  # fmt: skip
    return Reproduction(
        "successor-heads", (*findings, *digits, *lost), provenance, 0.0, tuple(notes), {**results, **more, **ablated}
    )


def _stands_out(score: np.ndarray) -> Finding:
    best, second = np.sort(score[np.isfinite(score)])[[-1, -2]]
    return Finding("succession score of the best head", float(best), float(second),
                   f"at least {SCORE:g}, every other head at most {OTHERS:g} (control: the second best)",
                   bool(best >= SCORE and second <= OTHERS), "share")  # fmt: skip


def _identified(units: Units, planted: list[str]) -> Finding:
    found = [f"L{s.layer}.H{s.units[0]}" for s in units.top(99, q_max=0.05)]
    right = len(set(found) & set(planted)) / len(found) if found else 0.0
    return Finding("heads found to say the next that are the planted ones", right, len(planted) / units.table.sizes["unit"],
                   "all, and none is missed (control: a head at random)",
                   bool(planted) and set(found) == set(planted), "share")  # fmt: skip


def _digits(
    survey: HeadSurvey, head: tuple[int, int], *, n_shuffles: int
) -> tuple[list[Finding], list[str], dict[str, Scores]]:
    """The last digit in the streams of numbers, and what swapping it does to the head's answer; a note where there are too few."""
    ordinals = survey.ordinals
    at = list(ordinals.families.get("numbers", ()))
    tokens, numbers = [ordinals.tokens[i] for i in at], ordinals.rank[at].tolist()
    try:
        probed = residue_probe(survey.model, tokens, numbers, n_shuffles=n_shuffles, seed=survey.seed)
        swapped = residue_swap(survey.model, head, tokens, numbers, seed=survey.seed)
    except InputError as error:
        return [], [f"last digits were not probed: {error}"], {}
    ten, nine, chance = (float(probed[c].sel(modulus=m)) for c, m in (("score", 10), ("score", 9), ("chance", 9)))
    moved = swapped.data.sel(modulus=10)
    findings = [
        Finding("last digits read from the streams of held-out numbers", ten, nine,
                f"at least {PROBE:g}; modulo 9 at most {NEAR:g} above its largest class",
                ten >= PROBE and nine <= chance + NEAR, "share"),
        Finding("answers whose last digit moves as the swapped digit says", float(moved["score"]), float(moved["control"]),
                f"at least {SWAP:g} (control: shuffled digits)", bool(moved["score"] >= SWAP), "share",
                float(moved["low"]), float(moved["high"])),
    ]  # fmt: skip
    return findings, [], {"probed": probed, "swapped": swapped}


def _lost(survey: HeadSurvey, layer: int, head: int) -> tuple[list[Finding], dict[str, Scores]]:
    """What successors and other text lose without each head."""
    series, other = counting_on(survey), survey.repetition()
    at_series, elsewhere = (head_losses(survey.model, b.batch, b.metric, seed=survey.seed) for b in (series, other))
    here = at_series.data.isel(layer=layer, head=head)
    own, apart = float(here["score"]), float(elsewhere["score"].values[layer, head])
    others = np.delete(at_series["score"].values.reshape(-1), layer * survey.model.n_heads + head)
    others = others[np.isfinite(others)]
    findings = [
        Finding("lost at successors without the head", own, apart,
                f"interval above {LOST:g} and above the loss at repeated random words, q <= 0.05",
                bool(here["low"] > max(LOST, apart) and here["q"] <= 0.05), "nats", float(here["low"]), float(here["high"])),
        Finding("heads whose absence costs successors more", float((others >= own).mean()), 0.5,
                "none (control: a head at random)", bool((others < own).all()), "share"),
    ]  # fmt: skip
    return findings, {"ablated": at_series, "ablated elsewhere": elsewhere}
