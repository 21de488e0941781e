"""xcomps: what a model says, expects and encodes about concepts' properties, by language and kind of negative (He et al. 2025)."""

from dataclasses import replace

import numpy as np

from conceptlab.data.concept_pairs import ConceptPair, read_concept_pairs
from conceptlab.errors import InputError
from conceptlab.measure.probing.concept_evaluators import (
    EVALUATORS,
    LABELS,
    QUESTION,
    Evaluated,
    direct_margins,
    evaluate_pairs,
    metalinguistic_margins,
)
from conceptlab.model import Model, load_model
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction
from conceptlab.worlds import trained_bilingual as world

RECIPE = {
    "id": "xcomps",
    "claim": "Minimal pairs about properties of concepts show models weaker in languages they have read little of and where the "
    "wrong concept is close to the right one, whether they are asked, compared by probability or probed.",
    "number": "accuracy of questions, sequence probabilities and probes, by language and negative, and where the probe saturates",
    "control": "labels exchanged inside pairs, shuffled probes, a bag of words, and a twin that learnt nothing",
    "world": "a small decoder trained on facts in two languages, one of them in a text of twenty; in the full form also a twin",
    "model": "a causal language model, together with --data",
    "data": "a JSON list, JSON lines or CSV in the published form of concept pairs, or a folder with one such file a language",
    "methods": ["measure/probing/concept_evaluators", "measure/probing/layer_probe"],
}  # fmt: skip
KNOWN, APART, WORDS_ONLY = 0.95, 10.0, 0.6  # share, points, share


def reproduce(setup: Setup) -> Reproduction:
    """Run the three evaluators. Raises InputError for --model without --data and the other way round."""
    if (setup.model is None) != (setup.data is None):
        raise InputError("xcomps takes --model and --data together: pairs in the languages that the model has read")
    if setup.model is not None and setup.data is not None:
        return measured(setup.model, read_concept_pairs(setup.data), quick=setup.quick, seed=setup.seed)
    done = on_trained(setup)
    if setup.quick:
        return done
    return _beside(
        done, [on_trained(replace(setup, seed=setup.seed + i)) for i in (1, 2)], on_trained(setup, null=True)
    )


def on_trained(setup: Setup, *, null: bool = False) -> Reproduction:
    """The row on the small trained model (or its twin)."""
    made = world.trained_bilingual(seed=setup.seed, null=null, cache=setup.cache, progress=setup.progress)
    model = load_model(made.model, tokenizer=world.bilingual_tokenizer())
    done = measured(
        model, world.bilingual_pairs(), question=world.ASKED, labels=world.LABELS, languages=tuple(world.LANGUAGES),
        quick=setup.quick, seed=setup.seed,
    )  # fmt: skip
    return replace(done, notes=(*done.notes, made.note)) if made.note else done


def measured(  # noqa: PLR0913 - the settings of a run
    model: Model,
    pairs: list[ConceptPair],
    *,
    question: str = QUESTION,
    labels: tuple[str, str] = LABELS,
    languages: tuple[str, ...] | None = None,
    quick: bool,
    seed: int,
) -> Reproduction:
    """The findings on any model and pairs. `languages` name the one read often and the one read seldom, where that is known; only
    then are there verdicts about them."""
    found = evaluate_pairs(model, pairs, question=question, labels=labels, permutations=20 if quick else 100, seed=seed)
    known = languages is not None
    names = [str(v) for v in found.scores["language"].values]
    often, seldom = languages if languages is not None else (names[0], names[-1])
    notes: list[str] = (
        [] if known else ["which languages were read often is not known, so numbers by language have no verdict"]
    )
    findings = [*_accuracies(found, often, known), *_negatives(found, notes)]
    if len(names) > 1:
        findings.append(_gap(found, often, seldom, known))
    findings += [_exchanged(model, found, pairs, question, labels), _bag_of_words(found, often), *_depths(found, notes)]
    provenance = Provenance(
        "xcomps", len(pairs), seed, model.name, model.revision, passes=found.scores.provenance.passes,
        settings={"quick": quick, "languages": names, "negatives": [str(v) for v in found.scores["negative"].values]},
    )  # fmt: skip
    return Reproduction(
        "xcomps", tuple(findings), provenance, 0.0, tuple(notes), {"scores": found.scores, "curve": found.curve}
    )


def _accuracies(found: Evaluated, often: str, known: bool) -> list[Finding]:
    """Each evaluator on the easiest negatives of the language read often."""
    negative = _easiest(found)
    findings = []
    for evaluator in EVALUATORS:
        at = found.scores.data.sel(language=often, negative=negative, evaluator=evaluator)
        score = float(at["score"])
        findings.append(Finding(f"{evaluator} accuracy: {often}, {negative} negatives", score, float(at["control"]),
                                f"at least {KNOWN:.0%}" if known else "reported", score >= KNOWN if known else None, "share",
                                float(at["low"]), float(at["high"])))  # fmt: skip
    return findings


def _easiest(found: Evaluated) -> str:
    names = [str(v) for v in found.scores["negative"].values]
    return "random" if "random" in names else names[0]


