"""recall-vs-reasoning: two sets of heads and neurons, one for remembered facts and one for putting premises together."""

from dataclasses import replace

import numpy as np

from conceptlab.data.answer_pairs import AnswerPairs, read_tasks
from conceptlab.errors import DataError, InputError
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.find.abilities.selective_units import selective_units, units_of
from conceptlab.find.abilities.task_contrast import task_contrast
from conceptlab.measure.effects.double_dissociation import double_dissociation
from conceptlab.measure.effects.paired_tasks import PairedTask, paired_task
from conceptlab.measure.patching.patched_units import UnitPatches, patched_units
from conceptlab.model import Model, load_model
from conceptlab.model.metric import right
from conceptlab.model.sweep.plain import plain_values
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores, Site
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.recall_and_hops import recall_and_hops
from conceptlab.worlds.recall_puzzles import pairs_of
from conceptlab.worlds.trained_recall import facts_of, tokenizer, trained_recall, unseen_puzzles

RECIPE = {
    "id": "recall-vs-reasoning",
    "claim": "Separate heads and neurons serve remembered facts and the combining of premises: knocking out either set costs its "
    "own task as much as 15 percent in Qwen and LLaMA and spares the other, with weaker effects at single neurons.",
    "number": "accuracy lost on either task when the units found for one of them are knocked out",
    "control": "random units of the same layers, shuffled tasks, and recall prompts split at random into two tasks",
    "world": "facts in an MLP and two-hop answers in heads, decoys beside them; in the full form a small trained model, too",
    "model": "a causal language model, together with --data",
    "data": "a folder with recall and reasoning (.csv, .jsonl or .json): columns clean, corrupted, answer, distractor",
    "methods": ["find/abilities/task_contrast", "find/abilities/selective_units", "measure/effects/double_dissociation",
                "measure/patching/patched_units"],
}  # fmt: skip
TASKS = ("recall", "reasoning")
OWN, OTHER, RANDOM = 30.0, 5.0, 10.0  # points
FEWEST, Q_MAX, ABLE, LEARNED = 32, 0.05, 80, 90  # rows, rate of false discoveries, percent, percent
ABILITIES = {name: f"answers to {name} puzzles never trained on that are right" for name in TASKS}
Two = dict[str, PairedTask]


def reproduce(setup: Setup) -> Reproduction:
    """Contrast, patch, knock out. Raises InputError for --model without --data, and DataError where the folder is not of that
    form."""
    if (setup.model is None) != (setup.data is None):
        raise InputError(
            "recall-vs-reasoning takes --model and --data together: the facts in the files must be the model's"
        )
    if setup.model is not None and setup.data is not None:
        tasks = {pairs.name: pairs for pairs in read_tasks(setup.data, most=128 if setup.quick else 400)}
        if set(tasks) != set(TASKS):
            raise DataError(f"{setup.data}: holds {', '.join(tasks)}; name its two files recall and reasoning")
        return measured(setup.model, tasks, quick=setup.quick, seed=setup.seed)
    world = recall_and_hops(n_prompts=144 if setup.quick else 384, seed=setup.seed)
    planted = on_world(world, quick=setup.quick, seed=setup.seed)
    return planted if setup.quick else beside(planted, on_trained(setup))


