"""llms-dont-know: errors that go with the subject are recalled as right answers are; detached ones can be told (Cheang 2025)."""

from dataclasses import replace

import numpy as np

from conceptlab.data.fact_queries import FactQuery, read_fact_queries
from conceptlab.errors import InputError
from conceptlab.measure.patching.attention_knockout import attention_knockout
from conceptlab.measure.patching.subject_trace import subject_trace
from conceptlab.measure.probing.answered_facts import KINDS, AnsweredFacts, answer_facts
from conceptlab.measure.probing.error_detectors import error_detectors
from conceptlab.model import Model, load_model
from conceptlab.model.metric import right
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores
from conceptlab.worlds.trained_facts import SCHEDULE, SHORT, fact_queries, facts_tokenizer, trained_facts

RECIPE = {
    "id": "llms-dont-know",
    "claim": "Wrong answers that grow out of real associations with the subject run through the same recall as right ones and "
    "escape detection, whereas answers detached from the subject can be spotted.",
    "number": "AUC of detectors on unseen subjects for either kind of error, and answers changed without attention to the subject",
    "control": "labels shuffled between subjects, which word is said, and attention to random other tokens",
    "world": "a small decoder trained on homes of people: known ones, ones whose home it was never told but whose dream it was, "
    "and strangers; in the full form also its twin without strangers",
    "model": "a causal language model that attends through transformers' interface, together with --data",
    "data": "CSV, JSONL or a JSON list with the columns prompt, subject, answer, associated (answers that go with the subject, "
    "separated by ;, or -)",
    "methods": ["measure/probing/answered_facts", "measure/probing/error_detectors", "measure/patching/subject_trace",
                "measure/patching/attention_knockout"],
}  # fmt: skip
SPOTTED, HIDDEN, ALIKE, FEWEST = 0.9, 0.65, 10.0, 6  # AUC, AUC, points, subjects of a kind


def reproduce(setup: Setup) -> Reproduction:
    """Sort the answers, detect, trace and block. Raises InputError for --model without --data and the other way round."""
    if (setup.model is None) != (setup.data is None):
        raise InputError(
            "llms-dont-know takes --model and --data together: what goes with a subject is said in the file"
        )
    if setup.model is not None and setup.data is not None:
        queries = read_fact_queries(setup.data, most=300 if setup.quick else 3000)
        return measured(setup.model, queries, quick=setup.quick, seed=setup.seed)
    done = on_trained(setup)
    if setup.quick:
        return done
    return _beside(
        done, [on_trained(replace(setup, seed=setup.seed + i)) for i in (1, 2)], on_trained(setup, null=True)
    )


def on_trained(setup: Setup, *, null: bool = False) -> Reproduction:
    """The row on the small trained model (or its twin without strangers)."""
    schedule = SHORT if setup.quick else SCHEDULE
    made = trained_facts(seed=setup.seed, null=null, schedule=schedule, cache=setup.cache, progress=setup.progress)
    model = load_model(made.model, tokenizer=facts_tokenizer())
    queries = fact_queries(setup.seed, per_person=2 if setup.quick else 3)
    done = measured(model, queries, quick=setup.quick, seed=setup.seed)
    return replace(done, notes=(*done.notes, made.note)) if made.note else done


def measured(model: Model, queries: list[FactQuery], *, quick: bool, seed: int) -> Reproduction:
    """The findings on any model and questions. Raises InputError where right answers or errors are too few to compare."""
    before = model.forwards
    answered = answer_facts(model, queries)
    counts = {kind: answered.subjects(kind) for kind in KINDS}
    if counts["correct"] < FEWEST or max(counts["associated"], counts["detached"]) < FEWEST:
        told = ", ".join(f"{n} {kind}" for kind, n in counts.items())
        raise InputError(
            f"{model.name} answers about {told} subjects; {FEWEST} correct ones and {FEWEST} of a kind of error are needed"
        )
    detectors = error_detectors(model, answered, permutations=20 if quick else 100, seed=seed)
    kinds = [kind for kind in KINDS if counts[kind] >= FEWEST]
    notes = [
        f"{k}: {counts[k]} subjects are too few ({FEWEST}); no number for findings about {k} errors"
        for k in KINDS
        if k not in kinds
    ]
    blocked = {kind: _blocked(model, answered, kind, seed) for kind in kinds}
    traces = {kind: _traced(model, answered, kind, seed) for kind in kinds}
    findings = (*_detection(detectors, notes), *_flow(blocked), *_recall(traces))
    results = {"detectors": detectors, **{f"blocked, {k}": v for k, v in blocked.items()},
               **{f"trace, {k}": v for k, v in traces.items()}}  # fmt: skip
    provenance = Provenance(
        "llms-dont-know", len(queries), seed, model.name, model.revision, causal="ablation", passes=round(model.forwards - before),
        settings={"quick": quick, "answers": {k: len(answered.rows(k)) for k in KINDS}, "subjects": counts},
    )  # fmt: skip
    return Reproduction("llms-dont-know", findings, provenance, 0.0, tuple(notes), results)


