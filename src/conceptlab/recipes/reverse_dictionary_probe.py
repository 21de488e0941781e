"""reverse-dictionary-probe: naming words from descriptions, what states then hold, and what the score predicts (Xu et al. 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from conceptlab.data.dictionary import Entry, read_dictionary
from conceptlab.data.similarities import read_similarities
from conceptlab.errors import DataError, InputError
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.measure.geometry.similarity_alignment import similarity_alignment
from conceptlab.measure.probing.category_centroids import category_centroids
from conceptlab.measure.probing.control_task import control_task
from conceptlab.measure.probing.feature_decoding import feature_decoding
from conceptlab.measure.probing.reverse_dictionary import ARROW, NEWLINE, Named, Variant, name_words
from conceptlab.model import Model, load_model
from conceptlab.model.answers import first_tokens
from conceptlab.numerics.ranks import mean_ranks
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores
from conceptlab.worlds import trained_dictionary as world

RECIPE = {
    "id": "reverse-dictionary-probe",
    "claim": "Naming a word from its description works reliably in few-shot prompts, hidden states then hold its category and "
    "finer features, and a model's score on this task forecasts its general reasoning ability.",
    "number": "words named from unseen descriptions, categories and features read from the state at the arrow, and over models the "
    "rank correlation with another task",
    "control": "descriptions whose words are dealt anew, answers dealt to other questions, random labels a word",
    "world": "decoders of four widths, trained on a dictionary of 36 words and on changing one property of a word",
    "model": "a causal language model with a KV cache, together with --data",
    "data": "CSV, JSONL or a JSON list with the columns description, word and, if known, synonyms, category, features; or a folder "
    "with dictionary.* and similarities.* (columns a, b, similarity and, if known, person): judgements of people are not shipped",
    "methods": ["measure/probing/reverse_dictionary", "measure/probing/category_centroids", "measure/probing/feature_decoding",
                "measure/geometry/similarity_alignment", "measure/probing/control_task"],
}  # fmt: skip
NAMES, SCRAMBLED, APART, RANKED = 0.9, 0.1, 30.0, 0.8  # share, share, points, rank correlation
DEMOS, TOY_DEMOS = 24, 2


@dataclass(frozen=True)
class _Form:
    """How prompts are written: demonstrations, draws, arrow, and what ends a line."""

    n_demos: int
    n_draws: int
    arrow: str = ARROW
    newline: str = NEWLINE


def reproduce(setup: Setup) -> Reproduction:
    """Ask, read the states, and compare models. Raises InputError for --model without --data and the other way round."""
    if (setup.model is None) != (setup.data is None):
        raise InputError(
            "reverse-dictionary-probe takes --model and --data together: a model, and descriptions of words"
        )
    if setup.model is not None and setup.data is not None:
        entries, similar = _users(setup.data, 300 if setup.quick else None)
        n_words = len({e.word for e in entries})
        form = _Form(min(DEMOS, n_words // 2), 1 if setup.quick else 5)
        return measured(setup.model, entries, entries, form, similar=similar, quick=setup.quick, seed=setup.seed)
    return on_trained(setup)


def on_trained(setup: Setup, *, null: bool = False) -> Reproduction:
    """The row on the small trained models (or, with `null`, on models that could learn nothing)."""
    seed, scores, others, notes = setup.seed, [], [], []
    done = None
    widths, schedule = (world.FEW, world.SHORT) if setup.quick else (world.WIDTHS, world.SCHEDULE)
    for width in widths:
        made = world.trained_dictionary(
            width, seed=seed, null=null, schedule=schedule, cache=setup.cache, progress=setup.progress
        )
        notes += [made.note] if made.note else []
        model = load_model(made.model, tokenizer=world.dictionary_tokenizer())
        asked, pool = (world.entries(seed, unseen=u) for u in (True, False))
        form = _Form(TOY_DEMOS, 1 if setup.quick else 5, world.ARROW, f" {world.STOP} ")
        if width == widths[-1]:
            done = measured(model, asked, pool, form, quick=setup.quick, seed=seed, planted=True)
            scores.append(done.findings[0].value)
        else:
            scores.append(float(_named(model, asked, pool, form, "true", seed).right.mean()))
        others.append(_composed(model, seed))
    assert done is not None  # noqa: S101 - there are widths
    return replace(done, findings=(*done.findings, _ranked(widths, scores, others, seed)), notes=(*done.notes, *notes))


def measured(  # noqa: PLR0913 - the settings of a run
    model: Model,
    asked: list[Entry],
    pool: list[Entry],
    form: _Form,
    *,
    similar: dict[tuple[str, str], list[float]] | None = None,
    quick: bool,
    seed: int,
    planted: bool = False,
) -> Reproduction:
    """The findings on any model and dictionary; verdicts on how much is named only where the world is `planted`."""
    before = model.forwards
    runs = {v: _named(model, asked, pool, form, v, seed) for v in ("true", "mismatched", "scrambled")}
    notes: list[str] = []
    findings = list(_naming(runs, asked, planted))
    words, vectors = _by_word(asked, runs["true"].stream)
    results: dict[str, Scores] = {}
    findings += _categories(model, asked, words, runs["true"].stream, vectors, results, notes, quick, seed)
    findings += _features(model, words, vectors, results, notes, quick, seed)
    findings += _people(model, words, vectors, similar, results, notes, quick, seed)
    provenance = Provenance(
        "reverse-dictionary-probe", len(asked), seed, model.name, model.revision, passes=round(model.forwards - before),
        settings={"quick": quick, "words": len(words), "demonstrations": form.n_demos, "draws": form.n_draws},
    )  # fmt: skip
    return Reproduction("reverse-dictionary-probe", tuple(findings), provenance, 0.0, tuple(notes), results)


def _named(model: Model, asked: list[Entry], pool: list[Entry], form: _Form, variant: Variant, seed: int) -> Named:
    return name_words(
        model, asked, pool, variant=variant, n_demos=form.n_demos, n_draws=form.n_draws, arrow=form.arrow, newline=form.newline,
        seed=seed,
    )  # fmt: skip


def _by_word(asked: list[Entry], stream: Tensor) -> tuple[list[Entry], Tensor]:
    """One entry a word, and the mean of its vectors [word, layer, d]."""
    names, ids = np.unique([e.word for e in asked], return_inverse=True)
    first = [asked[int(np.flatnonzero(ids == i)[0])] for i in range(len(names))]
    return first, torch.stack([stream[torch.from_numpy(ids == i)].mean(0) for i in range(len(names))])


def _naming(runs: dict[str, Named], asked: list[Entry], planted: bool) -> list[Finding]:
    groups = np.unique([e.word for e in asked], return_inverse=True)[1]
    right = {v: r.right.mean(0) for v, r in runs.items()}
    bounds = {v: bootstrap_share(x, groups) for v, x in right.items()}
    true, scrambled, mismatched = (float(right[v].mean()) for v in ("true", "scrambled", "mismatched"))
    dealt = {v: float(r.control.mean()) for v, r in runs.items()}
    told = f"{NAMES:.0%} or more" if planted else "reported"
    return [
        Finding("words named from descriptions", true, dealt["true"], f"{told} (control: answers dealt to other questions)",
                true >= NAMES if planted else None, "share", *bounds["true"]),
        Finding("the same without synonyms", float(runs["true"].exact.mean()), dealt["true"], "reported", None, "share"),
        Finding("words named from scrambled descriptions", scrambled, dealt["scrambled"],
                f"{SCRAMBLED:.0%} or less" if planted else "reported", scrambled <= SCRAMBLED if planted else None, "share",
                *bounds["scrambled"]),
        Finding("words named after mismatched demonstrations", mismatched, true, "reported (control: true demonstrations)", None,
                "share", *bounds["mismatched"]),
    ]  # fmt: skip


def _categories(  # noqa: PLR0913 - private half of the recipe
    model: Model, asked: list[Entry], words: list[Entry], stream: Tensor, vectors: Tensor, results: dict[str, Scores],
    notes: list[str], quick: bool, seed: int,
) -> list[Finding]:  # fmt: skip
    """Nearest centroids on words left out, and the category probe beside its control task."""
    names = (
        "category of words left out, by the nearest centroid",
        "category probe, beside its control task of random labels a word",
    )
    if not all(e.category for e in words) or len({e.category for e in words}) < 2:
        notes.append(f"{names[0]}; {names[1]}: not every word has a category")
        return []
    found = category_centroids(
        vectors, [e.category for e in words], permutations=50 if quick else 200, seed=seed, model=model.name
    )
    results["categories"] = found
    best = int(found["score"].values.argmax())
    at = found.data.isel(layer=best)
    score, control = float(at["score"]), float(at["control"])
    findings = [
        Finding(names[0], score, control, f"{APART:g} points above dealt categories", 100 * (score - control) >= APART, "share",
                float(at["low"]), float(at["high"]))
    ]  # fmt: skip
    ids = np.unique([e.category for e in asked], return_inverse=True)[1]
    types = np.unique([e.word for e in asked], return_inverse=True)[1]
    task = control_task(stream, ids, "classes" if ids.max() > 1 else "binary", types, seed=seed)
    if not np.isfinite(task.task).all():
        notes.append(f"{names[1]}: words with one description only leave nothing to learn")
        return findings
    layer = int(task.task.argmax())
    value, beside = float(task.task[layer]), float(task.control[layer].mean())
    above = 100 * (value - beside)
    bar = f"{APART:g} points above the control (it is {above:.0f}; above chance, the control tells words apart)"
    findings.append(Finding(names[1], value, beside, bar, above >= APART, "share"))
    return findings


def _features(  # noqa: PLR0913 - private half of the recipe
    model: Model, words: list[Entry], vectors: Tensor, results: dict[str, Scores], notes: list[str], quick: bool, seed: int
) -> list[Finding]:  # fmt: skip
    name = "mean AUC of features at their best layers"
    try:
        found = feature_decoding(
            vectors, [e.features for e in words], permutations=20 if quick else 100, seed=seed, model=model.name
        )
    except (InputError, DataError) as error:
        notes.append(f"{name}: {error}")
        return []
    results["features"] = found
    value, control = float(found["best"].mean()), float(found["best_control"].mean())
    share = float((found["q"] <= 0.05).mean())
    return [Finding(name, value, control, f"above dealt features ({share:.0%} of them with q <= 0.05)", value > control, "AUC",
                    float(found["best"].min()), float(found["best"].max()))]  # fmt: skip


def _people(  # noqa: PLR0913 - private half of the recipe
    model: Model, words: list[Entry], vectors: Tensor, similar: dict[tuple[str, str], list[float]] | None,
    results: dict[str, Scores], notes: list[str], quick: bool, seed: int,
) -> list[Finding]:  # fmt: skip
    """Alignment with people's judgements, where the user gives them."""
    if similar is None:
        notes.append(
            "similarity to people's judgements: not measured; none are shipped, give a folder with similarities.csv"
        )
        return []
    place = {e.word: i for i, e in enumerate(words)}
    people = max(len(v) for v in similar.values())
    judged = np.full((people, len(words), len(words)), np.nan)
    for (a, b), values in similar.items():
        if a in place and b in place:
            for person, value in enumerate(values):
                judged[person, place[a], place[b]] = judged[person, place[b], place[a]] = value
    found = similarity_alignment(vectors, judged, permutations=50 if quick else 500, seed=seed, model=model.name)
    results["people"] = found
    at = found.data.isel(layer=int(found["score"].values.argmax()))
    told = f"reported (split-half ceiling {found.data.attrs['ceiling']:.2f}, p {float(at['p']):.3f})"
    return [Finding("rank correlation with people's similarities, best layer", float(at["score"]), float(at["control"]), told, None,
                    "rho", float(at["low"]), float(at["high"]))]  # fmt: skip


