"""factual-recall-neurons: do models call up the facts they need on the way, and what does more or less of that do (2024)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from conceptlab.data.two_hops import TwoHop, read_two_hops
from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean
from conceptlab.find.neurons.knowledge_neurons import Fact, knowledge_neurons, neurons_of
from conceptlab.measure.effects.recall_scores import recall_scores
from conceptlab.measure.effects.set_effects import set_effects
from conceptlab.model import Model, load_model
from conceptlab.model.answers import first_tokens
from conceptlab.model.metric import log_prob, right
from conceptlab.numerics.ranks import auc
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores, Site
from conceptlab.worlds.default import default_model_path
from conceptlab.worlds.default.facts import OF_COUNTRY, PERSON_FACTS
from conceptlab.worlds.default.world import Country
from conceptlab.worlds.default.world import world as closed_world
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.stored_hops import BOTH, GUESS, stored_hops

RECIPE = {
    "id": "factual-recall-neurons",
    "claim": "Models often go around the facts that a question of two hops needs; firing the fact's neurons more strongly improves "
    "reasoning, silencing them harms it.",
    "number": "precision of the five best neurons of a fact, recall scores with and without a shortcut, and accuracy with the "
    "fact's neurons at x2 and x0",
    "control": "ranking by activation, random neurons of the same layers under the same change, and prompts that need no fact",
    "world": "facts stored in neurons over two hops with a shortcut beside; the full form adds the embedded trained model",
    "model": "a causal language model with neurons, together with --data",
    "data": "CSV, JSONL or a JSON list with the columns prompt, answer, fact, direct (three wordings or more, separated by |), "
    "bridge",
    "methods": ["find/neurons/knowledge_neurons", "measure/attribution/integrated_gradients", "measure/effects/recall_scores",
                "measure/effects/set_effects"],
}  # fmt: skip
PRECISION, AUC, STILL, TOP = 0.9, 0.9, 0.02, 5
CHAIN, CONFLICT, OTHER = "a chain of thought", "a conflicting fact", "a fact about something else"
MORE = "recall in the question after a chain of thought, less that after a fact about something else"


def reproduce(setup: Setup) -> Reproduction:
    """The planted world (in full also the embedded model), or a user's model and questions.

    Raises InputError for --model without --data and the other way round.
    """
    if (setup.model is None) != (setup.data is None):
        raise InputError(
            "factual-recall-neurons takes --model and --data together: the facts must be ones the model knows"
        )
    if setup.model is not None and setup.data is not None:
        rows = read_two_hops(setup.data, most=60 if setup.quick else 300)
        return measured(setup.model, rows, quick=setup.quick, seed=setup.seed)
    planted = on_world(stored_hops(seed=setup.seed), quick=setup.quick, seed=setup.seed)
    if setup.quick:
        return planted
    found = measured(load_model(default_model_path()), embedded_rows(), quick=False, seed=setup.seed)
    named = tuple(Finding(**{**vars(f), "name": f"embedded model: {f.name}"}) for f in found.findings)
    return Reproduction(
        planted.id, (*planted.findings, *named), planted.provenance, 0.0, (*planted.notes, *found.notes),
        {**planted.results, **{f"embedded {name}": result for name, result in found.results.items()}},
    )  # fmt: skip


def on_world(world: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on a world of stored facts (or its null twin), with its truth and its shortcut prompts."""
    model, truth = load_model(world.model, tokenizer=world.tokenizer), stored_hops(seed=seed).truth
    rows = _rows_of(world, BOTH)
    hops = [Fact(row["bridge"], world.prompts[f"second {row['bridge']}"], row["object"]) for row in world.truth["rows"]]
    second = knowledge_neurons(model, hops)
    done = measured(model, rows, quick=quick, seed=seed, shortcut=_rows_of(world, GUESS), planted=truth["first"])
    at_second = _precision("second", second, truth["second"], seed)
    return Reproduction(
        done.id, (*done.findings, at_second), done.provenance, 0.0, done.notes, {**done.results, "second hop": second}
    )


