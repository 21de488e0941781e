"""bag-of-heuristics: arithmetic answered by many neurons that each stand for a simple condition (Nikankin et al. 2024).

Neurons are searched in the layers from which more than half of the answers can be read by the lens. That share was set on seed 0 of
the trained model, where 0.1 took in its first layer, too: there the most active other neurons cost as much as the heuristics' own
(84 and 80 points), so what is found is how the answer is read out, not how it is computed: heuristics of the result above a first
layer that may well follow an algorithm. The row can say both: by rote or along a number line it does not hold.
"""

from dataclasses import dataclass, replace

import numpy as np

from conceptlab.data.arithmetic import Arithmetic, answer_tokens, operand_grid, read_arithmetic
from conceptlab.data.heuristics import heuristic_library
from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.find.neurons.answer_neurons import answer_neurons
from conceptlab.find.neurons.heuristic_neurons import heuristic_neurons
from conceptlab.measure.effects.heuristic_knockout import heuristic_knockout
from conceptlab.measure.effects.heuristic_specificity import heuristic_specificity
from conceptlab.measure.effects.neuron_sufficiency import neuron_sufficiency
from conceptlab.model import Model, load_model
from conceptlab.model.metric import Metric, logit_diff
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores, Site, Units
from conceptlab.worlds.heuristic_neurons import N
from conceptlab.worlds.heuristic_neurons import heuristic_neurons as heuristic_world
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.trained_arithmetic import N_OPERANDS, OPERATORS, arithmetic_tokenizer, trained_arithmetic

RECIPE = {
    "id": "bag-of-heuristics",
    "claim": "A language model answers two-operand arithmetic with an unordered set of neurons, each of which fires for a simple "
    "condition on operands or result; neither one algorithm nor rote explains its answers.",
    "number": "points of accuracy that prompts lose without the neurons of the heuristics they satisfy",
    "control": "as many other important neurons (random, and those most active on the prompt), and shuffled operand grids",
    "world": "24 heuristics, 3 exact pairs and 6 decoys that add; twins that add by rote and along a number line; the full form "
    "also trains a small transformer on sums and differences",
    "model": "a causal language model with MLP neurons; without --data it adds 0 to 19, where every number must be one token",
    "data": "CSV, JSONL or a JSON list with the columns prompt (up to its answer), left, right, operator, answer; one operator",
    "methods": ["find/neurons/answer_neurons", "find/neurons/heuristic_neurons", "measure/effects/heuristic_knockout",
                "measure/effects/heuristic_specificity", "measure/effects/neuron_sufficiency"],
}  # fmt: skip
DECODED, MATTERS, MOST_PER_LAYER, FEWEST_RIGHT = 0.5, 1e-3, 200, 20
NAMED, HALF, CHANCE, LOST, OTHERS, FAITHFUL = 0.95, 0.5, 0.05, 30.0, 5.0, 0.9


def reproduce(setup: Setup) -> Reproduction:
    """Rank neurons, name their heuristics, knock them out. Raises InputError for --data without --model, and for operands or
    answers of several tokens."""
    if setup.model is not None:
        cells = operand_grid(N_OPERANDS) if setup.data is None else read_arithmetic(setup.data)
        return measured(setup.model, cells, quick=setup.quick, seed=setup.seed)
    if setup.data is not None:
        raise InputError("bag-of-heuristics --data needs --model: the planted world knows its own numbers only")
    done = on_world(heuristic_world(seed=setup.seed), quick=setup.quick, seed=setup.seed)
    if setup.quick:
        return done
    twins = [on_world(heuristic_world(solution=s, seed=setup.seed), seed=setup.seed) for s in ("rote", "algorithm")]
    made = trained_arithmetic(seed=setup.seed, cache=setup.cache, progress=setup.progress)
    model = load_model(made.model, tokenizer=arithmetic_tokenizer())
    trained = {
        operator: measured(model, operand_grid(N_OPERANDS, operator=operator), quick=False, seed=setup.seed)
        for operator in OPERATORS
    }
    return _together(done, twins, trained, made.note)


