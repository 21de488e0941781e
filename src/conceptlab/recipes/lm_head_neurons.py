"""lm-head-neurons: which word every neuron points at, what tuning keeps of it, and what holding a neuron does (2025)."""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from conceptlab.errors import ConceptlabError, InputError
from conceptlab.evidence.isotropic import largest_cosine_p
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.find.neurons.vocabulary_neurons import vocabulary_neurons
from conceptlab.measure.effects.clamp_curve import clamp_curve, other_neurons, reach
from conceptlab.measure.geometry.token_stability import token_stability
from conceptlab.model import Model, load_model
from conceptlab.recipes import Setup
from conceptlab.results import Edit, Finding, Provenance, Reproduction, Scores, Site, Units
from conceptlab.train import Schedule, Training, train_model, trained
from conceptlab.worlds.default import default_concepts, default_model_path
from conceptlab.worlds.default.batches import batches
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.planted_neurons import planted_neurons

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECIPE = {
    "id": "lm-head-neurons",
    "claim": "In Llama 3.1 8B a neuron's vector through the unembedding names the word it stands for, over 75 % of neurons keep "
    "that word when the model is tuned, and holding one such neuron high makes the model say its word.",
    "number": "share of planted neurons named right, of neurons that keep their word, and the rise of a word's log probability",
    "control": "random directions, other neurons of the layer, and each of 100 other neurons held at the same value",
    "world": "planted neurons in a random Llama, and the embedded trained model beside itself trained on",
    "model": "a causal language model with neurons",
    "data": "the folder of a model tuned from --model",
    "methods": ["find/neurons/vocabulary_neurons", "measure/geometry/token_stability", "measure/effects/clamp_curve"],
}
SPECIALISED, STRAYS, KEPT, FACTOR, SAYING = 0.001, 0.01, 0.75, 5.0, 20.0  # the last two: times its own reach
N_RANDOM, QUICK_RANDOM, PROMPTS, QUICK_PROMPTS = 100, 40, 24, 8
TUNING = Schedule(steps=20, learning_rate=5e-4, warmup=5, optimizer="adamw")
PLAIN = (
    "The door of the old house was", "She walked to the market and bought", "In the morning the children", "The man said that he",
    "After the rain the street looked", "My friend has a small", "They talked about the", "On the table there was a",
    "The teacher asked the class", "It was late when the train", "He put the letter into his", "The best part of the day was",
)  # fmt: skip


def reproduce(setup: Setup) -> Reproduction:
    """Planted neurons, then the embedded model; or a user's model, with the folder of its tuned form as --data.

    Raises InputError for --data without --model.
    """
    if setup.model is None:
        if setup.data is not None:
            raise InputError("lm-head-neurons --data is the folder of a model tuned from --model; give both")
        planted = on_world(planted_neurons(seed=setup.seed), seed=setup.seed)
        model = load_model(default_model_path())
        texts = [text for concept in default_concepts() for text in concept.texts[: 1 if setup.quick else 8]]
        other = measured(model, texts, tuned=tuned_model(setup), quick=setup.quick, seed=setup.seed)
        return _together(planted, other)
    other = None if setup.data is None else load_model(str(setup.data))
    return measured(setup.model, list(PLAIN), tuned=other, quick=setup.quick, seed=setup.seed)


