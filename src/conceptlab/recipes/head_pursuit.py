"""head-pursuit: heads that speak about one thing are found by the words that span their outputs, and turned round silence it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
import torch

from conceptlab.data.concept_answers import ConceptAnswer, read_concept_answers, single_tokens
from conceptlab.errors import InputError
from conceptlab.find.heads.head_pursuit import Spoken, head_pursuit, said_words, spoken
from conceptlab.measure.effects.set_effects import set_effects
from conceptlab.model import Batch, Model, load_model
from conceptlab.model.answers import first_tokens
from conceptlab.model.metric import Metric, right
from conceptlab.numerics.matching_pursuit import pursue
from conceptlab.numerics.ranks import auc
from conceptlab.numerics.rotations import random_signs, rotated
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores, Site, Units
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.speaking_heads import answers_of, speaking_heads

RECIPE = {
    "id": "head-pursuit",
    "claim": "One head in a hundred, chosen because a concept's words span what it writes, is enough to make a model say the "
    "concept less or more.",
    "number": "share of a concept's words that are no longer said when its heads are turned round",
    "control": "as many random heads, words of other concepts, and random word lists",
    "world": "heads that write colours, numbers, animals or anything, over overlapping word vectors",
    "model": "a causal language model, together with --data",
    "data": "CSV, JSONL or a JSON list with the columns text (up to its answer), answer (one token), concept (two or more)",
    "methods": ["find/heads/head_pursuit", "measure/effects/set_effects"],
}  # fmt: skip
ROUNDING = 1e-4
CUT, KEPT, RAISED, SHARE = 0.80, 0.05, 0.50, 0.01
AREA, ATOMS, LENS = (
    "AUC of the planted heads",
    "planted words among the first words of planted heads",
    "one step names the lens's word",
)
AWAY, OTHER, MORE = (
    "concept words lost, heads turned round",
    "other words lost under the same edit",
    "concept words gained, heads x3",
)


@dataclass(frozen=True)
class Planted:
    """What a world says about itself: heads and words by kind, and prompts whose answer is open."""

    heads: dict[str, list[str]]
    words: dict[str, list[str]]
    open: Sequence[str]


@dataclass(frozen=True)
class Told:
    """What is being put together."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    results: dict[str, Scores | Units] = field(default_factory=dict)


def reproduce(setup: Setup) -> Reproduction:
    """Find the heads of each concept on half of the prompts, edit them on the other half. Raises InputError for --model without
    --data, for fewer than two concepts, and as `single_tokens`."""
    if (setup.model is None) != (setup.data is None):
        raise InputError(
            "head-pursuit takes --model and --data together: the answers in the file must be what the model says"
        )
    if setup.model is not None and setup.data is not None:
        rows = read_concept_answers(setup.data, most=200 if setup.quick else 2000)
        return measured(setup.model, rows, quick=setup.quick, seed=setup.seed)
    return on_world(
        speaking_heads(n_prompts=144 if setup.quick else 288, seed=setup.seed), quick=setup.quick, seed=setup.seed
    )


