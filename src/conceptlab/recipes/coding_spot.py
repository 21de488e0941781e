"""coding-spot: a small set of weights that code needs in every dialect and prose does not (Exploring Coding Spot)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from conceptlab.data import read_concepts
from conceptlab.errors import InputError
from conceptlab.find.abilities.ability_weights import ability_weights, matched_weights
from conceptlab.measure.effects.weight_knockout import weight_knockout
from conceptlab.model import Model, load_model
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores
from conceptlab.results.weights import Weights
from conceptlab.train import Schedule
from conceptlab.worlds.code_and_prose import CORPORA, SCHEDULE, code_and_prose, texts, tokenizer, true_weights

RECIPE = {
    "id": "coding-spot",
    "claim": "A small share of a language model's weights serves programming in all languages: changing it takes coding away and "
    "leaves other abilities largely as they are.",
    "number": "share of the spot in the planted rows, rise of the loss on code and on prose, overlap of two halves of the data",
    "control": "as many weights of every matrix at random, and the largest ones",
    "world": "a small model trained on two dialects and prose, a quarter of whose neurons is shut on prose",
    "model": "a causal language model, together with --data",
    "data": "labelled file (CSV, Parquet, JSONL) with the columns text and label: general for the other texts, any other label for "
    "a language of the ability",
    "methods": ["find/abilities/ability_weights", "measure/effects/weight_knockout"],
}  # fmt: skip
SHARE, PRECISE, RATIO, AGREE, GENERAL = 0.01, 0.9, 10.0, 0.6, "general"
QUICK = Schedule(steps=80, learning_rate=SCHEDULE.learning_rate, warmup=10)


def reproduce(setup: Setup) -> Reproduction:
    """Find the spot, take it away. Raises InputError for --model without --data or the reverse."""
    if (setup.model is None) != (setup.data is None):
        raise InputError("coding-spot takes --model and --data together: the texts must suit the model")
    if setup.model is not None and setup.data is not None:
        corpora, general, name = _read(setup)
        findings, results = _on(setup.model, corpora, general, setup)
        return _reproduction(findings, results, setup, {"data": name})
    done = code_and_prose(
        seed=setup.seed, schedule=QUICK if setup.quick else SCHEDULE, cache=setup.cache, progress=setup.progress
    )
    model = load_model(done.model, tokenizer=tokenizer())
    written = {c: texts(c, 192 if setup.quick else 256, 1000 + setup.seed) for c in CORPORA}
    general = written.pop("prose")
    findings, results = _on(model, written, general, setup)
    precise, chance = _precision(results["spot"], true_weights(done.model)), results["chance"]
    precise = Finding("share of the spot in the planted rows", precise, _precision(chance, true_weights(done.model)),
                      f"at least {PRECISE} (control: random weights)", precise >= PRECISE, "share")  # fmt: skip
    return _reproduction((precise, *findings), results, setup, {"trained steps": done.steps})


def _on(
    model: Model, corpora: Mapping[str, list[str]], general: list[str], setup: Setup
) -> tuple[tuple[Finding, ...], dict[str, Any]]:
    """Two halves of every corpus find a spot each; the first is taken away, measured on the second."""
    halves = [{n: t[half::2] for n, t in corpora.items()} for half in (0, 1)]
    rest = [general[half::2] for half in (0, 1)]
    spots = [
        ability_weights(model, h, r, share=SHARE, progress=setup.progress) for h, r in zip(halves, rest, strict=True)
    ]
    sets = {"spot": spots[0], "largest": matched_weights(model, spots[0], by="magnitude")}
    held = {name: of[: 32 if setup.quick else None] for name, of in {**halves[1], GENERAL: rest[1]}.items()}
    found = weight_knockout(
        model, held, sets, lambda draw: matched_weights(model, spots[0], seed=draw), n_random=3 if setup.quick else 20,
        seed=setup.seed, progress=setup.progress,
    )  # fmt: skip
    random = [matched_weights(model, spot, seed=1000 + i) for i, spot in enumerate(spots)]
    results = {"knock-out": found, "spot": spots[0], "chance": random[0]}
    agree = Finding("overlap of the spots of two halves of the texts (Jaccard)", spots[0].overlap(spots[1]),
                    random[0].overlap(random[1]), f"at least {AGREE} (control: random weights)",
                    spots[0].overlap(spots[1]) >= AGREE)  # fmt: skip
    return (*_knocked_out(found, list(corpora)), agree), results


def _knocked_out(found: Scores, ability: list[str]) -> tuple[Finding, ...]:
    """Rises of the loss: the ability's least, the general texts', and both under other sets of as many weights."""
    rise = {name: found["score"].sel(set=name) for name in ("spot", "largest")}
    random = found["control"].sel(set="spot")
    lows = found["low"].sel(set="spot", corpus=ability).values, found["high"].sel(set="spot", corpus=ability).values
    code, prose = rise["spot"].sel(corpus=ability).values, float(rise["spot"].sel(corpus=GENERAL))
    at = int(code.argmin())
    return (
        Finding("rise of the loss without the spot, the language that suffers least", float(code[at]), prose,
                f"at least {RATIO:g} times that of general texts (control)", bool(code[at] >= RATIO * max(prose, 0.0) and
                lows[0][at] > 0), "nats a token", float(lows[0][at]), float(lows[1][at])),
        _other("random weights", random, ability, float(code[at])),
        _other("the largest weights", rise["largest"], ability, float(code[at])),
    )  # fmt: skip


def _other(name: str, rise, ability: list[str], spot: float) -> Finding:
    """What other weights take away: little, or not of the ability alone."""
    code, prose = float(np.min(rise.sel(corpus=ability).values)), float(rise.sel(corpus=GENERAL))
    holds = code < spot / RATIO or code < RATIO * prose
    bar = f"under a tenth of the spot's, or under {RATIO:g} times that of general texts (control)"
    return Finding(f"the same without {name}", code, prose, bar, holds, "nats a token")


def _precision(spot: Weights, true) -> float:
    hits = sum(int(true[name].flatten()[at].sum()) for name, at in spot.places.items() if name in true)
    return hits / max(1, len(spot))


def _read(setup: Setup) -> tuple[dict[str, list[str]], list[str], str]:
    """Texts of every language and the general ones, from the labels of a file."""
    concept = next(iter(read_concepts(setup.data)))  # type: ignore[arg-type]
    labels = [str(concept.class_names[label]) for label in concept.labels.tolist()] if concept.class_names else []
    groups: dict[str, list[str]] = {}
    for text, label in zip(concept.texts, labels, strict=False):
        groups.setdefault(label, []).append(text)
    general = groups.pop(GENERAL, [])
    small = [name for name, of in {**groups, GENERAL: general}.items() if len(of) < 4]
    if not groups or small:
        raise InputError(
            f"{setup.data}: labels {sorted(groups)} and {len(general)} texts labelled {GENERAL}; coding-spot needs at least four "
            f"texts of {GENERAL} and of every language"
        )
    return groups, general, concept.name


def _reproduction(findings, results, setup: Setup, settings: dict) -> Reproduction:
    made = results["knock-out"].provenance
    provenance = Provenance(
        "coding-spot", made.n, setup.seed, made.model, made.revision, causal="ablation", passes=made.passes,
        settings={"quick": setup.quick, "share": SHARE, **settings},
    )  # fmt: skip
    return Reproduction("coding-spot", tuple(findings), provenance, results=results)