def on_world(world: PlantedWorld, *, seed: int = 0) -> Reproduction:
    """What of planted neurons (or their null twin) is named, from the weights alone."""
    model = load_model(world.model, tokenizer=world.tokenizer)
    units = vocabulary_neurons(model, "out", seed=seed)
    table, wanted = units.table, {}
    truth = planted_neurons(seed=seed).truth if world.null else world.truth
    for name, neuron in truth["neurons"].items():
        layer, index = (int(part[1:]) for part in name.split("."))
        wanted[layer * model.d_mlp + index] = neuron["token"]
    sure = table["p"].values <= SPECIALISED
    named = np.array([sure[at] and str(table["text"].values[at]) == token for at, token in wanted.items()])
    others = np.delete(sure, list(wanted))
    low, high = bootstrap_share(named.astype(float), seed=seed)
    stray_low, stray_high = bootstrap_share(others.astype(float), seed=seed)
    drawn = _sure(units, model.d_model)
    findings = (
        Finding("planted neurons that decode to their own word", float(named.mean()), drawn,
                "all of them (control: random directions that decode to any word)", bool(named.all()), "share", low, high),
        Finding("other neurons called specialised", float(others.mean()), drawn,
                f"at most {STRAYS:.0%} (control: random directions)", bool(others.mean() <= STRAYS), "share", stray_low,
                stray_high),
    )  # fmt: skip
    return Reproduction("lm-head-neurons", findings, units.scores.provenance, 0.0, (), {"planted": units})


def measured(model: Model, texts: list[str], *, tuned: Model | None, quick: bool, seed: int) -> Reproduction:
    """The findings on any model; those about tuning need its tuned form."""
    before, notes = model.forwards, []
    maps = {vector: found for vector in ("out", "up", "gate") if (found := _map(model, vector, seed)) is not None}
    findings = [_pointing(vector, units, model.d_model) for vector, units in maps.items()]
    results: dict[str, Scores | Units] = dict(maps)
    if tuned is not None:
        kept = {vector: token_stability(maps[vector], vocabulary_neurons(tuned, vector, seed=seed), seed=seed)
                for vector in ("up", "out")}  # fmt: skip
        findings += [_stable(vector, scores) for vector, scores in kept.items()]
        results |= {f"stability of {vector}": scores for vector, scores in kept.items()}
    neuron, token, sign, word = _best(maps["out"])
    curve = clamp_curve(
        model, texts, neuron, token, factors=[sign * factor for factor in ((FACTOR,) if quick else (1.0, 2.0, FACTOR, 10.0))],
        n_random=QUICK_RANDOM if quick else N_RANDOM, seed=seed,
    )  # fmt: skip
    results["clamp curve"] = curve
    findings += [_clamped(curve, sign), _said(model, texts, neuron, word, sign, quick, seed)]
    notes.append(f"the neuron that is held is {neuron}, which points at {word!r}")
    provenance = Provenance(
        "lm-head-neurons", len(texts), seed, model.name, model.revision, causal="ablation",
        settings={"quick": quick, "neuron": str(neuron), "word": word}, passes=round(model.forwards - before),
        warnings=maps["out"].scores.provenance.warnings,
    )  # fmt: skip
    return Reproduction("lm-head-neurons", tuple(findings), provenance, 0.0, tuple(notes), results)


def tuned_model(setup: Setup) -> Model:
    """The embedded model, trained on for a few steps at a constant share of its rate."""
    schedule = TUNING if setup.quick else Schedule(**{**asdict(TUNING), "steps": 300})
    tokens = 128 if setup.quick else 384
    settings = {"seed": setup.seed, "tokens": tokens, **asdict(schedule)}
    found = trained(
        "embedded-tuned", settings, _base,
        partial(_tune, seed=setup.seed, schedule=schedule, tokens=tokens, setup=setup),
        cache=setup.cache, progress=setup.progress,
    )  # fmt: skip
    return load_model(found.model, tokenizer=load_model(default_model_path()).tokenizer)


def _base() -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(default_model_path(), local_files_only=True)


def _tune(model: "PreTrainedModel", *, seed: int, schedule: Schedule, tokens: int, setup: Setup) -> Training:
    tokenizer = load_model(default_model_path()).tokenizer
    source = batches(tokenizer, 1000 + seed, tokens, 256)
    return train_model(model, source, schedule, progress=setup.progress, label="tuning the embedded model")