def _rows_of(world: PlantedWorld, mode: str) -> list[TwoHop]:
    of = {row["subject"]: row for row in world.truth["rows"]}
    found = []
    for prompt, answer in zip(world.prompts[mode], world.answers[mode], strict=True):
        row = of[prompt.split()[2]]
        found.append(TwoHop(prompt, answer, row["subject"], world.prompts[f"first {row['subject']}"], row["bridge"]))
    return found


def embedded_rows() -> list[TwoHop]:
    """Where people of the closed world were born, asked in three wordings, and what follows from it."""
    w, found = closed_world(), []
    for person in list(w.people.values())[:16]:
        direct = tuple(wording.format(person.name) for wording in PERSON_FACTS["born"])
        country: Country = w.country_of[person.born]
        for relation in ("capital", "language", "money"):
            prompt = OF_COUNTRY[relation].format(f"{person.name} was born")
            found.append(TwoHop(prompt, getattr(country, relation), person.name, direct,
                                person.born))  # fmt: skip
    return found


def measured(  # noqa: PLR0913 - the row, and what of it only a planted world knows
    model: Model,
    rows: list[TwoHop],
    *,
    quick: bool,
    seed: int,
    shortcut: list[TwoHop] | None = None,
    planted: dict[str, list[str]] | None = None,
) -> Reproduction:
    """The findings on any model and questions; only facts that the model answers right in every wording are used."""
    before, notes = model.forwards, []
    facts = [Fact(row.fact, row.direct, row.bridge) for row in {row.fact: row for row in rows}.values()]
    known = _known(model, facts)
    if len(known) < 2:
        raise InputError(
            f"{model.name} answers {len(known)} of {len(facts)} direct facts right; give facts that it knows"
        )
    kn = knowledge_neurons(model, known)
    sets = {fact.name: neurons_of(kn, fact.name, most=None if planted else TOP) for fact in known}
    kept = {name: sites for name, sites in sets.items() if sites}
    notes.append(
        f"{len(known)} of {len(facts)} facts are answered right when asked directly, {len(kept)} of them have neurons"
    )
    findings = [] if planted is None else [_precision("first", kn, planted, seed)]
    results: dict[str, Scores] = {"knowledge neurons": kn}
    used = [row for row in rows if row.fact in kept]
    if used:
        direct = {fact.name: fact.prompts for fact in known}
        recall = _recall(model, used, kept, direct, seed)
        results["recall"] = recall
        findings += _recalled(model, used, recall, shortcut, kept, direct, seed)
        findings += _changed(model, used, kept, 5 if quick else 20, seed)
        if not quick:
            findings += _in_context(model, used, kept, direct, seed, stop="" if planted else ".")
    else:
        notes.append("no fact has neurons of its own, so nothing was changed")
    provenance = Provenance(
        "factual-recall-neurons", len(used), seed, model.name, model.revision, causal="ablation" if used else "none",
        settings={"quick": quick, "facts": len(kept)}, passes=round(model.forwards - before), warnings=kn.provenance.warnings,
    )  # fmt: skip
    return Reproduction("factual-recall-neurons", tuple(findings), provenance, 0.0, tuple(notes), results)


def _known(model: Model, facts: list[Fact]) -> list[Fact]:
    """Facts whose answer leads in most wordings."""
    found = []
    for fact in facts:
        prompts = list(fact.prompts)
        ids = torch.tensor(first_tokens(model, prompts, [fact.answer] * len(prompts)))
        if float((model.logits(prompts).argmax(-1).cpu() == ids).float().mean()) > 0.5:
            found.append(fact)
    return found


