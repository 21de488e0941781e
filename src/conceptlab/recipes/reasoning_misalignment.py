"""reasoning-misalignment: heads that read the thoughts decide what is refused, and tuning takes over the neurons of refusal."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from conceptlab.errors import InputError
from conceptlab.find.heads.span_heads import span_heads
from conceptlab.find.neurons.contrast_neurons import contrast_neurons, stable_neurons
from conceptlab.measure.effects.entanglement import entanglement
from conceptlab.measure.effects.set_effects import set_effects
from conceptlab.model import Model, load_model
from conceptlab.model.metric import logit_diff
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
    "model": "",
    "data": "",
    "methods": ["find/heads/span_heads", "find/neurons/contrast_neurons", "measure/effects/entanglement",
                "measure/effects/set_effects"],
}  # fmt: skip
CORRELATED, N_TEXTS = 0.7, 96
ARMS, QUICK_ARMS = (0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 1.0)
SHORT = Schedule(steps=120, learning_rate=8e-3, warmup=20, target_loss=0.05)
SHORT_TUNING = Schedule(steps=40, learning_rate=TUNING.learning_rate, warmup=10)
SMALL = 64  # rows a batch of the quick form


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
    """Train the arms, find heads and neurons, tune, compare. Raises InputError for --model and --data, which it does not take."""
    if setup.model is not None or setup.data is not None:
        raise InputError(
            "reasoning-misalignment runs on its own models: it needs them before and after a tuning of its own"
        )
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
    return stable_neurons(neurons) or neurons.top(5)


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
    a, b = rankdata(a), rankdata(b)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")
