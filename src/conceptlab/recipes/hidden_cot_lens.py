"""hidden-cot-lens: steps that filler tokens hide are read below them, layer by layer, and can be shown (Bharadwaj 2024).

The full form trains three models and two twins, and says of each whether it learnt the task, by its loss (`worlds/filler_chain`);
one that did not is named in the notes and stays in every number. An earlier setting (3 layers, at most 800 steps) had not let every
model learn: seeds 0, 1, 2 gave 81 %, 100 % and 30 % of the steps, seed 2 at a loss of 0.037 with 91 % of its answers right.
This one was fixed on seeds 100, 101 by the loss and run once on seeds 20, 21, 22: 100 %, 84 % and 99 % of the steps, twins at most
18 %; the filler took over at layers 3, 3 and 2, so "at the same layer" failed. Learning the task does not settle how much is read:
seed 100 (1200 steps at most instead of 1500; loss 0.0003, every answer right) gave 71 %.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from conceptlab.data.filler_texts import read_filler_texts
from conceptlab.errors import InputError
from conceptlab.measure.lenses.filler_steps import filler_steps
from conceptlab.measure.lenses.hidden_decoding import hidden_decoding
from conceptlab.measure.lenses.hidden_reading import ChainCase, Reading, read_half
from conceptlab.model import Model, load_model
from conceptlab.model.answers import first_tokens
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores
from conceptlab.worlds.filler_chain import (
    FILLER,
    LEARNT,
    SKIP,
    Chains,
    FillerTask,
    chain_rows,
    filler_chain,
    guess_from_target,
    hidden_loss,
    tokenizer_of,
)
from conceptlab.worlds.hidden_steps import hidden_steps
from conceptlab.worlds.planted import PlantedWorld

RECIPE = {
    "id": "hidden-cot-lens",
    "claim": "Models trained to think with meaningless filler symbols still carry the true intermediate symbols, which show up "
    "among the runners-up of a layer-wise lens and can be printed without changing the answer.",
    "number": "share of true steps that are the best token besides the filler, at a layer chosen on other texts",
    "control": "models never given a true chain, steps of other texts, steps renamed",
    "world": "pair sums as in 3SUM, half of the chains written as fillers: three trained models and two twins (full form), "
    "a model written by hand and its null twin (quick form)",
    "model": "a causal language model that writes filler tokens, together with --data",
    "data": "CSV, JSONL or a JSON list with the columns prompt (with fillers, up to the answer), written (the same text with one "
    "step in place of each filler), answer",
    "methods": ["measure/lenses/hidden_chain", "measure/lenses/hidden_decoding"],
}
READ, WITHIN_TWO, NEAR_CHANCE, COVERED = 0.70, 0.90, 0.20, 0.90
STEPS_READ, FED_BACK = (
    "true steps that are the best token besides the filler",
    "answers unchanged when the shown steps are fed back",
)
TWINS: dict[str, Chains] = {"every chain hidden": "none", "shown chains are other texts'": "shuffled"}


def reproduce(setup: Setup) -> Reproduction:
    """Read the layers, then decode. Raises InputError for --model without --data and the other way round."""
    if (setup.model is None) != (setup.data is None):
        raise InputError(
            "hidden-cot-lens takes --model and --data together: the texts must hold the model's own fillers"
        )
    if setup.model is not None and setup.data is not None:
        return measured([_of_file(setup.model, setup.data, quick=setup.quick)], {}, quick=setup.quick, seed=setup.seed)
    if setup.quick:
        worlds = [hidden_steps(n_prompts=64, seed=setup.seed, null=null) for null in (False, True)]
        return on_worlds(*worlds, seed=setup.seed)
    seeds = range(setup.seed, setup.seed + 3)
    made = {f"seed {seed}": _trained(setup, "shown", seed) for seed in seeds}
    twins = {name: _trained(setup, chains, setup.seed) for name, chains in TWINS.items()}
    losses = {name: loss for name, (_, loss) in {**made, **twins}.items()}
    done = measured([case for case, _ in made.values()], {name: case for name, (case, _) in twins.items()},
                    quick=False, seed=setup.seed)  # fmt: skip
    return replace(done, notes=(*done.notes, *_learning(losses)))


def on_worlds(world: PlantedWorld, twin: PlantedWorld, *, seed: int = 0) -> Reproduction:
    """The row on a world of hidden steps, with another (its null twin) as the control."""
    return measured([_of_world(world)], {"the null twin": _of_world(twin)}, quick=True, seed=seed)


def measured(cases: Sequence[ChainCase], twins: dict[str, ChainCase], *, quick: bool, seed: int) -> Reproduction:
    """The findings on models that differ in their seed; the lowest of them is what is reported."""
    before = sum(case.model.forwards for case in [*cases, *twins.values()])
    found = [read_half(case, n_shuffles=199 if quick else 999, seed=seed) for case in cases]
    others = {name: read_half(case, n_shuffles=199 if quick else 999, seed=seed) for name, case in twins.items()}
    lowest = min(found, key=lambda reading: reading.at("score"))
    decoded = [_decoded(r, seed) for r in found]
    guess = max((case.guess for case in cases if case.guess is not None), default=None)
    findings = [*_below(lowest, others), _at_the_output(lowest), *_covered(found), *_shown(decoded, guess)]
    model, n = cases[0].model, sum(len(case.texts) for case in cases)
    provenance = Provenance(
        "hidden-cot-lens", n, seed, model.name, model.revision, causal="none",
        settings={"quick": quick, "layers": [r.layer for r in found], "shares": [r.at("score") for r in found]},
        passes=round(sum(case.model.forwards for case in [*cases, *twins.values()]) - before),
    )  # fmt: skip
    results = {
        "lens": lowest.lens,
        "decoding": decoded[found.index(lowest)],
        **{f"lens: {name}": r.lens for name, r in others.items()},
    }
    return Reproduction("hidden-cot-lens", tuple(findings), provenance, 0.0, _notes(found, decoded, others), results)


def _of_world(world: PlantedWorld) -> ChainCase:
    model = load_model(world.model, tokenizer=world.tokenizer)
    texts, answers = model.encode(world.prompts["hidden"]), world.answer_ids("hidden")
    return ChainCase(model, texts, world.truth["steps"], answers, world.truth["filler"], world.truth["skip"])


def _trained(setup: Setup, chains: Chains, seed: int) -> tuple[ChainCase, float]:
    """A trained model with texts of numbers that it has never seen together, and its loss on texts like those it was trained on."""
    task = FillerTask()
    made = filler_chain(task, chains=chains, seed=seed, cache=setup.cache, progress=setup.progress)
    rows = chain_rows(task, 512, np.random.default_rng(10_000 + seed), hidden=True, held_out=True)
    model = load_model(made.model, tokenizer=tokenizer_of(task))
    guess, once = guess_from_target(rows), np.unique(rows.steps, axis=0, return_index=True)[1]
    case = ChainCase(model, rows.prompts(), rows.steps.tolist(), rows.answers.tolist(), FILLER, SKIP, guess)
    return case.rows(sorted(once.tolist())), hidden_loss(made.model, task)  # no chain twice


def _of_file(model: Model, data: Path, *, quick: bool) -> ChainCase:
    items = read_filler_texts(data, most=64 if quick else 400)
    texts = model.encode([item.prompt for item in items])
    filler, steps = filler_steps(model, texts, [item.written for item in items])
    answers = first_tokens(model, [item.prompt for item in items], [item.answer for item in items])
    special = set(getattr(model.tokenizer, "all_special_ids", ())) - {filler, *(s for own in steps for s in own)}
    return ChainCase(model, texts, steps, answers, filler, sorted(special))


def _decoded(reading: Reading, seed: int) -> Scores:
    case, options = reading.case, {"filler": reading.case.filler, "skip": reading.case.skip, "layer": reading.layer}
    return hidden_decoding(case.model, case.texts, case.steps, case.answers, seed=seed, **options)


def _below(lowest: Reading, twins: dict[str, Reading]) -> list[Finding]:
    """The steps below the filler, at the chosen layer, beside models that were never given a true chain."""
    chance, known = lowest.at("constant"), lowest.at("q") <= 0.05
    controls = {name: [r.at(name) for r in twins.values()] for name in ("score", "within_two")}
    quiet = all(r.at("score") <= chance + NEAR_CHANCE for r in twins.values())
    if twins:
        bar = f"at least {READ:.0%}, q <= 0.05; a model without true chains at most {chance + NEAR_CHANCE:.0%}"
    else:
        bar = f"at least {READ:.0%}, q <= 0.05 (control: steps of other texts)"
    found = [
        Finding(STEPS_READ, lowest.at("score"), max(controls["score"], default=lowest.at("control")), bar,
                bool(lowest.at("score") >= READ and known and quiet), "share", lowest.at("low"), lowest.at("high"))
    ]  # fmt: skip
    if twins:
        found.append(Finding("true steps of rank 1 or 2 there", lowest.at("within_two"), max(controls["within_two"]),
                             f"at least {WITHIN_TWO:.0%}", lowest.at("within_two") >= WITHIN_TWO, "share"))  # fmt: skip
    return found


def _at_the_output(lowest: Reading) -> Finding:
    last = str(lowest.lens["layer"].values[-1])
    score, control, low, high = (lowest.at(name, last) for name in ("score", "control", "low", "high"))
    return Finding("true steps that are the output's own best token besides the filler", score, control,
                   "none: the interval is the result (control: steps of other texts)", None, "share", low, high)  # fmt: skip


def _covered(found: Sequence[Reading]) -> list[Finding]:
    """The filler is the first choice at the output, and from the same layer on in every model."""
    labels = [str(label) for label in found[0].lens["layer"].values]
    most, there = min(r.at("filler_top1", labels[-1]) for r in found), max(r.at("filler_top1") for r in found)
    findings = [
        Finding("places whose first choice is the filler at the output", most, there,
                f"at least {COVERED:.0%} (control: at the layer where the steps are read)", most >= COVERED, "share")
    ]  # fmt: skip
    if len(found) > 1:
        overwrite = [r.lens.data.attrs["overwrite"] for r in found]
        drawn = np.random.default_rng(0).integers(0, len(labels), (2000, len(found)))
        same = max(overwrite.count(label) for label in overwrite) / len(found)
        chance = np.mean([np.bincount(draw).max() for draw in drawn]) / len(found)
        findings.append(Finding("models whose filler takes over at the same layer", same, float(chance),
                                "all (control: a layer at random)", same == 1.0 and overwrite[0] in labels, "share"))  # fmt: skip
    return findings


def _shown(decoded: Sequence[Scores], guess: float | None) -> list[Finding]:
    """What the decoder shows, and whether the answers stay: each number from the model where it is lowest."""

    def least(name: str, variant: str) -> xr.Dataset:
        return min((d.data.sel(variant=variant) for d in decoded), key=lambda at: float(at[name]))

    shown, text, back = least("recovered", "as text"), least("score", "as text"), least("unchanged", "fed back")
    guess = float(text["control"]) if guess is None else guess
    steps, right, kept = float(shown["recovered"]), float(text["score"]), float(back["unchanged"])
    return [
        Finding("true steps in the text that the decoder shows", steps, float(shown["recovered_control"]),
                f"at least {READ:.0%} (control: steps of other texts)", steps >= READ, "share",
                float(shown["recovered_low"]), float(shown["recovered_high"])),
        Finding("answers right while steps are shown as text", right, guess, "interval above what needs no steps",
                float(text["low"]) > guess, "share", float(text["low"]), float(text["high"])),
        Finding(FED_BACK, kept, float(back["unchanged_control"]),
                "none: the interval is the result (control: answers of any text)", None, "share",
                float(back["unchanged_low"]), float(back["unchanged_high"])),
    ]  # fmt: skip


def _notes(found: Sequence[Reading], decoded: Sequence[Scores], twins: dict[str, Reading]) -> tuple[str, ...]:
    each = "; ".join(
        f"{r.at('score'):.0%} of the steps at layer {r.layer}, filler first from {r.lens.data.attrs['overwrite']}, "
        f"{float(d['score'].sel(variant='as it is')):.0%} of the answers right"
        for r, d in zip(found, decoded, strict=True)
    )
    notes = [
        f"by model: {each}" + (" (the lowest is reported)" if len(found) > 1 else ""),
        "steps shown as text cannot change an answer, since the filler stays in the context; fed back they make a text of a form "
        "that the model need not know",
    ]
    notes += [f"{name}: {r.at('score'):.0%} at layer {r.layer}" for name, r in twins.items()]
    if not twins:
        notes.append("no model that never saw the steps was at hand, so steps of other texts are the control")
    return tuple(notes)


def _learning(losses: dict[str, float]) -> tuple[str, ...]:
    """Who learnt the task, by the loss alone."""
    short = [name for name, loss in losses.items() if not loss <= LEARNT]
    each = "; ".join(f"{name} {loss:.2g}" for name, loss in losses.items())
    said = f"not learnt, but counted: {', '.join(short)}" if short else "all learnt"
    return (f"nats a token on texts with hidden chains, at most {LEARNT:g} where the task is learnt: {each} ({said})",)