def _precision(hop: str, scores: Scores, planted: dict[str, list[str]], seed: int) -> Finding:
    """Share of the five best neurons of every fact that are the planted ones."""
    names = scores.data["fact"].values.tolist()

    def share(by: str) -> np.ndarray:
        found = ([f"L{s.layer}.N{s.units[0]}" for s in neurons_of(scores, name, most=TOP, by=by)] for name in names)
        return np.array(
            [len(set(best) & set(planted.get(name, []))) / TOP for name, best in zip(names, found, strict=True)]
        )

    value, control = share("score"), float(share("activation").mean())
    low, high = bootstrap_mean(value, seed=seed)
    return Finding(f"precision of the five best neurons, {hop} hop", float(value.mean()), control,
                   f"at least {PRECISION:g} (control: the five that fire most)", bool(value.mean() >= PRECISION), "share",
                   float(low), float(high))  # fmt: skip


def _recall(
    model: Model, rows: list[TwoHop], sets: dict[str, list[Site]], direct: dict[str, tuple[str, ...]], seed: int
) -> Scores:
    return recall_scores(model, [row.prompt for row in rows], [row.fact for row in rows], sets, direct, seed=seed)


def _recalled(  # noqa: PLR0913 - private half of measured
    model: Model, rows: list[TwoHop], recall: Scores, shortcut: list[TwoHop] | None, sets: dict[str, list[Site]],
    direct: dict[str, tuple[str, ...]], seed: int,
) -> list[Finding]:  # fmt: skip
    value, groups = recall["score"].values, np.array([row.fact for row in rows])
    low, high = bootstrap_mean(value, groups, seed=seed)
    found = [Finding("recall score while reasoning (1: as when asked directly)", float(value.mean()),
                     float(recall["control"].values.mean()), "reported (control: random neurons of the same layers)", None, "ratio",
                     float(low), float(high))]  # fmt: skip
    if shortcut:
        other = _recall(model, [row for row in shortcut if row.fact in sets], sets, direct, seed)
        labels = torch.tensor([1.0] * len(value) + [0.0] * other.data.sizes["prompt"])[:, None]
        both = {name: torch.from_numpy(np.concatenate([recall[name].values, other[name].values]))[:, None]
                for name in ("score", "control")}  # fmt: skip
        area, beside = (float(auc(both[name].float(), labels)[0]) for name in ("score", "control"))
        found.append(Finding("AUC of the recall score, prompts that recall against prompts with a shortcut", area, beside,
                             f"at least {AUC:g} (control: random neurons)", area >= AUC, "AUC"))  # fmt: skip
    return found


def said_first(rows: Sequence[TwoHop], *, stop: str = ".") -> dict[str, list[str]]:
    """What is said before each question, by kind: its own fact, the same with the bridge of another, and another one's fact.

    Raises InputError where all facts have one bridge, so that none can conflict.
    """
    facts = list({row.fact: row for row in rows}.values())
    found: dict[str, list[str]] = {CHAIN: [], CONFLICT: [], OTHER: []}
    for row in rows:
        others = [other for other in facts if other.bridge != row.bridge]
        if not others:
            raise InputError(
                f"every fact has the bridge {row.bridge!r}, so none conflicts with another; give two bridges or more"
            )
        other = others[facts.index(next(f for f in facts if f.fact == row.fact)) % len(others)]
        found[CHAIN].append(f"{row.direct[0]} {row.bridge}{stop}")
        found[CONFLICT].append(f"{row.direct[0]} {other.bridge}{stop}")
        found[OTHER].append(f"{other.direct[0]} {other.bridge}{stop}")
    return found