def _negatives(found: Evaluated, notes: list[str]) -> list[Finding]:
    """How much harder each other kind of negative is than the easiest, mean over languages and evaluators."""
    easy = _easiest(found)
    others = [str(v) for v in found.scores["negative"].values if str(v) != easy]
    if not others:
        notes.append("all negatives are of one kind, so nothing is said about closer ones")
    findings = []
    for other in others:
        lost = 100 * (found.scores["score"].sel(negative=easy) - found.scores["score"].sel(negative=other))
        chance = 100 * (found.scores["control"].sel(negative=easy) - found.scores["control"].sel(negative=other))
        by = ", ".join(f"{e} {float(lost.sel(evaluator=e).mean()):.0f}" for e in EVALUATORS)
        findings.append(Finding(f"points lost where negatives are {other}, not {easy}", float(lost.mean()), float(chance.mean()),
                                f"above 0 (by evaluator: {by})", bool(lost.mean() > 0), "points", float(lost.min()),
                                float(lost.max())))  # fmt: skip
    return findings


def _gap(found: Evaluated, often: str, seldom: str, known: bool) -> Finding:
    scores, controls = found.scores["score"], found.scores["control"]
    lost = 100 * (scores.sel(language=often) - scores.sel(language=seldom))
    chance = 100 * (controls.sel(language=often) - controls.sel(language=seldom))
    by = ", ".join(f"{e} {float(lost.sel(evaluator=e).mean()):.0f}" for e in EVALUATORS)
    bar = f"at least {APART:g}" if known else "reported"
    return Finding(f"points lost in {seldom}, beside {often}", float(lost.mean()), float(chance.mean()),
                   f"{bar} (by evaluator: {by})", bool(lost.mean() >= APART) if known else None, "points", float(lost.min()),
                   float(lost.max()))  # fmt: skip


def _exchanged(
    model: Model, found: Evaluated, pairs: list[ConceptPair], question: str, labels: tuple[str, str]
) -> Finding:
    """Right and wrong exchanged must give one minus the accuracy; the control leaves them as they are."""
    swapped = [pair.swapped() for pair in pairs]
    again = {
        "direct": direct_margins(model, swapped),
        "metalinguistic": metalinguistic_margins(model, swapped, question, labels),
    }
    one, other = (np.array([_share(margins[name]) for name in again]) for margins in (found.margins, again))
    away = float(np.abs(one + other - 1).max())
    return Finding("accuracy and that with right and wrong exchanged: distance of their sum from 1", away,
                   float(np.abs(2 * one - 1).max()), "0 (control: not exchanged)", away < 1e-9, "share")  # fmt: skip


def _share(margins: np.ndarray) -> float:
    return float(np.where(margins == 0, 0.5, margins > 0).mean())


def _bag_of_words(found: Evaluated, often: str) -> Finding:
    """What words alone tell; where it is much, the pairs are not balanced and the probe shows nothing."""
    bow = found.curve["bow"].sel(language=often)
    peak = float(found.curve["score"].sel(language=often).max("layer").mean())
    worst = float(bow.max())
    return Finding("bag of words instead of the stream: highest accuracy", worst, peak,
                   f"at most {WORDS_ONLY} (control: the probe's peak)", worst <= WORDS_ONLY, "share")  # fmt: skip


def _depths(found: Evaluated, notes: list[str]) -> list[Finding]:
    """Where the probe saturates, beside where it does on shuffled labels (no place is better there: the middle of the axis)."""
    last = found.curve.data.sizes["layer"] - 1
    findings = []
    for language in map(str, found.curve["language"].values):
        place = float(found.curve["saturation"].sel(language=language).mean())
        name = f"saturation layer of the probe: {language}"
        if not np.isfinite(place):
            notes.append(f"{name}: no layer tells acceptable sentences from others beyond shuffled labels")
        findings.append(Finding(name, place, last / 2,
                                "reported (0 is the embedding; control: a layer at random)", None, "layers"))  # fmt: skip
    return findings


def _beside(done: Reproduction, others: list[Reproduction], null: Reproduction) -> Reproduction:
    """Two more models, and the twin that learnt nothing."""
    held = [r.holds for r in (done, *others)]
    share = Finding("trained models that meet every bar above", float(np.mean(held)), float(null.holds),
                    "all (control: the twin that learnt nothing)", all(held) and not null.holds, "share")  # fmt: skip
    by_chance = [f for f in null.findings if "accuracy:" in f.name]
    best = max(by_chance, key=lambda f: f.value)
    name = f"twin that learnt nothing: best {best.name}"
    twin = replace(best, name=name, bar=f"at most {WORDS_ONLY}", holds=best.value <= WORDS_ONLY)
    results = {**done.results, **{f"seed {r.provenance.seed}: {k}": v for r in others for k, v in r.results.items()}}
    passes = sum(r.provenance.passes for r in (done, *others, null))
    return replace(
        done,
        findings=(*done.findings, share, twin),
        results=results,
        provenance=replace(done.provenance, passes=passes),
    )
