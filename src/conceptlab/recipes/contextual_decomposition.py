"""contextual-decomposition: split every activation, find a circuit and the phrases that an answer rests on (Hsu et al. 2025)."""

import numpy as np

from conceptlab.data.answer_pairs import AnswerPairs, read_answer_pairs
from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.find.circuits.cdt_discovery import cdt_discovery, head_auc
from conceptlab.measure.attribution.contextual_decomposition import contextual_decomposition
from conceptlab.measure.attribution.phrase_relevance import rank_phrases
from conceptlab.measure.patching.path_patching import path_patching
from conceptlab.model import Model, load_model
from conceptlab.model.answers import first_token_pairs
from conceptlab.model.edge_graph import graph_of
from conceptlab.model.metric import Metric, logit_diff
from conceptlab.recipes import Setup
from conceptlab.results import Circuit, Finding, Provenance, Reproduction, Scores
from conceptlab.worlds.induction import induction
from conceptlab.worlds.ioi import ioi
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.saturated_phrase import saturated_phrase

RECIPE = {
    "id": "contextual-decomposition",
    "claim": "Splitting every activation into a relevant and a remaining part, and sending both through the network, gives what "
    "each component contributes, finds circuits in fewer passes than path patching, and tells which phrases an answer rests on.",
    "number": "AUC of planted heads, passes a prompt, share of texts whose planted phrase is ranked first",
    "control": "the null twin, path patching of the same edges, gradient x input, random sets of nodes",
    "world": "indirect object and induction (circuits), a phrase of which any word would do (phrases)",
    "model": "a causal language model that attends through transformers' interface, together with --data",
    "data": "CSV, JSONL or a JSON list with the columns clean, corrupted, answer, distractor and, if wanted, phrase (in clean)",
    "methods": ["measure/attribution/contextual_decomposition", "measure/attribution/phrase_relevance",
                "find/circuits/cdt_discovery"],
}  # fmt: skip
EXACT, LINEAR, FOUND, FAITHFUL, FIRST, CHANCE = 1e-5, 1e-3, 0.95, 0.9, 0.9, 0.3
WORLDS = ((ioi, "swapped", ("L0.H0", "L1.H0", "L2.H0", "L2.H1")), (induction, "key", ("L0.H0", "L1.H0")))
BLIND = "L1.H0"  # of the first world: it acts through queries alone
Run = tuple[Scores, Circuit]


def reproduce(setup: Setup) -> Reproduction:
    """Decompose, search, rank phrases. Raises InputError for --model without --data or the reverse."""
    if (setup.model is None) != (setup.data is None):
        raise InputError("contextual-decomposition takes --model and --data together: the texts must suit the model")
    if setup.model is None or setup.data is None:
        return on_worlds(quick=setup.quick, seed=setup.seed)
    pairs = read_answer_pairs(setup.data, marks="phrase", most=8 if setup.quick else 32)
    return on_pairs(setup.model, pairs, quick=setup.quick, seed=setup.seed)


def on_pairs(model: Model, pairs: AnswerPairs, *, quick: bool, seed: int) -> Reproduction:
    """The row on any model and pairs: what needs no planted truth, and the marked phrases where there are some."""
    metric = logit_diff(*first_token_pairs(model, pairs.clean, pairs.answer, pairs.distractor))
    run = _searched(model, pairs.clean, pairs.corrupted, metric, seed=seed)
    findings, results = _on_any([run]), {"scores": run[0], "circuit": run[1]}
    if pairs.marked is not None:
        places = model.encode(pairs.clean).positions_of(pairs.spans())
        spans = [(row, at[0], at[-1] + 1) for row, at in enumerate(places)]
        first, results["phrases"] = rank_phrases(model, pairs.clean, spans, metric, seed=seed)
        findings += (_ranked("the marked phrase ranks first in its text", first, float(first["gradient"].mean()),
                             "no bar, since nothing is planted (control: gradient x input)", seed, judged=False),)  # fmt: skip
    return _reproduction(findings, results, [run], len(pairs.clean), seed, {"quick": quick, "data": pairs.name})


def on_worlds(*, quick: bool, seed: int, null: bool = False) -> Reproduction:
    """The row on its planted worlds (`null`: on their null twins, where nothing should be found)."""
    n, seeds = (8, [seed]) if quick else (32, [seed, seed + 1, seed + 2])
    runs, twins, areas, patched = [], [], [], []
    for build, other, planted in WORLDS:
        for at in seeds:
            both = [build(seed=at, null=bare) for bare in (null, True)]
            pair = [_of_world(world, other, n, at) for world in both]
            runs, twins = [*runs, pair[0]], [*twins, pair[1]]
            areas.append([head_auc(run[0], run[1].shape, planted) for run in pair])
            patched.append(_passes_of_patching(build(seed=at), other, n))
    phrases = [_phrases(saturated_phrase(n_prompts=2 * n, seed=seed, null=bare), seed) for bare in (null, True)]
    findings = (*_on_any(runs), *_planted(runs, twins, np.array(areas), np.array(patched), seed),
                *_of_phrases(phrases[0][0], phrases[1][0], seed))  # fmt: skip
    results = {"scores": runs[0][0], "circuit": runs[0][1], "phrases": phrases[0][1]}
    return _reproduction(findings, results, runs, n, seed, {"quick": quick, "null": null, "seeds": len(seeds)})


def _searched(model: Model, clean, corrupted, metric: Metric, *, seed: int) -> Run:
    """Scores and circuit, each source against what it writes in its row's corrupted text."""
    given = {"reference": list(corrupted), "against": "paired", "seed": seed}
    scores = contextual_decomposition(model, list(clean), metric, **given)  # type: ignore[arg-type]
    return scores, cdt_discovery(model, list(clean), metric, scores=scores, **given)  # type: ignore[arg-type]


