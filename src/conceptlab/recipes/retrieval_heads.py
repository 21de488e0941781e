"""retrieval-heads: few heads copy a fact out of a long text, and without them it is not found (Wu et al. 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from conceptlab.data.needles import Haystacks, Needle, hide_needles, read_needles
from conceptlab.errors import InputError
from conceptlab.find.heads.retrieval_heads import RETRIEVAL, retrieval_heads
from conceptlab.measure.effects.needle_accuracy import needle_accuracy
from conceptlab.measure.effects.set_effects import set_effects
from conceptlab.model import Model, load_model
from conceptlab.model.metric import right
from conceptlab.numerics.ranks import auc
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores, Site, Units
from conceptlab.worlds.haystack import haystack, needles_of
from conceptlab.worlds.planted import PlantedWorld

RECIPE = {
    "id": "retrieval-heads",
    "claim": "Under 5 % of a model's heads copy facts out of a long context; masking them breaks retrieval, masking others does "
    "not, and what is known by heart stays.",
    "number": "share of hidden facts that are no longer found when the found heads are masked",
    "control": "as many random heads, texts without the fact, and questions answered from memory",
    "world": "a text of filler with a fact in it: three heads that copy, heads that only look, facts in an MLP, noise",
    "model": "a causal language model that attends through transformers' interface, together with --data",
    "data": "CSV, JSONL or a JSON list with the columns needle, question (up to the answer), answer, filler",
    "methods": ["find/heads/retrieval_heads", "measure/effects/needle_accuracy", "measure/effects/set_effects"],
}  # fmt: skip
PLANTED, DROP, RANDOM, RECALL, FEW = 0.98, 0.50, 0.05, 0.03, 0.05
MASKED = "hidden facts lost when the retrieval heads are masked"
KNOWN = "facts known by heart lost under the same mask"
TWIN = "hidden facts lost when a head that only looks is masked"
FOUND = "hidden facts found over lengths and depths"
AREA = "AUC of the planted heads among all heads"
SPARSE = "share of heads that retrieve"


@dataclass(frozen=True)
class Known:
    """What a model knows by heart, and what a world says about itself."""

    prompts: Sequence[str] = ()
    answers: Sequence[int] = ()
    planted: Sequence[str] = ()
    twin: Sequence[str] = ()


@dataclass(frozen=True)
class Told:
    """What is being put together."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    results: dict[str, Scores | Units] = field(default_factory=dict)

    def nothing(self, name: str, bar: str, why: str) -> None:
        """A finding that could not be asked."""
        self.findings.append(Finding(name, float("nan"), None, bar, False, "share"))
        self.notes.append(f"{name}: {why}")


def reproduce(setup: Setup) -> Reproduction:
    """Find retrieval heads on half of the needles, mask them on the other. Raises InputError for --model without --data."""
    if (setup.model is None) != (setup.data is None):
        raise InputError(
            "retrieval-heads takes --model and --data together: the model must answer the needles in the file"
        )
    if setup.model is not None and setup.data is not None:
        needles, filler = read_needles(setup.data, most=16 if setup.quick else 100)
        lengths = _lengths(setup.model, needles, filler, 2 if setup.quick else 5)
        return measured(setup.model, needles, filler, lengths, quick=setup.quick, seed=setup.seed)
    return on_world(
        haystack(n_needles=12 if setup.quick else 24, twin=True, seed=setup.seed), quick=setup.quick, seed=setup.seed
    )


