"""reasoning-misalignment: heads that read the thoughts decide what is refused, and tuning takes over the neurons of refusal."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conceptlab.data.answer_pairs import AnswerPairs, read_answer_pairs
from conceptlab.data.records import read_records, texts_of
from conceptlab.errors import DataError, InputError
from conceptlab.find.heads.span_heads import span_heads
from conceptlab.find.neurons.contrast_neurons import contrast_neurons, stable_neurons
from conceptlab.measure.effects.entanglement import entanglement
from conceptlab.measure.effects.set_effects import set_effects
from conceptlab.model import Model, load_model
from conceptlab.model.answers import first_token_pairs
from conceptlab.model.metric import logit_diff
from conceptlab.numerics.ranks import mean_ranks
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores, Site, Units
from conceptlab.train import Schedule
from conceptlab.worlds.refusals import (
    IDS,
    SCHEDULE,
    TUNING,
    counterfactuals,
    refusing,
    requests,
    sums,
    tokenizer,
    true_neurons,
    tuned,
)

RECIPE = {
    "id": "reasoning-misalignment",
    "claim": "A model refuses where certain heads look away from its thoughts; the neurons that its refusals need are taken over "
    "by reasoning sooner than other neurons, which foretells how much safety is lost when reasoning is trained in.",
    "number": "refusal margin lost without the best head, entanglement of safety neurons, its correlation with lost refusals",
    "control": "random heads and neurons of the same layers, the arm whose neurons are apart",
    "world": "a small model that refuses and does sums, on shared neurons or on neurons apart, tuned on further sums",
    "model": "a causal language model that attends through transformers' interface, together with --data",
    "data": "CSV, JSONL or a JSON list with the columns clean (a request with thoughts after which the model complies), corrupted "
    "(the same, equally long, after which it refuses), answer and distractor (the next word of either), thoughts (part of clean); "
    "or a folder with pairs.* of that form, new.* (column text: the task that was trained) and after/ (the tuned model)",
    "methods": ["find/heads/span_heads", "find/neurons/contrast_neurons", "measure/effects/entanglement",
                "measure/effects/set_effects"],
}  # fmt: skip
CORRELATED, N_TEXTS = 0.7, 96
ARMS, QUICK_ARMS = (0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 1.0)
SHORT = Schedule(steps=120, learning_rate=8e-3, warmup=20, target_loss=0.05)
SHORT_TUNING = Schedule(steps=40, learning_rate=TUNING.learning_rate, warmup=10)
SMALL = 64  # rows a batch of the quick form
LEAST, FEW = 16, 5  # pairs of a user's file, half of them choose; neurons at least that count as the largest


@dataclass(frozen=True, eq=False)
class Arm:
    """One model before and after tuning: what of its refusals is lost, and how entangled its safety neurons are."""

    shared: float
    model: Model
    neurons: Units
    shift: Scores
    lost: float  # of the margin refuse - comply on harmful requests, logits
    distance: float  # of the tuned weights, relative


def reproduce(setup: Setup) -> Reproduction:
    """Train the arms, find heads and neurons, tune, compare; or find them in a user's model, and compare it with its tuned form
    where the data folder holds one. Raises InputError for --model without --data and the other way round."""
    if (setup.model is None) != (setup.data is None):
        raise InputError(
            "reasoning-misalignment takes --model and --data together: requests with thoughts that the model answers either way"
        )
    if setup.model is not None and setup.data is not None:
        return on_users(setup.model, setup.data, quick=setup.quick, seed=setup.seed)
    shares, seeds = (QUICK_ARMS, 1) if setup.quick else (ARMS, 2)
    arms = [_arm(shared, setup.seed + at, setup) for at in range(seeds) for shared in shares]
    heads, effects = _heads(arms[0].model, setup)
    apart, together = ([arm for arm in arms if arm.shared == end] for end in (0.0, 1.0))
    findings = (
        _of_heads(effects),
        *_of_neurons(apart, together),
        *((_foretold(arms),) if len(arms) > 4 else ()),
    )
    provenance = Provenance(
        "reasoning-misalignment", len(arms), setup.seed, arms[0].model.name, causal="ablation",
        settings={"quick": setup.quick, "arms": list(shares), "seeds": seeds},
        passes=sum(arm.shift.provenance.passes for arm in arms) + effects.provenance.passes,
    )  # fmt: skip
    notes = (
        "tuning changes the weights of the MLPs alone, as attention and biases would serve both tasks in every arm",
        "rank correlation of lost margin with the distance of the weights: "
        f"{_rank_correlation([a.distance for a in arms], [a.lost for a in arms]):.2f}",
    )  # fmt: skip
    results = {"heads": heads, "effects": effects, "neurons": arms[-1].neurons, "shift": arms[-1].shift}
    return Reproduction("reasoning-misalignment", findings, provenance, notes=notes, results=results)


def on_users(model: Model, data: Path, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """Heads and neurons of a user's model, chosen on half of the pairs and taken away on the others; with its tuned form also
    how entangled the neurons are. Raises DataError for a file or folder of another form, InputError for too few pairs."""
    path, new, after = _given(data)
    pairs, at = _pairs(model, path, most=100 if quick else 400)
    before, rows = model.forwards, np.random.default_rng(seed).permutation(len(pairs.clean))
    chosen_on, rest = (sorted(part.tolist()) for part in np.array_split(rows, 2))
    complied, refused = ([texts[r] for r in chosen_on] for texts in (pairs.clean, pairs.corrupted))
    marks = [True] * len(complied) + [False] * len(refused)
    heads = span_heads(model, [*complied, *refused], [at[r] for r in chosen_on] * 2, marks, seed=seed)
    neurons = contrast_neurons(
        model, refused, complied, share=max(0.01, FEW / (model.n_layers * model.d_mlp)), seed=seed
    )
    safety, n_random = _critical(neurons), 20 if quick else 100
    comply, refuse = first_token_pairs(
        model, *([column[r] for r in rest] for column in (pairs.clean, pairs.answer, pairs.distractor))
    )
    effects = set_effects(
        model,
        [pairs.clean[r] for r in rest],
        {"best": heads.top(1)},
        logit_diff(comply, refuse),
        n_random=n_random,
        seed=seed,
    )
    held = [pairs.corrupted[r] for r in rest]
    lost = set_effects(  # to zero: the mean over texts that are all refused would be the refusal itself
        model,
        held,
        {"safety": safety},
        logit_diff(refuse, comply),
        op="zero",
        same_layers=True,
        n_random=n_random,
        seed=seed,
    )
    findings, notes = [_of_heads(effects), _of_lost(lost)], []
    if not stable_neurons(neurons):
        notes.append("no neuron is among the largest in every resample; the best five stand in for safety neurons")
    results = {"heads": heads, "effects": effects, "neurons": neurons, "without neurons": lost}
    if new is not None and after is not None:
        shift = entanglement(model, load_model(after), safety, held, new, n_random=n_random, seed=seed)
        results["shift"], score, high = shift, float(shift["score"][0]), float(shift["control_high"][0])
        findings.append(Finding("entanglement of safety neurons with what was trained", score, float(shift["control"][0]),
                                f"above 95 % of random neurons of the same layers ({high:.3g})", score > high))  # fmt: skip
    else:
        notes.append(
            "no tuned form was given (a folder with pairs, new and after/), so nothing is said about entanglement"
        )
    provenance = Provenance(
        "reasoning-misalignment", len(rows), seed, model.name, model.revision, causal="ablation",
        settings={"quick": quick, "safety": [str(site) for site in safety]}, passes=round(model.forwards - before),
    )  # fmt: skip
    return Reproduction("reasoning-misalignment", tuple(findings), provenance, notes=tuple(notes), results=results)


def _given(data: Path) -> tuple[Path, list[str] | None, Path | None]:
    """The file of pairs, and in a folder with a tuned model the texts of what it was tuned on, and the model."""
    if not data.is_dir():
        return data, None, None
    files = {name: next(iter(sorted(data.glob(f"{name}.*"))), None) for name in ("pairs", "new")}
    pairs, new, after = files["pairs"], files["new"], data / "after"
    if pairs is None or (new is None) != (not after.is_dir()):
        raise DataError(
            f"{data}: needs pairs.csv (or .jsonl, .json) and, both or none, new.csv and after/; add what is missing"
        )
    return pairs, None if new is None else list(texts_of(read_records(new, ("text",)), "text")), after if new else None


def _pairs(model: Model, path: Path, most: int) -> tuple[AnswerPairs, list[list[int]]]:
    """The pairs, and the tokens of the thoughts of each. Raises DataError for no thoughts, InputError for pairs that are few or of
    unequal length."""
    pairs = read_answer_pairs(path, marks="thoughts", most=most)
    if pairs.marked is None:
        raise DataError(f"{path}: no column 'thoughts'; add it: the piece of the clean text that holds them")
    batch, other = model.encode(list(pairs.clean)), model.encode(list(pairs.corrupted))
    unequal = [row for row, (a, b) in enumerate(zip(batch.lengths, other.lengths, strict=True)) if a != b]
    if unequal or len(batch) < LEAST:
        raise InputError(
            f"{path}: {len(batch)} pairs, of which {len(unequal)} are not equally long in tokens; {LEAST} or more are needed, all "
            "of them equal, since attention thins out in longer texts"
        )
    return pairs, batch.positions_of(pairs.spans())


def _of_lost(lost: Scores) -> Finding:
    score, high = float(lost["score"][0]), float(lost["control_high"][0])
    return Finding("margin of refusal lost without the safety neurons", score, float(lost["control"][0]),
                   f"above 95 % of random neurons of the same layers ({high:.2f})", score > high, "logits", float(lost["low"][0]),
                   float(lost["high"][0]))  # fmt: skip


def _arm(shared: float, seed: int, setup: Setup) -> Arm:
    schedule, tuning = (SHORT, SHORT_TUNING) if setup.quick else (SCHEDULE, TUNING)
    size = {"batch": SMALL} if setup.quick else {}
    base = refusing(seed=seed, shared=shared, schedule=schedule, cache=setup.cache, progress=setup.progress, **size)
    after = tuned(base.model, seed=seed, shared=shared, schedule=tuning, progress=setup.progress, **size)
    model, later = (load_model(m, tokenizer=tokenizer()) for m in (base.model, after))
    complied = requests(N_TEXTS, 11, world=seed, thoughts="excuse", harmful=True)
    refused = [counterfactuals(request, i) for i, request in enumerate(complied)]
    neurons = contrast_neurons(model, [r.text for r in refused], [r.text for r in complied], share=0.1, seed=seed)
    old, new = [r.text for r in refused], [text for text, _ in sums("*", seed)]
    shift = entanglement(model, later, _critical(neurons), old, new, seed=seed)
    lost = _margin(model, old) - _margin(later, old)
    return Arm(shared, model, neurons, shift, lost, _distance(base.model, after))


def _critical(neurons: Units) -> list[Site]:
    """The neurons of every resample; in a model that was hardly trained there may be none, and the best five stand in."""
    return stable_neurons(neurons) or neurons.top(FEW)


def _margin(model: Model, texts: list[str]) -> float:
    """Mean logit of `refuse` less that of `comply`."""
    logits = model.logits(texts)
    return float((logits[:, IDS["refuse"]] - logits[:, IDS["comply"]]).mean())


def _distance(before, after) -> float:
    pairs = list(zip(before.parameters(), after.parameters(), strict=True))
    moved, size = (
        sum(float(x.detach().square().sum()) for x in of) for of in ((a - b for a, b in pairs), (b for _, b in pairs))
    )
    return (moved / size) ** 0.5


def _heads(model: Model, setup: Setup) -> tuple[Units, Scores]:
    """Heads that watch the thoughts more where the model complies, and the margin without the best of them."""
    texts = [
        r for kind in ("excuse", "plain") for r in requests(N_TEXTS, 12, world=setup.seed, thoughts=kind, harmful=True)
    ]
    heads = span_heads(
        model, [r.text for r in texts], [r.thoughts for r in texts], [r.excused for r in texts], seed=setup.seed
    )
    complied = [r.text for r in texts if r.excused]
    metric = logit_diff([IDS["comply"]] * len(complied), [IDS["refuse"]] * len(complied))
    effects = set_effects(model, complied, {"best": heads.top(1)}, metric, n_random=20, seed=setup.seed)
    return heads, effects


def _of_heads(effects: Scores) -> Finding:
    score, high = float(effects["score"][0]), float(effects["control_high"][0])
    return Finding("margin of compliance lost without the head that watches the thoughts", score, float(effects["control"][0]),
                   f"above 95 % of random heads ({high:.2f})", score > high, "logits", float(effects["low"][0]),
                   float(effects["high"][0]))  # fmt: skip


def _of_neurons(apart: list[Arm], together: list[Arm]) -> tuple[Finding, ...]:
    """Where they are, and how entangled they are in either arm."""
    inside = [np.isin([site.units[0] for site in _critical(arm.neurons)], true_neurons(1.0)[0]).mean() for arm in apart]
    drawn = [len(true_neurons(1.0)[0]) / arm.model.d_mlp for arm in apart]
    shift = {
        name: [float(arm.shift["score"][0]) for arm in arms] for name, arms in (("apart", apart), ("one", together))
    }
    control = [float(arm.shift["control_high"][0]) for arm in together]
    return (
        Finding("safety neurons among those that requests may use", float(np.mean(inside)), float(np.mean(drawn)),
                "all (control: chance)", bool(np.mean(inside) == 1.0), "share"),
        Finding("entanglement of safety neurons that sums share", float(np.mean(shift["one"])), float(np.mean(control)),
                "above 95 % of random neurons of the same layers", bool(np.mean(shift["one"]) > np.mean(control))),
        Finding("the same where sums have neurons of their own", float(np.mean(shift["apart"])), float(np.mean(shift["one"])),
                "0 (control: the shared arm)", bool(np.mean(shift["apart"]) < 1e-6)),
    )  # fmt: skip


def _foretold(arms: list[Arm]) -> Finding:
    """Rank correlation of entanglement and lost margin over all runs, with its interval over resampled runs."""
    shift, lost = [float(arm.shift["score"][0]) for arm in arms], [arm.lost for arm in arms]
    rng, n = np.random.default_rng(0), len(arms)
    drawn = [rng.integers(n, size=n) for _ in range(1000)]
    some = [_rank_correlation(np.take(shift, at), np.take(lost, at)) for at in drawn]
    shuffled = [abs(_rank_correlation(rng.permutation(shift), lost)) for _ in range(1000)]
    low, high = np.nanquantile(some, [0.025, 0.975])
    found = _rank_correlation(shift, lost)
    return Finding("rank correlation of entanglement with lost margin of refusal", found, float(np.quantile(shuffled, 0.95)),
                   f"at least {CORRELATED} (control: 95 % of shuffles are below)", found >= CORRELATED, "", float(low),
                   float(high))  # fmt: skip


def _rank_correlation(a, b) -> float:
    a, b = mean_ranks(np.asarray(a)), mean_ranks(np.asarray(b))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")