def _blocked(model: Model, answered: AnsweredFacts, kind: str, seed: int) -> Scores:
    """Answers of one kind that change when the last word cannot attend to the subject, in all layers together."""
    rows = answered.rows(kind).tolist()
    spans = {"subject": [answered.subject[r] for r in rows]}
    said = answered.said[rows].tolist()
    return attention_knockout(
        model, answered.batch.select(rows), right(said), spans, window=None, variant="mask", n_random=2, seed=seed
    )


def _traced(model: Model, answered: AnsweredFacts, kind: str, seed: int) -> Scores:
    rows = answered.rows(kind).tolist()
    positions = [answered.subject[r][-1] for r in rows]
    batch, groups = answered.batch.select(rows), answered.groups[rows]
    return subject_trace(model, batch, positions, answered.said[rows].tolist(), groups, seed=seed)


def _detection(found: Scores, notes: list[str]) -> list[Finding]:
    def of(contrast: str, detector: str, bar: str, verdict) -> Finding:
        at = found.data.sel(contrast=contrast, detector=detector)
        score = float(at["score"])
        name = f"AUC by {detector}: {contrast}"
        if not np.isfinite(score):
            notes.append(f"{name}: too few subjects")
            return Finding(name, float("nan"), None, bar, False if verdict is not None else None, "AUC")
        holds = None if verdict is None else bool(verdict(score))
        return Finding(name, score, float(at["control"]), bar, holds, "AUC", float(at["low"]), float(at["high"]))

    return [
        of("detached", "state", f"at least {SPOTTED}", lambda v: v >= SPOTTED),
        of("associated", "state", f"at most {HIDDEN}", lambda v: v <= HIDDEN),
        of("any error", "state", "reported", None),
        of("detached, same words", "state", "reported: the word alone says nothing here", None),
        of("detached", "word", "reported: a baseline", None),
        of("detached", "confidence", "reported", None),
        of("associated", "confidence", "reported", None),
        of("detached", "subject norm", "reported", None),
        of("associated", "subject norm", "reported", None),
    ]


def _flow(blocked: dict[str, Scores]) -> list[Finding]:
    """Answers that change without attention to the subject: alike for right and associated ones, few for detached ones."""
    alike = "answers changed without attention to the subject: associated less correct"
    few = "answers changed without attention to the subject: detached"
    share = {kind: 100 * float(b["score"].values.item()) for kind, b in blocked.items()}
    random = {kind: 100 * float(b["control"].values.item()) for kind, b in blocked.items()}
    findings = []
    if "associated" in share:
        away = share["associated"] - share["correct"]
        findings.append(Finding(alike, away, random["associated"] - random["correct"],
                                f"within {ALIKE:g} (correct: {share['correct']:.0f}; control: random other tokens)",
                                abs(away) <= ALIKE, "points"))  # fmt: skip
    if "detached" in share:
        low, high = (100 * float(blocked["detached"][c].values.item()) for c in ("low", "high"))
        findings.append(Finding(few, share["detached"], share["correct"], f"at most {ALIKE:g} (control: correct answers)",
                                share["detached"] <= ALIKE, "points", low, high))  # fmt: skip
    return findings


def _recall(traces: dict[str, Scores]) -> list[Finding]:
    """Answers that change when another subject's state is put in, at the layer where right answers change most."""
    layer = int(traces["correct"]["score"].values.argmax())
    findings = []
    for kind, trace in traces.items():
        at = trace.data.isel(layer=layer)
        value, low, high, control = (100 * float(at[c]) for c in ("score", "low", "high", "control"))
        findings.append(Finding(f"answers changed with another subject's state: {kind}", value, control,
                                f"reported (layer {layer}, where right answers change most; control: a random direction)", None,
                                "points", low, high))  # fmt: skip
    return findings


def _beside(done: Reproduction, others: list[Reproduction], null: Reproduction) -> Reproduction:
    """The same bars on two more models, and the twin without strangers, whose errors are all associated."""
    held = [r.holds for r in (done, *others)]
    share = Finding("trained models that meet every bar above", float(np.mean(held)), float(null.holds),
                    "all (control: the twin without strangers)", all(held) and not null.holds, "share")  # fmt: skip
    hidden = {f.name: f for f in null.findings}["AUC by state: any error"]
    twin = replace(
        hidden,
        name="twin without strangers: AUC by state: any error",
        bar=f"at most {HIDDEN}",
        holds=hidden.value <= HIDDEN,
    )
    results = {**done.results, **{f"seed {r.provenance.seed}: {k}": v for r in others for k, v in r.results.items()}}
    passes = sum(r.provenance.passes for r in (done, *others, null))
    notes = (*done.notes, *(f"twin without strangers: {n}" for n in null.notes))
    return replace(done, findings=(*done.findings, share, twin), results=results, notes=notes,
                   provenance=replace(done.provenance, passes=passes))  # fmt: skip