def on_world(world: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on a world of speaking heads (or its null twin)."""
    model = load_model(world.model, tokenizer=world.tokenizer)
    planted = Planted(world.truth["heads"], world.truth["words"], world.prompts["open"])
    return measured(model, answers_of(world), planted, quick=quick, seed=seed)


def measured(
    model: Model, rows: Sequence[ConceptAnswer], planted: Planted | None = None, *, quick: bool, seed: int
) -> Reproduction:
    """The findings on any model and prompts, each the mean over concepts."""
    before, told = model.forwards, Told()
    kinds = sorted({row.concept for row in rows})
    if len(kinds) < 2:
        raise InputError(
            f"the rows are all of the concept {kinds[0]!r}; give two concepts, so that one stands beside the other"
        )
    concept = {kind: single_tokens(model, [row.answer for row in rows if row.concept == kind]) for kind in kinds}
    order = np.random.default_rng(seed).permutation(len(rows))
    chosen_on, rest = ([rows[i] for i in sorted(part)] for part in np.array_split(order, 2))
    heard = spoken(model, [row.text for row in chosen_on])
    found: dict[str, Units] = {}
    for kind in kinds:
        texts, ids = [row.text for row in chosen_on], list(concept[kind].values())
        found[kind] = head_pursuit(model, texts, ids, n_draws=20 if quick else 50, seed=seed, heard=heard)
        told.results[f"heads of {kind}"] = found[kind]
    if planted is not None:
        _planted(model, found, heard, planted, seed, told)
    _lens(model, heard, told)
    heads = {kind: _heads(model, units) for kind, units in found.items()}
    _edited(model, rest, heads, 20 if quick else 100, seed, told)
    if planted is not None and heads.get("colour"):
        _raised(model, planted.open, heads["colour"], concept["colour"], 20 if quick else 100, seed, told)
    provenance = Provenance(
        "head-pursuit", len(rows), seed, model.name, model.revision, causal="ablation", passes=round(model.forwards - before),
        settings={"quick": quick, "heads": {k: [str(h).removesuffix(".z") for h in v] for k, v in heads.items()}},
    )  # fmt: skip
    return Reproduction("head-pursuit", tuple(told.findings), provenance, 0.0, tuple(told.notes), told.results)


def _heads(model: Model, units: Units) -> list[Site]:
    """About one head in a hundred, two at least, of those found."""
    return units.top(max(2, ceil(SHARE * model.n_layers * model.n_heads)), q_max=0.05)


def _planted(model: Model, found: dict[str, Units], heard: Spoken, planted: Planted, seed: int, told: Told) -> None:
    """Whether planted heads come first, and whether their first words are the planted ones."""
    if not any(planted.heads.values()):
        told.findings.append(Finding(AREA, float("nan"), None, "1.0", False))
        told.notes.append(f"{AREA}: no head is planted here")
        return
    areas, luck, right_words, turned_words = [], [], [], []
    turn = random_signs((), model.d_model, seed)
    for kind, units in found.items():
        table = units.table
        names = [f"L{a}.H{b}" for a, b in zip(table["layer"].values, table["index"].values, strict=True)]
        truth = torch.tensor([[float(name in planted.heads[kind])] for name in names])
        for column, kept in (("score", areas), ("control", luck)):
            kept.append(float(auc(torch.tensor(table[column].values)[:, None].float(), truth)[0]))
        wanted = set(model.tokenizer.convert_tokens_to_ids(planted.words[kind]))
        for name in planted.heads[kind]:
            layer, head = int(name[1 : name.index(".")]), int(name[name.index("H") + 1 :])
            said = said_words(model, [], layer, head, n_steps=len(wanted), heard=heard)
            right_words.append(len(wanted & set(said.atoms.tolist())) / len(wanted))
            every = heard.words(torch.arange(len(heard.atoms)))
            turned = pursue(rotated(heard.of(layer, head), turn), every, len(wanted))
            turned_words.append(len(wanted & set(turned.atoms.tolist())) / len(wanted))
    area, by_luck = float(np.mean(areas)), float(np.mean(luck))
    told.findings.append(Finding(AREA, area, by_luck, "1.0 (control: FVE of random words)", area == 1.0))
    share, control = float(np.mean(right_words)), float(np.mean(turned_words))
    told.findings.append(
        Finding(ATOMS, share, control, "all (control: outputs rotated at random)", share == 1.0, "share")
    )


def _lens(model: Model, heard: Spoken, told: Told) -> None:
    """One output, one step, no centring: the word of the largest logit in size; the control takes another text's output."""
    same, other = [], []
    every = torch.arange(len(heard.atoms))
    rows = heard.words(every, unit=False)
    for outputs in heard.outputs.values():
        logits = _lens_of(model, outputs)  # [text, head, d_vocab]
        for head in range(outputs.shape[1]):
            named = [int(pursue(outputs[i : i + 1, head], rows, 1).atoms[0]) for i in range(min(4, len(outputs)))]
            size = logits[: len(named), head].abs()
            same += [_is_largest(size[i], token) for i, token in enumerate(named)]
            other += [_is_largest(size[i - 1], token) for i, token in enumerate(named)]
    told.findings.append(
        Finding(LENS, float(np.mean(same)), float(np.mean(other)), "always (control: another text)", all(same), "share")
    )


def _is_largest(size: torch.Tensor, token: int) -> bool:
    """Whether no logit is larger by more than rounding (a head that says nothing has only that)."""
    return bool(size.max() - size[token] <= ROUNDING * max(1.0, float(size.max())))


def _lens_of(model: Model, outputs: torch.Tensor) -> torch.Tensor:
    """Logits of outputs [text, head, d_model] by the model's own lens, without what its biases say of nothing at all."""
    with torch.no_grad():
        return (model.lens(outputs) - model.lens(torch.zeros_like(outputs))).float()


def _edited(
    model: Model, rest: Sequence[ConceptAnswer], heads: dict[str, list[Site]], n_random: int, seed: int, told: Told
) -> None:
    """Turn a concept's heads round: its own answers and those of the other concepts, among those that the model gets right."""
    batch, ids = (
        model.encode([row.text for row in rest]),
        first_tokens(model, [r.text for r in rest], [r.answer for r in rest]),
    )
    good = (model.logits(batch).argmax(-1).cpu() == torch.tensor(ids)).numpy()
    own, others = [], []
    for kind, chosen in heads.items():
        mine = np.array([row.concept == kind for row in rest])
        if not chosen or not (mine & good).any() or not (~mine & good).any():
            continue
        for rows, kept, name in ((mine & good, own, "own"), (~mine & good, others, "other")):
            at = np.flatnonzero(rows).tolist()
            metric = right([ids[i] for i in at])
            given = {"op": "scale", "strength": -1.0, "n_random": n_random, "seed": seed}
            effects = set_effects(model, batch.select(at), {kind: chosen}, metric, **given)  # type: ignore[arg-type]
            told.results[f"{kind} turned round, {name} words"] = effects
            kept.append(effects.data.isel(set=0))
    bars = ((AWAY, own, f"at least {CUT:g}, random heads at most {KEPT:g}"), (OTHER, others, f"at most {KEPT:g}"))
    for name, kept, bar in bars:
        if not kept:
            told.findings.append(Finding(name, float("nan"), None, bar, False, "share"))
            told.notes.append(
                f"{name}: no concept has both heads that were found and answers that the model gets right"
            )
            continue
        value, control, low, high = (
            float(np.mean([at[c] for at in kept])) for c in ("score", "control", "low", "high")
        )
        holds = value >= CUT and abs(control) <= KEPT if name == AWAY else value <= KEPT
        told.findings.append(Finding(name, value, control, bar, bool(holds), "share", low, high))


def _raised(  # noqa: PLR0913 - what is raised, where, and beside what
    model: Model, prompts: Sequence[str], heads: list[Site], words: dict[str, int], n_random: int, seed: int, told: Told
) -> None:
    """Three times the heads' output where the model would say something else."""
    ids = torch.tensor(sorted(words.values()))
    says = Metric("says a concept word", lambda logits, _: torch.isin(logits.argmax(-1), ids.to(logits.device)).float())
    batch: Batch = model.encode(list(prompts))
    effects = set_effects(model, batch, {"colour": heads}, says, op="scale", strength=3.0, n_random=n_random, seed=seed)
    told.results["colour raised"] = effects
    at = effects.data.isel(set=0)
    value, control, low, high = (-float(at[c]) for c in ("score", "control", "high", "low"))
    bar = f"at least {RAISED:g}, random heads at most {KEPT:g}"
    told.findings.append(Finding(MORE, value, control, bar, value >= RAISED and control <= KEPT, "share", low, high))