def on_world(world: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on a world of sums (or one of its twins), and whether the planted names come back."""
    model, cells = load_model(world.model, tokenizer=world.tokenizer), operand_grid(N)
    done = measured(model, cells, quick=quick, seed=seed)
    if not world.truth["heuristics"]:
        return done
    pairs = {key: f"left = {a} and right = {b}" for key, (a, b) in world.truth["pairs"].items()}
    names = {**world.truth["heuristics"], **pairs, **world.truth["decoys"]}
    sites = [Site.parse(f"{key}.mlp_post") for key in names]
    found = heuristic_neurons(model, cells, world.answer_ids("clean"), sites, seed=seed)
    right = found.table["best"].values == np.array(list(names.values()))
    decoy = np.array([key in world.truth["decoys"] for key in names])
    inside = len(
        {str(s) for s, is_decoy in zip(sites, decoy, strict=True) if is_decoy} & {str(s) for s in _sites(done)}
    )
    extra = (
        Finding("planted neurons named as planted", float(right.mean()), float(found.table["named_shuffled"].mean()),
                f"at least {NAMED:.0%} (control: neurons named in shuffled grids)", bool(right.mean() >= NAMED), "share"),
        Finding("decoys among the neurons that matter", float(inside / decoy.sum()), float(right[decoy].mean()),
                "none (control: decoys named by their pattern alone)", inside == 0, "share"),
    )  # fmt: skip
    return replace(done, findings=(*extra, *done.findings), results={**done.results, "planted": found})


def measured(model: Model, cells: Arithmetic, *, quick: bool, seed: int) -> Reproduction:
    """The findings on any model and cells."""
    before, notes = model.forwards, []
    task = _task(model, cells, n_pairs=100 if quick else 200, seed=seed)
    important = answer_neurons(model, *task.pairs, task.metric, layers=task.layers, n_exact=MOST_PER_LAYER, seed=seed)
    results, findings = {"important": important}, _unsolved()
    sites = _those_that_matter(important)
    if not sites:
        notes.append(
            f"no neuron alone moves an answer by {MATTERS:.1%} of the way to another; no number for {'; '.join(NAMES)}"
        )
    else:
        named = heuristic_neurons(model, cells, task.answers.tolist(), sites, seed=seed)
        results["named"] = named
        if not named.table["covers"].values.any():
            notes.append(
                f"none of {len(sites)} neurons that matter stands for a heuristic; no number for {'; '.join(NAMES)}"
            )
        else:
            effects = _effects(model, cells, task, sites, named, quick=quick, seed=seed)
            results, findings = {**results, **effects}, _findings(effects, seed)
            notes += _missing(effects)
        findings = (_named(named), *findings)
    provenance = Provenance(
        "bag-of-heuristics", len(cells), seed, model.name, model.revision, causal="ablation", passes=round(model.forwards - before),
        settings={"quick": quick, "operator": cells.operator, "accuracy": len(task.right) / len(cells), "layers": list(task.layers),
                  "matter": len(sites)},
    )  # fmt: skip
    return Reproduction("bag-of-heuristics", findings, provenance, 0.0, tuple(notes), results)


@dataclass(frozen=True, eq=False)
class _Task:
    """`answers` [cell] as tokens, the cells answered `right`, prompts and counterfactuals as `pairs` with their `metric`, and the
    `layers` from which the answer can be read."""

    answers: np.ndarray
    right: np.ndarray
    pairs: tuple[list[str], list[str]]
    metric: Metric
    layers: tuple[int, ...]


def _task(model: Model, cells: Arithmetic, *, n_pairs: int, seed: int) -> _Task:
    answers = answer_tokens(model, cells)
    streams = model.capture(cells.prompts, "resid_post")["resid_post"]  # [cell, layer, d_model]
    says = np.stack([model.lens(streams[:, i]).argmax(-1).cpu().numpy() == answers for i in range(model.n_layers)])
    right = np.flatnonzero(says[-1])
    if len(right) < FEWEST_RIGHT:
        raise InputError(
            f"{model.name} answers {len(right)} of {len(cells)} prompts right, too few to say how (at least {FEWEST_RIGHT}); "
            "give prompts that it solves with --data"
        )
    start = int(np.argmax(says[:, right].mean(1) > DECODED))
    layers = tuple(layer for layer in model.layers_with("mlp_post") if layer >= start)
    rng = np.random.default_rng(seed)
    ours, theirs = rng.choice(right, n_pairs), rng.choice(right, n_pairs)
    other = answers[ours] != answers[theirs]
    ours, theirs = ours[other], theirs[other]
    texts = [cells.prompts[i] for i in ours], [cells.prompts[i] for i in theirs]
    return _Task(answers, right, texts, logit_diff(answers[ours].tolist(), answers[theirs].tolist()), layers)


def _those_that_matter(important: Units) -> list[Site]:
    """Neurons without which an answer moves by at least a thousandth of the way to another."""
    table = important.table
    kept = np.flatnonzero(table["score"].values >= MATTERS)
    return [Site("mlp_post", int(table["layer"].values[i]), (int(table["index"].values[i]),)) for i in kept]


def _sites(done: Reproduction) -> list[Site]:
    return _those_that_matter(done.results["important"])


def _effects(
    model: Model, cells: Arithmetic, task: _Task, sites: list[Site], named: Units, *, quick: bool, seed: int
) -> dict[str, Scores]:
    """Knock-out by prompt, by heuristic, and what the named neurons do alone."""
    rng = np.random.default_rng(seed)
    asked = np.sort(rng.permutation(task.right)[: 60 if quick else 200])
    some, answers, table = cells.select(asked), task.answers[asked].tolist(), named.table
    library = heuristic_library(cells)
    by_prompt = heuristic_knockout(
        model, some.prompts, answers, sites, table["covers"].values[:, asked], n_random=5 if quick else 20, seed=seed
    )
    found = {"by prompt": by_prompt}
    if table["member"].values.any():
        found["by heuristic"] = heuristic_specificity(
            model, some.prompts, answers, sites, table["member"].values, library.masks[:, asked], library.names,
            fewest=1 if quick else 2, seed=seed,
        )  # fmt: skip
    kept = [site for site, is_named in zip(sites, table["kind"].values != "", strict=True) if is_named]
    texts, _ = task.pairs
    found["alone"] = neuron_sufficiency(
        model, texts, task.metric, kept, task.layers, n_random=10 if quick else 40, seed=seed
    )
    return found


NAMES = (
    "accuracy lost without the neurons of a prompt's heuristics",
    "the same, beside the most active other neurons",
    "probability lost by a heuristic's prompts without its neurons",
    "faithfulness of the named neurons alone",
)


def _missing(effects: dict[str, Scores]) -> list[str]:
    """Why a finding has no number."""
    found = (
        []
        if "by heuristic" in effects
        else [f"exact pairs only, so no heuristic has members; no number for {NAMES[2]}"]
    )
    if not effects["by prompt"].provenance.n:
        found.append(f"no prompt has a heuristic and as many other neurons; no number for {NAMES[0]}; {NAMES[1]}")
    return found


def _named(named: Units) -> Finding:
    table = named.table
    share, shuffled = float((table["kind"].values != "").mean()), float(table["named_shuffled"].mean())
    low, high = bootstrap_share((table["kind"].values != "").astype(float))
    return Finding("neurons that matter and stand for a heuristic", share, shuffled,
                   f"at least {HALF:.0%}, in shuffled grids at most {CHANCE:.0%}", share >= HALF and shuffled <= CHANCE, "share",
                   low, high)  # fmt: skip


def _findings(effects: dict[str, Scores], seed: int) -> tuple[Finding, ...]:
    by_prompt, alone = effects["by prompt"].data, effects["alone"].data
    own, active = (
        {n: float(by_prompt[n].values[i]) for n in by_prompt if by_prompt[n].dims == ("set",)} for i in (0, 1)
    )
    beyond = 100 * (by_prompt["lost"].values - by_prompt["lost_active"].values)
    low = float(bootstrap_mean(beyond, seed=seed)[0]) if len(beyond) else float("nan")
    first = Finding(NAMES[0], own["score"], own["control"], f"at least {LOST:g}, as many others at most {OTHERS:g}",
                    own["score"] >= LOST and own["control"] <= OTHERS, "points", own["low"], own["high"])  # fmt: skip
    second = Finding(NAMES[1], own["score"], active["score"], "more: interval of the difference above 0", low > 0, "points",
                     own["low"], own["high"])  # fmt: skip
    share = {n: float(alone[n]) for n in ("score", "low", "high", "control", "control_high")}
    last = Finding(NAMES[3], share["score"], share["control"], f"at least {FAITHFUL:g} and above all random sets",
                   share["score"] >= FAITHFUL and share["score"] > share["control_high"], "share", share["low"],
                   share["high"])  # fmt: skip
    return (first, second, _specific(effects.get("by heuristic")), last)


def _specific(found: Scores | None) -> Finding:
    if found is None:
        return _unsolved()[2]
    said = found.data.attrs
    return Finding(NAMES[2], said["mean"], said["mean_control"], "more than other prompts lose (p <= 0.05 over heuristics)",
                   said["p"] <= 0.05, "points", said["low"], said["high"])  # fmt: skip


def _unsolved() -> tuple[Finding, ...]:
    """What is said where there is nothing to knock out."""
    return tuple(Finding(name, float("nan"), None, "there are heuristics to knock out", False) for name in NAMES)


def _together(
    done: Reproduction, twins: list[Reproduction], trained: dict[str, Reproduction], note: str
) -> Reproduction:
    """The planted bag, its twins where nothing should be found, and the trained model."""
    rote, algorithm = twins
    named = {f.name: f for f in rote.findings}["neurons that matter and stand for a heuristic"].value
    bag = {f.name: f for f in done.findings}["neurons that matter and stand for a heuristic"].value
    extra = (
        Finding("by rote: neurons that matter and stand for a heuristic", named, bag, f"at most {CHANCE:.0%} (control: the bag)",
                named <= CHANCE, "share"),
        Finding("by an algorithm: neurons that matter", float(len(_sites(algorithm))), float(len(_sites(done))),
                "none (control: the bag)", not _sites(algorithm), "neurons"),
    )  # fmt: skip
    later = tuple(replace(f, name=f"trained, {op}: {f.name}") for op, r in trained.items() for f in r.findings)
    notes = [
        *done.notes,
        *(f"trained, {op}: {n}" for op, r in trained.items() for n in r.notes),
        *([note] if note else []),
    ]
    results = {**done.results, **{f"trained {op}: {k}": v for op, r in trained.items() for k, v in r.results.items()}}
    settings = {
        **done.provenance.settings,
        **{f"trained {op}": dict(r.provenance.settings) for op, r in trained.items()},
    }
    passes = sum(r.provenance.passes for r in (done, *twins, *trained.values()))
    return replace(done, findings=(*done.findings, *extra, *later), notes=tuple(notes), results=results,
                   provenance=replace(done.provenance, settings=settings, passes=passes))  # fmt: skip
