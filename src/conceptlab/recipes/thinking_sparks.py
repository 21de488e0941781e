"""thinking-sparks: post-training adds heads to a circuit, and they carry the new skill and not the old one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from conceptlab.data.answer_pairs import AnswerPairs, read_answer_pairs
from conceptlab.errors import DataError, InputError
from conceptlab.evidence import bootstrap_mean
from conceptlab.find.heads.emergent_heads import emergent_heads, heads_in
from conceptlab.measure.effects.paired_tasks import PairedTask, paired_task
from conceptlab.measure.effects.set_effects import set_effects
from conceptlab.model import Model, load_model
from conceptlab.model.metric import Metric, right
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores, Site
from conceptlab.runs import Progress
from conceptlab.worlds.post_trained import pairs_of, post_trained
from conceptlab.worlds.trained_carry import REWARDED, STAGES, By, carry_pairs, carry_tokenizer, trained_carry

RECIPE = {
    "id": "thinking-sparks",
    "claim": "Supervised post-training and distillation add stable heads to the reasoning circuit; the heads that emerge carry "
    "the new skill.",
    "number": "share of new answers lost when the heads that emerged are ablated",
    "control": "as many random heads outside the circuit, the old skill, and one checkpoint compared with itself",
    "world": "two checkpoints written by hand, of which the later one has one new head; in the full form also small models "
    "trained to add, then post-trained to carry by examples or by reward",
    "model": "the post-trained checkpoint, together with --data",
    "data": "a folder with base/ (the checkpoint before), new.csv and old.csv (or .jsonl, .json) with the columns clean, "
    "corrupted, answer, distractor",
    "methods": ["find/heads/emergent_heads", "find/circuits/edge_attribution_ig", "measure/effects/set_effects"],
}  # fmt: skip
DROP, KEPT = 0.30, 0.05
PLANTED, SAME = "planted new head found, and no other", "heads that emerge between a checkpoint and itself"
LOST, OLD = "new answers lost without the emergent heads", "old answers lost without them"
BACK, OVER = (
    "new answers lost with the emergent heads at half strength",
    "new answers lost with them at twice their strength",
)
TURNOVER, SHARED = "heads born and died a stage of post-training", "emergent heads that two seeds have in common"
SEEDS = 3
STARTS: dict[By, str] = {
    "sft": f"trained to carry, {SEEDS} seeds: ",
    "reinforce": f"rewarded for carrying, {SEEDS} seeds: ",
}
LEARNED, SPEED = "new answers right after post-training", "heads born and died in 100 steps of post-training"
APART = f"heads born and died in 100 steps, trained less rewarded, {SEEDS} seeds"


@dataclass(frozen=True)
class Told:
    """What is being put together; `start` of a name says which pair of checkpoints it is about."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    results: dict[str, Scores] = field(default_factory=dict)

    def nothing(self, name: str, bar: str, why: str) -> None:
        """A finding that could not be asked."""
        self.findings.append(Finding(name, float("nan"), None, bar, False, "share"))
        self.notes.append(f"{name}: {why}")


def reproduce(setup: Setup) -> Reproduction:
    """Compare checkpoints, ablate what emerged. Raises InputError for --model without --data, DataError for a folder without
    base, new and old."""
    if (setup.model is None) != (setup.data is None):
        raise InputError(
            "thinking-sparks takes --model and --data together: the data folder holds the checkpoint before"
        )
    if setup.model is not None and setup.data is not None:
        base, new, old = _given(setup.data, most=48 if setup.quick else 200)
        done = measured([base, setup.model], new, old, quick=setup.quick, seed=setup.seed)
        return replace(done, provenance=replace(done.provenance, model=setup.model.name))
    done = on_world(quick=setup.quick, seed=setup.seed)
    return done if setup.quick else _with_trained(done, setup.seed, setup.cache, setup.progress)