def on_world(world: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on a world of recall and reasoning (or its null twin)."""
    families = {name: (world.prompts[name], world.prompts[f"{name}_corrupted"]) for name in TASKS}
    answers = {name: (world.answers[name], world.answers[f"{name}_corrupted"]) for name in TASKS}
    tasks = {name: AnswerPairs(name, *families[name], *answers[name]) for name in TASKS}
    planted = {name: [*world.truth[name]["heads"], *world.truth[name]["neurons"]] for name in TASKS}
    return measured(load_model(world.model, tokenizer=world.tokenizer), tasks, planted=planted, quick=quick, seed=seed)


def on_trained(setup: Setup, *, n: int = 400) -> Reproduction:
    """The row on the small trained model and puzzles that it has never seen, with how well it does either task."""
    seed = setup.seed
    found = trained_recall(seed=seed, cache=setup.cache, progress=setup.progress)
    puzzles, facts = unseen_puzzles(n, seed), facts_of(seed)
    tasks = {name: pairs_of(puzzles, name, facts) for name in TASKS}
    model = load_model(found.model, tokenizer=tokenizer())
    done = measured(model, tasks, quick=setup.quick, seed=seed)
    notes = (*done.notes, found.note) if found.note else done.notes
    return replace(done, findings=(*_able(model, tasks, seed), *done.findings), notes=notes)


def beside(planted: Reproduction, trained: Reproduction) -> Reproduction:
    """Both as one, the findings and results on the trained model marked as such.

    It has to have both abilities; whether it keeps them apart is its own choice, so what the planted world is asked to show is
    left open here, and a note says how much of it there was.
    """
    mark = "trained model: "
    findings = tuple(replace(_open(finding), name=mark + finding.name) for finding in trained.findings)
    settings = {**planted.provenance.settings, **{mark + name: v for name, v in trained.provenance.settings.items()}}
    passes = (planted.provenance.passes or 0) + (trained.provenance.passes or 0)
    return replace(
        planted,
        findings=(*planted.findings, *findings),
        notes=(*planted.notes, *(mark + note for note in (*trained.notes, _outcome(trained.findings)))),
        provenance=replace(planted.provenance, settings=settings, passes=passes),
        results={**planted.results, **{mark + name: result for name, result in trained.results.items()}},
    )


def _able(model: Model, pairs: dict[str, AnswerPairs], seed: int) -> list[Finding]:
    """How many of the puzzles are answered right, beside how many with the answers of other puzzles."""
    findings = []
    for name in TASKS:
        task = paired_task(model, pairs[name])
        dealt = np.random.default_rng(seed).permutation(np.array(task.answers)).tolist()
        true, by_chance = (plain_values(model, task.clean, (), right(ids)) for ids in (task.answers, dealt))
        low, high = bootstrap_share(true, seed=seed)
        value, control = 100 * float(true.mean()), 100 * float(by_chance.mean())
        findings.append(Finding(ABILITIES[name], value, control, f"at least {LEARNED} (control: shuffled answers)",
                                value >= LEARNED, "percent", 100 * low, 100 * high))  # fmt: skip
    return findings


def _open(finding: Finding) -> Finding:
    """A finding on a trained model without a verdict, save on the model's abilities."""
    if finding.holds is None or finding.name in ABILITIES.values():
        return finding
    return replace(finding, bar=f"no bar: its absence is a result, too (planted world: {finding.bar})", holds=None)


def _outcome(findings: tuple[Finding, ...]) -> str:
    """How a trained model does by what the planted world is asked to show."""
    asked = [f for f in findings if f.holds is not None and f.name not in ABILITIES.values()]
    missed = [f.name for f in asked if not f.holds]
    said = f"meets {len(asked) - len(missed)} of the {len(asked)} bars of the planted world"
    return f"{said}; it misses: {', '.join(missed)}" if missed else said


def measured(
    model: Model,
    pairs: dict[str, AnswerPairs],
    *,
    planted: dict[str, list[str]] | None = None,
    quick: bool,
    seed: int,
) -> Reproduction:
    """The findings on any model and puzzles: units are chosen on half of the rows of each task, and knocked out on the others."""
    before, draws = model.forwards, 200 if quick else 1000
    tasks = {name: paired_task(model, pairs[name]) for name in TASKS}
    first, second, apart = _halves(tasks, seed)
    patches = patched_units(model, first["recall"]), patched_units(model, first["reasoning"])
    found = selective_units(model, first, patches=patches, n_permutations=draws, seed=seed)
    alike = selective_units(model, apart[0], patches=_split(patches[0], apart[1]), n_permutations=draws, seed=seed)
    contrast = task_contrast(model, first, n_permutations=draws, seed=seed)
    same = task_contrast(model, apart[0], n_permutations=draws, seed=seed)
    sets = {name: units_of(found, name) for name in TASKS}
    empty, lost = [name for name in TASKS if not sets[name]], None
    if not empty:
        lost = double_dissociation(model, second, sets, n_random=20 if quick else 100, seed=seed)
    notes = [] if lost is None else list(lost.provenance.warnings)
    notes += [f"no unit serves {name} alone (q <= 0.05), so nothing was knocked out" for name in empty]
    able = {
        name: round(100 * plain_values(model, task.clean, (), right(task.answers)).mean())
        for name, task in tasks.items()
    }
    if min(able.values()) < ABLE or abs(able["recall"] - able["reasoning"]) > OTHER:
        notes.append(
            f"the model answers {able['recall']} % of recall and {able['reasoning']} % of reasoning; an ability that it lacks has "
            "no parts to find, and the weaker of two needs more of it"
        )
    findings = [*_found(found, alike, contrast, same), *_lost(lost), *_single(found)]
    if planted is not None:
        findings.insert(1, _identified(found, planted))
    provenance = Provenance(
        "recall-vs-reasoning", sum(map(len, tasks.values())), seed, model.name, model.revision, causal="ablation",
        settings={"quick": quick, "accuracy": able, **{name: [_name(site) for site in sets[name]] for name in TASKS},
                  "shared": [_name(site) for site in units_of(found, "shared")]},
        passes=round(model.forwards - before), warnings=found.provenance.warnings,
    )  # fmt: skip
    results = {"contrast": contrast, "selective units": found, **({} if lost is None else {"dissociation": lost})}
    return Reproduction("recall-vs-reasoning", tuple(findings), provenance, 0.0, tuple(notes), results)


def _halves(tasks: Two, seed: int) -> tuple[Two, Two, tuple[Two, np.ndarray]]:
    """Rows to choose units on, rows to knock them out on, and the first half of recall dealt out at random into two tasks."""
    rng, parts = np.random.default_rng(seed), {}
    for name, task in tasks.items():
        if len(task) < FEWEST:
            raise InputError(f"{name} has {len(task)} rows, and {FEWEST} are needed; give more puzzles")
        parts[name] = [sorted(half.tolist()) for half in np.array_split(rng.permutation(len(task)), 2)]
    first, second = ({name: task.take(parts[name][i]) for name, task in tasks.items()} for i in (0, 1))
    recall = first["recall"]
    dealt = np.isin(np.arange(len(recall)), rng.permutation(len(recall))[: len(recall) // 2])
    apart = {name: recall.take(np.flatnonzero(rows).tolist()) for name, rows in (("one", dealt), ("other", ~dealt))}
    return first, second, (apart, dealt)


def _split(patches: UnitPatches, dealt: np.ndarray) -> tuple[UnitPatches, UnitPatches]:
    """The effects of rows dealt into two tasks."""
    return replace(patches, each=patches.each[dealt], passes=0.0), replace(
        patches, each=patches.each[~dealt], passes=0.0
    )


def _name(site: Site) -> str:
    """`L2.H1` or `L1.N0`."""
    return str(site).rsplit(".", 1)[0]


def _found(found: Scores, alike: Scores, contrast: Scores, same: Scores) -> list[Finding]:
    """How many units serve one task alone, how many merely differ, and how many of these serve."""
    serves, by_chance = (
        np.isin(scores["found"].values, names) for scores, names in ((found, TASKS), (alike, ("one", "other")))
    )
    differs, no_task = (scores["q"].values <= Q_MAX for scores in (contrast, same))
    both = all(units_of(found, name) for name in TASKS)
    used = float(serves[differs].mean()) if differs.any() else float("nan")
    return [
        Finding("heads and neurons that serve one task alone", float(serves.sum()), float(by_chance.sum()),
                "some for each task, and more than with recall split at random",
                bool(both and serves.sum() > by_chance.sum()), "units"),
        Finding("heads and neurons that attend or fire otherwise in the two tasks", float(differs.sum()), float(no_task.sum()),
                "no bar: to differ is not to be used (control: recall split at random)", None, "units"),
        Finding("units that differ which serve one task alone", used, float(serves.mean()),
                "no bar (control: a unit at random)", None, "share"),
    ]  # fmt: skip


def _identified(found: Scores, planted: dict[str, list[str]]) -> Finding:
    """Of the units called serving or planted, those that are both, with the right task."""
    called = {(task, _name(site)) for task in TASKS for site in units_of(found, task)}
    true = {(task, name) for task, names in planted.items() for name in names}
    right = len(called & true) / len(called | true) if called | true else 0.0
    return Finding("agreement of the units found with the planted ones", right, len(true) / (2 * found.data.sizes["unit"]),
                   "all, no decoy, and none missed (control: a unit and a task at random)", bool(true) and right == 1.0,
                   "share")  # fmt: skip


def _lost(lost: Scores | None) -> list[Finding]:
    """The two by two table of costs, and the index."""
    names = {(own, on): f"accuracy of {on} lost without the units of {own}" for own in TASKS for on in TASKS}
    if lost is None:
        nothing = [*names.values(), "index of double dissociation"]
        return [Finding(name, float("nan"), 0.0, "units serve each task alone", False, "points") for name in nothing]
    findings = []
    for (own, on), name in names.items():
        at = lost.data.sel(set=own, task=on)
        cost, control = float(at["score"]), float(at["control"])
        good = cost >= OWN if own == on else cost <= OTHER
        said = f"at least {OWN:g}" if own == on else f"at most {OTHER:g}"
        findings.append(Finding(name, cost, control, f"{said}, random units of these layers at most {RANDOM:g}",
                                good and control <= RANDOM, "points", float(at["low"]), float(at["high"])))  # fmt: skip
    of = lost.data.attrs
    chance = max(of["index_null"], of["index_random"])
    findings.append(Finding("index of double dissociation", of["index"], chance, "above 95 % of shuffled tasks and of random units",
                            of["index"] > chance, "accuracies", of["index_low"], of["index_high"]))  # fmt: skip
    return findings


def _single(found: Scores) -> list[Finding]:
    """The most that one serving neuron does, against the most that one serving head does."""
    data = found.data
    size = np.where(np.isin(data["found"].values, TASKS), np.abs(data["score"].values), 0.0)
    head, neuron = (np.where(data["kind"].values == kind, size, 0.0) for kind in ("head", "neuron"))
    if not head.any() or not neuron.any():
        return []
    best = int(neuron.argmax())
    return [Finding("difference between the tasks in what one neuron restores, at most", float(size[best]),
                    float(data["control"].values[best]), f"less than one head, {head.max():.2f} (control: shuffled tasks)",
                    bool(size[best] < head.max()), "share")]  # fmt: skip