def _of_world(world: PlantedWorld, other: str, n: int, seed: int) -> Run:
    model, metric = load_model(world.model, tokenizer=world.tokenizer), _metric(world, other, n)
    return _searched(model, world.prompts["clean"][:n], world.prompts[other][:n], metric, seed=seed)


def _metric(world: PlantedWorld, other: str, n: int) -> Metric:
    return logit_diff(world.answer_ids("clean")[:n], world.answer_ids(other)[:n])


def _passes_of_patching(world: PlantedWorld, other: str, n: int) -> float:
    """Forwards a prompt of exact path patching over every edge, without its random control (half of what is run)."""
    model = load_model(world.model, tokenizer=world.tokenizer)
    shape, texts = graph_of(model), (list(world.prompts["clean"][:n]), list(world.prompts[other][:n]))
    receivers, senders = shape.receivers.names, shape.senders.names
    found = path_patching(model, *texts, _metric(world, other, n), receivers=receivers, senders=senders)
    return found.provenance.passes / n / 2


def _phrases(world: PlantedWorld, seed: int) -> tuple[dict[str, np.ndarray], Scores]:
    model = load_model(world.model, tokenizer=world.tokenizer)
    spans = [(row, start, stop) for row, (start, stop) in enumerate(world.truth["phrases"])]
    return rank_phrases(model, world.prompts["clean"], spans, _metric(world, "other", len(spans)), seed=seed)


def _on_any(runs: list[Run]) -> tuple[Finding, ...]:
    missed, apart = (max(s.provenance.settings[name] for s, _ in runs) for name in ("sum_error", "apart_error"))
    faithful = float(np.mean([c.provenance.settings["faithfulness"] for _, c in runs]))
    beside = float(np.mean([(c.provenance.settings["faithfulness_random"] or [0.0])[0] for _, c in runs]))
    return (
        Finding("relevant + irrelevant miss the stream, of its size", missed, apart,
                f"at most {EXACT:g} (control: both parts run each alone)", missed <= EXACT),
        Finding("faithfulness of the circuit", faithful, beside, f"at least {FAITHFUL}, above random sets of as many nodes",
                bool(faithful >= FAITHFUL and faithful > beside)),
    )  # fmt: skip


def _planted(
    runs: list[Run], twins: list[Run], areas: np.ndarray, patched: np.ndarray, seed: int
) -> tuple[Finding, ...]:
    """What is known of the worlds: removal on a linear model, the planted heads, the cost, the blind spot."""
    linear, bent = (max(_misses(scores) for scores, _ in some) for some in (twins, runs))
    low, high = bootstrap_mean(areas, seed=seed)
    n = runs[0][0].provenance.n
    passes = np.array([1 + s.provenance.settings["forwards"] / n for s, _ in runs])
    blind = runs[0][0].data.sel(sender=BLIND)
    return (
        Finding("on a linear model scores miss the effect of removal, of its size", linear, bent,
                f"at most {LINEAR:g} (control: the planted worlds, which are not linear)", linear <= LINEAR),
        Finding("AUC of the planted heads", float(areas[:, 0].mean()), float(areas[:, 1].mean()),
                f"at least {FOUND}, null twin below", bool(areas[:, 0].mean() >= FOUND > areas[:, 1].mean()), "",
                float(low[0]), float(high[0])),
        Finding("passes a prompt, all sources on all receivers", float(passes.mean()), float(patched.mean()),
                "fewer than path patching of the same edges", bool(passes.mean() < patched.mean()), "forwards"),
        Finding(f"blind spot: score of {BLIND}, which acts through queries", float(blind["score"]), float(blind["removal"]),
                "no bar: the number beside the true effect of its removal (control)", None, "logits",
                float(blind["low"]), float(blind["high"])),
    )  # fmt: skip


def _misses(scores: Scores) -> float:
    score, removal = scores["score"].values, scores["removal"].values
    return float(np.abs(score - removal).max() / np.abs(removal).max())


def _of_phrases(first: dict[str, np.ndarray], twin: dict[str, np.ndarray], seed: int) -> tuple[Finding, ...]:
    bar = f"at least {FIRST:.0%}, control at most {CHANCE:.0%}"
    beside, bare = float(first["gradient"].mean()), float(twin["score"].mean())
    name = "the planted phrase ranks first in its text"
    return (
        _ranked(f"{name}, beside gradient x input", first, beside, bar, seed),
        _ranked(f"{name}, beside a random choice", first, float(first["chance"].mean()), bar, seed),
        _ranked(f"{name}, beside the null twin", first, bare, bar, seed),
    )


def _ranked(
    name: str, first: dict[str, np.ndarray], control: float, bar: str, seed: int, *, judged: bool = True
) -> Finding:
    share = float(first["score"].mean())
    holds = share >= FIRST and control <= CHANCE if judged else None
    return Finding(name, share, control, bar, holds, "share", *bootstrap_share(first["score"], seed=seed))


def _reproduction(findings, results, runs: list[Run], n: int, seed: int, settings: dict) -> Reproduction:
    scores = [s.provenance for s, _ in runs]
    provenance = Provenance(
        "contextual-decomposition", n, seed, scores[0].model, scores[0].revision, settings=settings, causal="ablation",
        passes=sum(p.passes for p in scores),
    )  # fmt: skip
    notes = tuple(dict.fromkeys(w for p in scores for w in p.warnings))
    return Reproduction("contextual-decomposition", findings, provenance, 0.0, notes, results)