def on_world(*, skill: float = 1.0, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on checkpoints written by hand; with `skill` 0 the last is the first again, and nothing may emerge."""
    n = 48 if quick else 120
    stages = [post_trained(skill=share * skill, n_prompts=n, seed=seed, data_seed=seed) for share in (0.0, 0.5, 1.0)]
    models = [load_model(world.model, tokenizer=world.tokenizer) for world in stages]
    planted = stages[-1].truth["emergent"]
    return measured(
        models, pairs_of(stages[-1], "place"), pairs_of(stages[-1], "word"), planted, quick=quick, seed=seed
    )


def measured(
    models: Sequence[Model],
    new: AnswerPairs,
    old: AnswerPairs,
    planted: Sequence[str] | None = None,
    *,
    quick: bool,
    seed: int,
) -> Reproduction:
    """The findings on any checkpoints (the first is the base) and two tasks."""
    before, told = sum(model.forwards for model in models), Told()
    heads = _compared(models, new, old, told, seed=seed)
    if planted is not None:
        named = sorted(str(head).removesuffix(".z") for head in heads["emergent"])
        everywhere = 1 / (models[0].n_layers * models[0].n_heads)
        found = float(named == sorted(planted))
        told.findings.append(Finding(PLANTED, found, everywhere, "1 (control: one head drawn at random)", bool(found)))
    _itself(models[-1], new, told, seed)
    _ablated(
        models[-1], paired_task(models[-1], new), paired_task(models[-1], old), heads, 20 if quick else 100, seed, told
    )
    settings = {name: [str(head).removesuffix(".z") for head in found] for name, found in heads.items()}
    provenance = Provenance(
        "thinking-sparks", len(new.clean), seed, models[-1].name, models[-1].revision, settings={"quick": quick, **settings},
        causal="ablation", passes=round(sum(model.forwards for model in models) - before),
    )  # fmt: skip
    return Reproduction("thinking-sparks", tuple(told.findings), provenance, 0.0, tuple(told.notes), told.results)


def _compared(
    models: Sequence[Model], new: AnswerPairs, old: AnswerPairs, told: Told, *, seed: int
) -> dict[str, list[Site]]:
    """Heads of the new skill's circuit by state, and (`old`) those of the old one's in the base."""
    parts = 12 if min(len(new.clean), len(old.clean)) >= 24 else 6
    before = emergent_heads([models[0], models[-1]], paired_task(models[0], old), n_parts=parts, seed=seed)
    used = [*heads_in(before, "kept"), *heads_in(before, "lost")]
    found = emergent_heads(models, paired_task(models[0], new), known=used, n_parts=parts, seed=seed)
    told.results["old skill"], told.results["new skill"] = before, found
    return {**{state: heads_in(found, state) for state in ("emergent", "recruited", "lost", "kept")}, "old": used}


def _itself(model: Model, new: AnswerPairs, told: Told, seed: int) -> None:
    """One checkpoint twice, on different halves of the rows."""
    task, order = paired_task(model, new), np.random.default_rng([seed, 1]).permutation(len(new.clean))
    halves = [task.take(sorted(half.tolist())) for half in np.array_split(order, 2)]
    parts = min(12, min(map(len, halves)) // 2)
    if parts < 2:
        told.nothing(SAME, "none", f"{len(order)} rows are too few for two halves")
        return
    found = emergent_heads([model, model], halves, n_parts=parts, seed=seed)
    told.results["one checkpoint twice"] = found
    n = len(heads_in(found, "emergent")) + len(heads_in(found, "lost"))
    churn = float(found["control"].max())
    told.findings.append(
        Finding(SAME, float(n), churn, "none (control: the largest difference within it, as a share)", n == 0, "heads")
    )


def _right(task: PairedTask, model: Model) -> Metric:
    """1 where the answer has a larger logit than every other answer or distractor of the task."""
    among = sorted({*task.answers, *task.distractors})
    places = {token: i for i, token in enumerate(among)}
    wanted = torch.tensor([places[token] for token in task.answers])
    every = torch.tensor(among)

    def of(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        found = logits[..., every.to(logits.device)]
        index = wanted.to(found.device)[rows.to(found.device)].expand(found.shape[:-1])[..., None]
        mine = found.gather(-1, index)
        rivals = found.scatter(-1, index, float("-inf")).amax(-1, keepdim=True)
        return (mine > rivals)[..., 0].float()

    return Metric(f"right among answers of {model.name}", of)


def _ablated(  # noqa: PLR0913 - what is ablated, and where it is looked at
    model: Model, new: PairedTask, old: PairedTask, heads: dict[str, list[Site]], n_random: int, seed: int, told: Told
) -> None:
    bar = f"at least {DROP:g}, random heads at most {KEPT:g}"
    if not heads["emergent"]:
        for name, asked in ((LOST, bar), (OLD, f"at most {KEPT:g}")):
            told.nothing(name, asked, "no head emerged, so there is nothing to ablate")
        return
    rest = [head for state in ("recruited", "kept", "old") for head in heads[state] if head not in heads["emergent"]]
    sets = {
        "emergent": heads["emergent"],
        **({"other heads of the circuits": list(dict.fromkeys(rest))} if rest else {}),
    }
    bars: tuple[tuple[str, PairedTask, str, Callable[[float, float], bool]], ...] = (
        (LOST, new, bar, lambda lost, random: lost >= DROP and abs(random) <= KEPT),
        (OLD, old, f"at most {KEPT:g}", lambda lost, _: lost <= KEPT),
    )
    for name, task, asked, holds in bars:
        try:
            effects = set_effects(model, task.clean, sets, _right(task, model), op="zero", n_random=n_random, seed=seed)
        except InputError as error:
            told.nothing(name, asked, str(error))
            continue
        told.results[name] = effects
        told.findings.append(_finding(name, effects, asked, holds))
    for name, strength in ((BACK, 0.5), (OVER, 2.0)):
        given = {"op": "scale", "strength": strength, "n_random": n_random, "seed": seed}
        effects = set_effects(model, new.clean, {"emergent": heads["emergent"]}, _right(new, model), **given)  # type: ignore[arg-type]
        told.findings.append(_finding(name, effects, "no bar: shown beside full ablation", None))


def _finding(name: str, effects: Scores, bar: str, holds: Callable[[float, float], bool] | None) -> Finding:
    at = effects.data.sel(set="emergent")
    value, control = float(at["score"]), float(at["control"])
    said = None if holds is None else bool(holds(value, control))
    return Finding(name, value, control, bar, said, "share", float(at["low"]), float(at["high"]))


def _with_trained(done: Reproduction, seed: int, cache: Path | None, progress: Progress) -> Reproduction:
    """Add what small trained models do, over several seeds; the published turnover is a question here, not a bar."""
    seeds = range(seed, seed + SEEDS)
    arms: dict[By, list[Arm]] = {by: [_trained(number, by, cache, progress) for number in seeds] for by in STARTS}
    itself = next(f.value for f in done.findings if f.name == SAME)
    findings, notes, results = [], [], {}
    for by, start in STARTS.items():
        parts = [arm.done for arm in arms[by]]
        findings += [*_skills(parts, start), *_turnover(parts, itself, start), _learned(arms[by], start)]
        for number, part in zip(seeds, parts, strict=True):
            name = f"{'' if by == 'sft' else 'reward, '}seed {number}"
            notes += [f"trained, {name}: {note}" for note in part.notes]
            results |= {f"{name}: {what}": result for what, result in part.results.items()}
    findings += _speeds(arms, itself)
    return replace(
        done,
        findings=(*done.findings, *findings),
        notes=(*done.notes, *notes),
        results={**done.results, **results},
    )


@dataclass(frozen=True)
class Arm:
    """One seed of one way of post-training: the findings, held-out sums with a carry that are right before and after it (shares),
    and heads born and died in 100 steps."""

    done: Reproduction
    before: float
    after: float
    speed: float


def _trained(seed: int, by: By, cache: Path | None, progress: Progress) -> Arm:
    """The findings on the checkpoints of one seed."""
    stages = (0, *(STAGES if by == "sft" else REWARDED))
    models = [
        load_model(
            trained_carry(n, by=by, seed=seed, cache=cache, progress=progress).model, tokenizer=carry_tokenizer()
        )
        for n in stages
    ]
    new = carry_pairs("carry", 96, seed)
    done = measured(models, new, carry_pairs("plain", 96, seed), quick=False, seed=seed)
    changed = done.results["new skill"]
    turned = float((changed["births"].values + changed["deaths"].values)[1:].sum())
    ends = [float(right(paired_task(m, new).answers).of(m.logits(new.clean), torch.arange(96)).mean()) for m in models]
    return Arm(done, ends[0], ends[-1], 100 * turned / stages[-1])


def _learned(arms: Sequence[Arm], start: str) -> Finding:
    """Whether post-training taught the new skill."""
    after, before = [arm.after for arm in arms], float(np.mean([arm.before for arm in arms]))
    bar = "reported (control: before post-training)"
    return Finding(f"{start}{LEARNED}", float(np.mean(after)), before, bar, None, "share", min(after), max(after))


def _speeds(arms: dict[By, list[Arm]], itself: float) -> list[Finding]:
    """Turnover in 100 steps of both ways, and their difference over the seeds."""
    each: dict[By, np.ndarray] = {by: np.array([arm.speed for arm in of]) for by, of in arms.items()}
    bar = "no bar (control: a checkpoint and itself)"
    found = [
        Finding(f"{STARTS[by]}{SPEED}", float(of.mean()), itself, bar, None, "heads", float(of.min()), float(of.max()))
        for by, of in each.items()
    ]
    gap = each["sft"] - each["reinforce"]
    low, high = (float(end) for end in bootstrap_mean(gap))
    return [*found, Finding(APART, float(gap.mean()), 0.0, "no bar (control: none apart)", None, "heads", low, high)]


def _skills(parts: Sequence[Reproduction], start: str) -> list[Finding]:
    """What both skills lose, mean over the seeds in which heads emerged, with the least and the most."""
    found = []
    bars = {LOST: f"at least {DROP:g}, random heads at most {KEPT:g}", OLD: f"at most {KEPT:g}"}
    for name, bar in bars.items():
        known = [f for part in parts for f in part.findings if f.name == name and f.control is not None]
        values = [f.value for f in known]
        if not values:
            continue
        value, control = float(np.mean(values)), float(np.mean([f.control for f in known if f.control is not None]))
        holds = value >= DROP and abs(control) <= KEPT if name == LOST else value <= KEPT
        ends = float(min(values)), float(max(values))
        found.append(Finding(f"{start}{name}", value, control, bar, bool(holds), "share", *ends))
    return found


def _turnover(parts: Sequence[Reproduction], itself: float, start: str) -> list[Finding]:
    """Births and deaths a stage, and how alike the seeds are."""
    timelines = [part.results["new skill"] for part in parts]
    turns = [float((t["births"].values + t["deaths"].values)[1:].mean()) for t in timelines]
    sets = [set(part.provenance.settings["emergent"]) for part in parts]
    alike = [len(a & b) / max(1, len(a | b)) for i, a in enumerate(sets) for b in sets[i + 1 :]]
    size, n_heads = float(np.mean([len(s) for s in sets])), timelines[0]["score"].size
    luck = size / max(1e-9, 2 * n_heads - size)
    bars = "no bar (control: a checkpoint and itself)", "no bar (control: as many heads at random)"
    return [
        Finding(f"{start}{TURNOVER}", float(np.mean(turns)), itself, bars[0], None, "heads", min(turns), max(turns)),
        Finding(f"{start}{SHARED}", float(np.mean(alike)), luck, bars[1], None, "share"),
    ]


def _given(folder: Path, most: int) -> tuple[Model, AnswerPairs, AnswerPairs]:
    """The base and both tasks of a user's folder."""
    files = {name: next((p for p in sorted(folder.glob(f"{name}.*"))), None) for name in ("new", "old")}
    if not (folder / "base").is_dir() or None in files.values():
        raise DataError(
            f"{folder}: needs base/ (a model folder), new.csv and old.csv (or .jsonl, .json); add what is missing"
        )
    new, old = (read_answer_pairs(path, most=most) for path in files.values() if path is not None)
    return load_model(folder / "base"), new, old