def _in_context(  # noqa: PLR0913 - the same questions after other texts
    model: Model, rows: list[TwoHop], sets: dict[str, list[Site]], direct: dict[str, tuple[str, ...]], seed: int, *, stop: str
) -> list[Finding]:  # fmt: skip
    """Recall while the question itself is read, and accuracy, with a statement in front: the fact itself, a false one, another."""
    names, groups = [row.fact for row in rows], np.array([row.fact for row in rows])
    plain = [row.prompt for row in rows]
    clean = float(_right_share(model, plain, rows).mean())
    recall: dict[str, Scores] = {}
    found, right_ones = [], []
    for what, told in said_first(rows, stop=stop).items():
        prompts = [f"{before} {prompt}" for before, prompt in zip(told, plain, strict=True)]
        asked = model.encode(plain).lengths
        since = [whole - own + 1 for whole, own in zip(model.encode(prompts).lengths, asked, strict=True)]
        recall[what] = recall_scores(model, prompts, names, sets, direct, since=since, seed=seed)
        value, beside = recall[what]["score"].values, float(recall[what]["control"].values.mean())
        found.append(_mean(f"recall score in the question after {what}", value, beside, groups, seed, "ratio",
                           "reported (control: random neurons of the same layers)"))  # fmt: skip
        right_ones.append(_mean(f"answers right after {what}", _right_share(model, prompts, rows), clean, groups, seed, "share",
                                "reported (control: with nothing said before)"))  # fmt: skip
    more = recall[CHAIN].data - recall[OTHER].data
    last = _mean(
        MORE,
        more["score"].values,
        float(more["control"].mean()),
        groups,
        seed,
        "ratio",
        "interval above 0 (control: random neurons)",
    )
    return [*found, replace(last, holds=bool((last.low or 0.0) > 0)), *right_ones]


def _mean(  # noqa: PLR0913 - one finding
    name: str, values: np.ndarray, control: float, groups: np.ndarray, seed: int, unit: str, bar: str
) -> Finding:  # fmt: skip
    low, high = bootstrap_mean(values, groups, seed=seed)
    return Finding(name, float(values.mean()), control, bar, None, unit, float(low), float(high))


def _right_share(model: Model, prompts: list[str], rows: Sequence[TwoHop]) -> np.ndarray:
    """1 where the answer leads."""
    ids = torch.tensor(first_tokens(model, prompts, [row.answer for row in rows]))
    return (model.logits(prompts).argmax(-1).cpu() == ids).float().numpy()


def _changed(model: Model, rows: list[TwoHop], sets: dict[str, list[Site]], n_random: int, seed: int) -> list[Finding]:
    """Accuracy with every fact's own neurons doubled and silenced, and what that does to the answer's log probability."""
    found, names = [], [name for name in sets if any(row.fact == name for row in rows)]
    for what, strength, sign in (("x2", 2.0, 1.0), ("x0", 0.0, -1.0)):
        for metric, unit in ((right, "share"), (log_prob, "nats")):
            moved = np.array(
                [
                    _one(model, [r for r in rows if r.fact == n], sets[n], metric, strength, n_random, seed)
                    for n in names
                ]
            )
            value, beside = moved.mean(0)
            low, high = (float(end) for end in bootstrap_mean(moved[:, 0], seed=seed))
            bar = f"{'above' if sign > 0 else 'below'} 0 with its interval"
            holds = low > 0 if sign > 0 else high < 0
            if unit == "share":
                bar, holds = f"{bar}, random neurons within {STILL:.0%}", holds and abs(beside) <= STILL
            name = "accuracy" if unit == "share" else "log probability of the answer"
            verdict = (bar, bool(holds)) if unit == "share" else ("reported", None)
            what_changed = f"change of {name}, the fact's neurons at {what}"
            found.append(Finding(what_changed, float(value), float(beside), *verdict, unit, low, high))
    return found


def _one(  # noqa: PLR0913 - one fact, fully stated
    model: Model, rows: Sequence[TwoHop], sites: list[Site], metric, strength: float, n_random: int, seed: int
) -> tuple[float, float]:
    """Change of the metric, and under as many random neurons of the same layers."""
    prompts = [row.prompt for row in rows]
    ids = first_tokens(model, prompts, [row.answer for row in rows])
    lost = set_effects(
        model,
        prompts,
        {"fact": sites},
        metric(ids),
        op="scale",
        strength=strength,
        same_layers=True,
        n_random=n_random,
        seed=seed,
    )
    return -float(lost["score"][0]), -float(lost["control"][0])
