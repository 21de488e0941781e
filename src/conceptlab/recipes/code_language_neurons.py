"""code-language-neurons: in which language the middle layers speak, and which neurons belong to one language alone (2025)."""

from collections.abc import Mapping, Sequence

import numpy as np

from conceptlab.data.language_texts import read_language_texts
from conceptlab.errors import InputError
from conceptlab.find.neurons.language_neurons import exclusive_to, language_neurons
from conceptlab.measure.alignment.mexa import mexa
from conceptlab.measure.effects.set_effects import set_effects
from conceptlab.measure.lenses.language_lens import language_lens
from conceptlab.model import Batch, Model, load_model
from conceptlab.model.metric import log_prob
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores, Units
from conceptlab.worlds.pivot_languages import ALONE, LANGUAGES, PIVOT, pivot_languages, words_of
from conceptlab.worlds.planted import PlantedWorld

RECIPE = {
    "id": "code-language-neurons",
    "claim": "Between programming languages a model's middle layers speak a shared language nearest to English; neurons of one "
    "language alone sit in the top layers, and languages that are alike have none.",
    "number": "F1 of the language neurons, what their language loses without them over what others lose, and the pivot's "
    "probability in the middle layers",
    "control": "texts dealt to languages at random, random neurons of the same layers, random tokens, translations in "
    "another order",
    "world": "six languages over shared concepts with a pivot vocabulary, two of them near-duplicates",
    "model": "a causal language model with neurons, together with --data",
    "data": "CSV, JSONL or a JSON list with the columns language, text and, for translations, pair",
    "methods": ["find/neurons/language_neurons", "measure/lenses/language_lens", "measure/alignment/mexa",
                "measure/effects/set_effects"],
}  # fmt: skip
F1, RATIO, MOST = 0.9, 5.0, 200


def reproduce(setup: Setup) -> Reproduction:
    """The planted world, or a user's model and texts. Raises InputError for --model without --data and the other way round."""
    if (setup.model is None) != (setup.data is None):
        raise InputError(
            "code-language-neurons takes --model and --data together: texts in languages that the model reads"
        )
    if setup.model is not None and setup.data is not None:
        given = read_language_texts(setup.data, most=60 if setup.quick else MOST)
        return measured(setup.model, given.corpora, given.parallel, quick=setup.quick, seed=setup.seed)
    return on_world(
        pivot_languages(seed=setup.seed, n_texts=40 if setup.quick else 150), quick=setup.quick, seed=setup.seed
    )