def _composed(model: Model, seed: int) -> float:
    """Accuracy in the other task, on questions left out of training."""
    prompts, answers = world.compositions(seed)
    said = model.logits(prompts).argmax(-1).cpu().tolist()
    return float(np.mean([a == b for a, b in zip(said, first_tokens(model, prompts, answers), strict=True)]))


def _ranked(widths: Sequence[int], scores: Sequence[float], others: Sequence[float], seed: int) -> Finding:
    """Spearman's correlation over models; the control is its mean over models dealt anew (0 but for ties)."""
    ranks = mean_ranks(np.array(scores)), mean_ranks(np.array(others))
    flat = any(r.std() == 0 for r in ranks)
    value = 0.0 if flat else float(np.corrcoef(*ranks)[0, 1])
    rng = np.random.default_rng(seed)
    dealt = (
        0.0 if flat else float(np.mean([np.corrcoef(ranks[0], rng.permutation(ranks[1]))[0, 1] for _ in range(500)]))
    )
    shown = ", ".join(f"{w}: {a:.2f} and {b:.2f}" for w, a, b in zip(widths, scores, others, strict=True))
    return Finding("rank correlation over widths of words named and words changed", value, dealt, f"{RANKED} or more ({shown})",
                   value >= RANKED - 1e-9, "rho")  # fmt: skip


def _users(data: Path, most: int | None) -> tuple[list[Entry], dict[tuple[str, str], list[float]] | None]:
    """The user's dictionary and, in a folder, the judgements beside it."""
    if not data.is_dir():
        return read_dictionary(data, most=most), None
    files = {stem: sorted(data.glob(f"{stem}.*")) for stem in ("dictionary", "similarities")}
    if not files["dictionary"]:
        raise DataError(f"{data}: holds no dictionary.csv, .jsonl or .json; put the descriptions there")
    similar = read_similarities(files["similarities"][0]) if files["similarities"] else None
    return read_dictionary(files["dictionary"][0], most=most), similar