def on_world(world: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on a world of needles (or its null twin)."""
    model = load_model(world.model, tokenizer=world.tokenizer)
    known = Known(world.prompts["recall"], world.answer_ids("recall"), world.truth["copy"], world.truth["twin"])
    lengths = [48, 96] if quick else [32, 64, 128, 192, 248]
    return measured(model, needles_of(world), world.prompts["filler"][0], lengths, known, quick=quick, seed=seed)


def _lengths(model: Model, needles: Sequence[Needle], filler: str, n: int) -> list[int]:
    """Lengths of prompts, doubling down from the longest that context and filler allow."""
    pieces = [model.tokenizer(f"{a.needle} {a.question}", add_special_tokens=False)["input_ids"] for a in needles]
    least = max(map(len, pieces)) + 8
    most = min(model.max_length - 50, len(model.tokenizer(filler, add_special_tokens=False)["input_ids"]))
    return sorted({max(least, most // 2**i) for i in range(n)})


def measured(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    needles: Sequence[Needle],
    filler: str,
    lengths: Sequence[int],
    known: Known = Known(),
    *,
    quick: bool,
    seed: int,
) -> Reproduction:
    """The findings on any model and needles."""
    before, told = model.forwards, Told()
    depths = [0.0, 0.5, 1.0] if quick else np.linspace(0, 1, 6).round(2).tolist()
    order = np.random.default_rng(seed).permutation(len(needles))
    chosen_on, rest = ([needles[i] for i in sorted(part)] for part in np.array_split(order, 2))
    stacks = hide_needles(model, chosen_on, filler, lengths=lengths, depths=depths)
    try:
        units = retrieval_heads(model, stacks, seed=seed)
    except InputError as error:
        told.nothing(MASKED, f"at least {DROP:g}", str(error))
        heads: list[Site] = []
    else:
        told.results["heads"] = units
        heads = _found(units)
        _ranking(units, heads, known, told)
        held = hide_needles(model, rest or chosen_on, filler, lengths=lengths, depths=depths)
        _masking(model, held, heads, known, 10 if quick else 30, seed, told)
    grid = needle_accuracy(model, rest or chosen_on, filler, lengths=lengths, depths=depths, seed=seed)
    told.results["accuracy"] = grid
    found, luck = float(grid["score"].mean()), float(grid["control"].mean())
    told.findings.append(Finding(FOUND, found, luck, "more than without the fact", found > luck, "share"))
    provenance = Provenance(
        "retrieval-heads", len(needles), seed, model.name, model.revision, causal="ablation",
        passes=round(model.forwards - before),
        settings={"quick": quick, "lengths": list(lengths), "depths": depths, "heads": [_name(h) for h in heads]},
    )  # fmt: skip
    return Reproduction("retrieval-heads", tuple(told.findings), provenance, 0.0, tuple(told.notes), told.results)


def _name(head: Site) -> str:
    return str(head).removesuffix(".z")


def _found(units: Units) -> list[Site]:
    """Heads of the published class that also stand above the null."""
    n = int(((units.table["score"] >= RETRIEVAL) & (units.table["q"] <= 0.05)).sum())
    return units.top(n, q_max=0.05)


def _ranking(units: Units, heads: list[Site], known: Known, told: Told) -> None:
    table = units.table
    if known.planted:
        names = [f"L{a}.H{b}" for a, b in zip(table["layer"].values, table["index"].values, strict=True)]
        kept = [i for i, name in enumerate(names) if name not in known.twin]
        planted = torch.tensor([[float(names[i] in known.planted)] for i in kept])
        score, null = (torch.tensor(table[c].values[kept])[:, None] for c in ("score", "control"))
        area, luck = (float(auc(values.float(), planted)[0]) for values in (score, null))
        told.findings.append(
            Finding(AREA, area, luck, f"at least {PLANTED} (control: the null's scores)", area >= PLANTED)
        )
    total = len(table["score"])
    bar = "no bar here" if known.planted else f"at most {FEW} and not none"
    holds = None if known.planted else 0 < len(heads) <= FEW * total
    told.findings.append(
        Finding(SPARSE, len(heads) / total, 0.0, f"{bar} (control: heads expected under the null)", holds, "share")
    )


def _masking(  # noqa: PLR0913 - what is masked, and how
    model: Model, held: Haystacks, heads: list[Site], known: Known, n_random: int, seed: int, told: Told
) -> None:
    bar = f"at least {DROP:g}, random heads at most {RANDOM:g}"
    if not heads:
        told.nothing(MASKED, bar, f"no head scores {RETRIEVAL:g} and more beyond its null, so there is nothing to mask")
        return
    sets = {"retrieval": heads}
    if known.twin:
        sets["twin"] = [Site.parse(f"{name}.z") for name in known.twin]
    answers = _first_of(model, held)
    given = {"op": "zero", "n_random": n_random, "seed": seed}
    needles = set_effects(model, held.batch, sets, right(answers), groups=list(held.which), **given)
    told.results["masked"] = needles
    clean = needles.data.attrs["clean"]
    told.findings.append(_lost(MASKED, needles, "retrieval", bar, lambda a, b: a >= DROP * clean and b <= RANDOM))
    if known.twin:
        told.findings.append(_lost(TWIN, needles, "twin", f"at most {RANDOM:g}", lambda a, _: a <= RANDOM))
    if known.prompts:
        recalled = set_effects(model, list(known.prompts), {"retrieval": heads}, right(list(known.answers)), **given)
        told.results["known by heart"] = recalled
        said = f"at most {RECALL:g} either way"
        told.findings.append(_lost(KNOWN, recalled, "retrieval", said, lambda a, _: abs(a) <= RECALL))


def _lost(name: str, effects: Scores, which: str, bar: str, holds) -> Finding:  # noqa: ANN001 - (loss, random loss) -> bool
    at = effects.data.sel(set=which)
    value, control = float(at["score"]), float(at["control"])
    return Finding(name, value, control, bar, bool(holds(value, control)), "share", float(at["low"]), float(at["high"]))


def _first_of(model: Model, held: Haystacks) -> list[int]:
    """First token of each answer after its prompt."""
    return [model.tokenizer(f" {answer.strip()}", add_special_tokens=False)["input_ids"][0] for answer in held.answers]