def _map(model: Model, vector: str, seed: int) -> Units | None:
    try:
        return vocabulary_neurons(model, vector, seed=seed)  # type: ignore[arg-type]
    except ConceptlabError:
        if vector != "gate":
            raise
        return None  # this model has no gates


def _sure(units: Units, d_model: int) -> float:
    """Share of random directions that would be called specialised."""
    drawn = units.table["drawn"].values
    return float((largest_cosine_p(drawn, units.scores.provenance.n, d_model) <= SPECIALISED).mean())


def _pointing(vector: str, units: Units, d_model: int) -> Finding:
    sure = (units.table["p"].values <= SPECIALISED).astype(float)
    drawn = _sure(units, d_model)
    low, high = bootstrap_share(sure)
    return Finding(f"neurons whose {vector} vector points at a word", float(sure.mean()), drawn,
                   f"more than {STRAYS:.0%} with its interval (control: random directions)",
                   low > STRAYS >= drawn, "share", low, high)  # fmt: skip


def _stable(vector: str, kept: Scores) -> Finding:
    at = kept.data.sel(set="all")
    value, control, low, high = (float(at[name]) for name in ("score", "control", "low", "high"))
    return Finding(f"neurons that keep the top word of their {vector} vector when tuned", value, control,
                   f"at least {KEPT:.0%} (control: another neuron of the layer)",
                   value >= KEPT and low > control, "share", low, high)  # fmt: skip


def _best(units: Units) -> tuple[Site, int, int, str]:
    """The neuron with the largest cosine among those whose word has letters."""
    table = units.table
    order = np.argsort(-table["score"].values, kind="stable").tolist()
    at = next((i for i in order if str(table["text"].values[i]).strip().isalpha()), order[0])
    column = {name: table[name].values[at] for name in ("layer", "index", "token", "sign", "text")}
    site = Site("mlp_post", int(column["layer"]), (int(column["index"]),))
    return site, int(column["token"]), int(column["sign"]), str(column["text"])


def _clamped(curve: Scores, sign: int) -> Finding:
    at = curve.data.sel(factor=sign * FACTOR)
    value, most, others = float(at["score"]), float(at["control_high"]), curve.provenance.settings["n_random"]
    return Finding(f"rise of its word's log probability, the best neuron held at x{FACTOR:g}", value, most,
                   f"more than each of {others} other neurons held there (control: the largest)", value > most, "nats",
                   float(at["low"]), float(at["high"]))  # fmt: skip


def _said(model: Model, texts: list[str], neuron: Site, word: str, sign: int, quick: bool, seed: int) -> Finding:
    """Whether greedy continuations hold the word while the neuron is held high, as a multiple of its reach on all texts; the
    prompts are some of them, from the first to the last, so that they are of all kinds that the texts are of."""
    import torch

    size = sign * SAYING * reach(model, texts, neuron)
    places = np.linspace(0, len(texts) - 1, min(len(texts), QUICK_PROMPTS if quick else PROMPTS)).round().astype(int)
    prompts, shares = [texts[i] for i in places], []
    for site in (neuron, *other_neurons(model, neuron, 5 if quick else 40, seed)):
        with model.edited(Edit(site, "set", value=torch.tensor([size]))):
            said = model.generate(prompts, max_new_tokens=6)
        shares.append(np.array([word.strip().lower() in text.lower() for text in said], dtype=float))
    low, high = bootstrap_share(shares[0], seed=seed)
    value, control = float(shares[0].mean()), float(np.mean(shares[1:]))
    return Finding(f"continuations that say it, held at x{SAYING:g}", value, control,
                   "more than with other neurons held there, with its interval", low > control, "share", low, high)  # fmt: skip


def _together(planted: Reproduction, trained: Reproduction) -> Reproduction:
    return Reproduction(
        trained.id, (*planted.findings, *trained.findings), trained.provenance, 0.0, trained.notes,
        {**planted.results, **trained.results},
    )  # fmt: skip