def on_world(world: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on a world of languages (or its null twin), with its truth, its pivot and its near-duplicates."""
    model = load_model(world.model, tokenizer=world.tokenizer)
    corpora = {name: list(world.prompts[name]) for name in LANGUAGES}
    parallel = {(a, b): (list(world.prompts[f"parallel {a}"]), list(world.prompts[f"parallel {b}"]))
                for a, b in (ALONE[:2], ALONE[2:])}  # fmt: skip
    done = measured(model, corpora, parallel, quick=quick, seed=seed)
    units, truth = done.results["language neurons"], pivot_languages(seed=seed).truth["neurons"]
    lens, spoken = _lens(model, world, seed)
    findings = (_recovered(units, truth, model, corpora, seed), _alike(units), *spoken, *done.findings)
    return Reproduction(done.id, findings, done.provenance, 0.0, done.notes, {**done.results, "lens": lens})


def measured(
    model: Model,
    corpora: Mapping[str, Sequence[str]],
    parallel: Mapping[tuple[str, str], tuple[Sequence[str], Sequence[str]]],
    *,
    quick: bool,
    seed: int,
) -> Reproduction:
    """The findings on any model and texts."""
    before = model.forwards
    units = language_neurons(model, corpora, seed=seed)
    results: dict[str, Scores | Units] = {"language neurons": units}
    sets = {name: exclusive_to(units, name) for name in corpora}
    notes = [f"neurons exclusive to a language: {', '.join(f'{name} {len(sites)}' for name, sites in sets.items())}"]
    findings = [_layers(units, model)]
    kept = {name: sites for name, sites in sets.items() if sites}
    if kept:
        lost = {name: _lost(model, texts, kept, quick, seed) for name, texts in corpora.items()}
        results |= {f"{name} without neurons": found for name, found in lost.items()}
        findings.append(_specific(lost, list(kept)))
    else:
        notes.append("no language has neurons of its own, so none were taken away")
    for (one, other), (texts, others) in parallel.items():
        found = mexa(model, texts, others, seed=seed)
        results[f"MEXA {one} {other}"] = found
        findings.append(_aligned(found, one, other))
    provenance = Provenance(
        "code-language-neurons", sum(map(len, corpora.values())), seed, model.name, model.revision,
        settings={"quick": quick, "bar": units.table.attrs["bar"]}, passes=round(model.forwards - before),
        causal="ablation" if kept else "none",
    )  # fmt: skip
    return Reproduction("code-language-neurons", tuple(findings), provenance, 0.0, tuple(notes), results)


def _lost(model: Model, texts: Sequence[str], sets: Mapping[str, Sequence], quick: bool, seed: int) -> Scores:
    """Loss of log P of the last token of every text of one language, without each language's neurons."""
    batch = model.encode(list(texts))
    long = [ids for ids in batch.ids if len(ids) > 2]
    if not long:
        raise InputError("every text has fewer than three tokens, so no next token can be foreseen; give longer texts")
    return set_effects(
        model, Batch(tuple(ids[:-1] for ids in long)), sets, log_prob([ids[-1] for ids in long]), op="zero", same_layers=True,
        n_random=10 if quick else 40, seed=seed,
    )  # fmt: skip


def _specific(lost: Mapping[str, Scores], names: list[str]) -> Finding:
    """What a language loses without its own neurons over the most that another loses without them."""
    ratios, beside = [], []
    for name in names:
        own = float(lost[name].data["score"].sel(set=name))
        most = max(float(scores.data["score"].sel(set=name)) for other, scores in lost.items() if other != name)
        ratios.append(min(own / max(most, 1e-3), 1e3))
        beside.append(max(float(lost[name].data["control"].sel(set=name)), 0.0) / max(most, 1e-3))
    return Finding("what a language loses without its neurons, over what another does (least of all languages)", min(ratios),
                   float(np.mean(np.minimum(beside, 1e3))),
                   f"at least {RATIO:g} (control: random neurons of the same layers)", min(ratios) >= RATIO, "ratio")  # fmt: skip


def _recovered(
    units: Units, truth: Mapping[str, list[str]], model: Model, corpora: Mapping[str, Sequence[str]], seed: int
) -> Finding:
    shuffled = _shuffled(corpora, seed)
    values = [_f1(found, truth) for found in (units, language_neurons(model, shuffled, seed=seed))]
    return Finding("F1 of the neurons exclusive to a language", values[0], values[1],
                   f"at least {F1:g} (control: texts dealt to languages at random)", values[0] >= F1, "F1")  # fmt: skip


def _f1(units: Units, truth: Mapping[str, list[str]]) -> float:
    hits = found = wanted = 0
    for name in ALONE:
        mine = {f"L{site.layer}.N{site.units[0]}" for site in exclusive_to(units, name)}
        hits, found, wanted = hits + len(mine & set(truth[name])), found + len(mine), wanted + len(truth[name])
    return 2 * hits / max(1, found + wanted)


def _shuffled(corpora: Mapping[str, Sequence[str]], seed: int) -> dict[str, list[str]]:
    """The same texts, dealt to languages at random."""
    texts = np.array([text for some in corpora.values() for text in some], dtype=object)
    np.random.default_rng(seed).shuffle(texts)
    ends = np.cumsum([len(some) for some in corpora.values()])[:-1]
    return {name: part.tolist() for name, part in zip(corpora, np.split(texts, ends), strict=True)}


def _alike(units: Units) -> Finding:
    twins = np.mean([len(exclusive_to(units, name)) for name in LANGUAGES[4:]])
    others = np.mean([len(exclusive_to(units, name)) for name in ALONE])
    return Finding("neurons exclusive to one of two near-duplicates", float(twins), float(others),
                   "none (control: the other languages)", bool(twins == 0), "neurons")  # fmt: skip


def _lens(model: Model, world: PlantedWorld, seed: int) -> tuple[Scores, list[Finding]]:
    """The pivot against the texts' own language in the middle layer and at the end."""
    vocabulary, name = world.tokenizer.get_vocab(), ALONE[0]
    words = {"pivot": [vocabulary[w] for w in PIVOT], name: [vocabulary[w] for w in words_of(name)]}
    lens = language_lens(model, list(world.prompts[name][:16]), words, seed=seed)
    found = []
    for layer, first in ((str(model.n_layers // 2), "pivot"), (str(model.n_layers - 1), name)):
        at = lens.data.sel(layer=layer, language=first)
        beside = float(lens["score"].sel(layer=layer, language=name if first == "pivot" else "pivot"))
        value, low, high = (float(at[k]) for k in ("score", "low", "high"))
        what = "pivot in the middle layer" if first == "pivot" else "text's own language in the last layer"
        found.append(Finding(f"lens probability of the {what}", value, beside,
                             "interval above the other of the two (control)", low > beside, "probability", low, high))  # fmt: skip
    return lens, found


def _layers(units: Units, model: Model) -> Finding:
    """Where exclusive neurons lie, beside all neurons that are over the bar."""
    table = units.table
    mine, depth = table["exclusive"].values, (table["layer"].values + 0.5) / model.n_layers
    over = (table["fires"].values >= table.attrs["bar"]).any(1)
    value = float(depth[mine].mean()) if mine.any() else float("nan")
    beside = float(depth[over].mean()) if over.any() else 0.5
    return Finding("depth of the neurons exclusive to a language (1: the top)", value, beside,
                   "reported (control: all neurons that fire as often)", None, "share of depth")  # fmt: skip


def _aligned(found: Scores, one: str, other: str) -> Finding:
    at = found.data.isel(layer=found.data.sizes["layer"] // 2)
    value, low, high, control = (float(at[name]) for name in ("score", "low", "high", "control"))
    return Finding(f"translations that lie closest in the middle layer, {one} and {other}", value, control,
                   "interval above other orders (control)", low > control, "share", low, high)  # fmt: skip
