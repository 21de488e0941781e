"""circuit-reuse: two tasks share components, and what one lacks is repaired at the shared ones (Merullo et al. 2024)."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from conceptlab.data.answer_pairs import read_tasks
from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.find.circuits.path_search import path_search
from conceptlab.measure.circuits.overlap import circuit_overlap
from conceptlab.measure.patching.attention_rescale import Keyed
from conceptlab.measure.patching.forced_attention import Watched, attention_to, forced_attention
from conceptlab.measure.patching.pairs import TOO_CLOSE
from conceptlab.model import Model, load_model
from conceptlab.model.answers import first_token_pairs
from conceptlab.model.edge_graph import graph_of
from conceptlab.model.metric import logit_diff
from conceptlab.recipes import Setup
from conceptlab.results import Circuit, Finding, Provenance, Reproduction, Scores, Site
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.shared_subcircuit import CIRCUITS, shared_subcircuit

RECIPE = {
    "id": "circuit-reuse",
    "claim": "The circuits of two tasks share most of their heads; where one task fails, shared heads do not attend where they do "
    "in the other, and making them attend there repairs it.",
    "number": "Jaccard of the two circuits, accuracy gained on the weaker task when silent shared heads are made to attend",
    "control": "random circuits of equal size by layer, an unrelated task, random heads made to attend, the null twin",
    "world": "three tasks in one model: two share four heads, one of them is broken, the third shares nothing",
    "model": "a causal language model that attends through transformers' interface, together with --data",
    "data": "a folder of CSV, JSONL or JSON files, one a task, by name: two to compare, then unrelated ones; columns clean, "
    "corrupted, answer, distractor and, if wanted, attend (a piece of clean that inhibition should attend to)",
    "methods": ["find/circuits/path_search", "measure/circuits/overlap", "measure/patching/forced_attention"],
}
SHARED, UNRELATED, REPAIRED, RANDOM, LESS, FOUND = 0.6, 0.2, 0.30, 0.05, 0.3, 0.9
JACCARD = "heads and MLPs in both circuits, of those in either (Jaccard)"
CONTAINED = "heads and MLPs of the weaker task's circuit that the other one has"
APART = "the same with an unrelated task (Jaccard, the largest)"
AGAIN = "the same for one task on two halves of its rows (Jaccard)"
LIFT = "accuracy gained: shared heads that fell silent made to attend"
OTHERS = "accuracy gained: other shared heads made to attend"
ALONE = "accuracy gained: heads of one circuit only made to attend"
SHIFT = "attention that shared writers of the answer turn to it then"
Found = dict[str, Circuit]


@dataclass(frozen=True, eq=False)
class Task:
    """Pairs of one task. `wrong_at`, `right_at` [row]: where the distractor (or what to look at) and the answer stand."""

    name: str
    clean: Sequence[str]
    corrupted: Sequence[str]
    answers: list[int]
    distractors: list[int]
    wrong_at: list[list[int]]
    right_at: list[list[int]]

    def select(self, rows: Sequence[int]) -> "Task":
        """Some rows."""
        names = ("clean", "corrupted", "answers", "distractors", "wrong_at", "right_at")
        return Task(self.name, *([values[row] for row in rows] for values in (getattr(self, n) for n in names)))


@dataclass(frozen=True)
class Told:
    """What is found, with notes for what could not be measured."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    def nothing(self, name: str, bar: str, why: str) -> None:
        """A number that could not be had does not hold."""
        self.findings.append(Finding(name, float("nan"), None, bar, False))
        self.notes.append(f"{name}: {why}")


def reproduce(setup: Setup) -> Reproduction:
    """Search both circuits, compare, repair the weaker task. Raises InputError for --model without --data or the reverse."""
    if (setup.model is None) != (setup.data is None):
        raise InputError("circuit-reuse takes --model and --data together: the tasks must be ones that the model knows")
    if setup.model is None or setup.data is None:
        world = shared_subcircuit(n_prompts=16 if setup.quick else 64, seed=setup.seed)
        return on_world(world, quick=setup.quick, seed=setup.seed)
    files = read_tasks(setup.data, marks="attend", most=16 if setup.quick else 48)
    tasks = [task_of(setup.model, f.name, f.clean, f.corrupted, f.answer, f.distractor, f.marked) for f in files]
    return measured(setup.model, tasks, rounds=2 if setup.quick else 4, quick=setup.quick, seed=setup.seed)


def on_world(world: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on a world of a shared subcircuit (or its null twin), and which of the planted heads are found."""
    model, tasks = _of_world(world)
    done = measured(model, tasks, quick=quick, seed=seed)
    twin_model, twins = _of_world(shared_subcircuit(n_prompts=len(tasks[0].clean), seed=seed, null=True))
    twin = _searched(twin_model, twins, None, seed, Told())
    found, beside = (_agreement(circuits) for circuits in (_circuits(done), twin))
    finding = Finding(
        "planted heads of the three circuits that are found, and no others (F1)", found, beside,
        f"at least {FOUND}, null twin below", found >= FOUND > beside,
    )  # fmt: skip
    return Reproduction(done.id, (finding, *done.findings), done.provenance, 0.0, done.notes, done.results)


def _of_world(world: PlantedWorld) -> tuple[Model, list[Task]]:
    model = load_model(world.model, tokenizer=world.tokenizer)
    prompts, answers = world.prompts, world.answers
    return model, [
        task_of(model, t, prompts[t], prompts[f"{t}_swapped"], answers[t], answers[f"{t}_swapped"]) for t in CIRCUITS
    ]


def _agreement(circuits: Found) -> float:
    """Twice the heads found and planted, of all found and all planted, over tasks."""
    both = sum(len(set(CIRCUITS[name]) & set(_heads(circuit))) for name, circuit in circuits.items())
    return 2 * both / sum(len(CIRCUITS[name]) + len(_heads(circuit)) for name, circuit in circuits.items())


def task_of(  # noqa: PLR0913 - one column each
    model: Model,
    name: str,
    clean: Sequence[str],
    corrupted: Sequence[str],
    answer: Sequence[str],
    distractor: Sequence[str],
    attend: Sequence[str] | None = None,
) -> Task:
    """Find where the words stand; `attend` None: where the distractor last stands, as one that inhibits it would attend."""
    right, wrong = first_token_pairs(model, clean, answer, distractor)
    return Task(
        name, clean, corrupted, list(right), list(wrong),
        _places(model, clean, distractor if attend is None else attend), _places(model, clean, answer),
    )  # fmt: skip


def _places(model: Model, texts: Sequence[str], words: Sequence[str]) -> list[list[int]]:
    """Tokens of the last place where each word stands in its text; empty where it does not."""
    spans = []
    for text, word in zip(texts, words, strict=True):
        at = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(word.strip())}(?!\w)", text)]
        spans.append(at[-1] if at else None)
    found = model.encode(list(texts)).positions_of([span or (0, 1) for span in spans])
    return [list(own) if span else [] for own, span in zip(found, spans, strict=True)]


def measured(model: Model, tasks: list[Task], *, rounds: int | None = None, quick: bool, seed: int) -> Reproduction:
    """The findings on any model: the first two tasks compared, further ones as unrelated."""
    before, told = model.forwards, Told()
    circuits = _searched(model, tasks, rounds, seed, told)
    accuracy = {task.name: float((_differences(model, task, task.clean) > 0).mean()) for task in tasks}
    weak, strong = sorted(tasks[:2], key=lambda task: accuracy[task.name])
    _overlaps(circuits, tasks, weak, strong, 200 if quick else 1000, seed, told)
    if not quick:
        _again(model, strong, rounds, seed, told)
    _repair(model, circuits, weak, strong, 10 if quick else 50, seed, told)
    settings = {"quick": quick, "accuracy": accuracy, "weaker": weak.name, "rounds": rounds}
    settings |= {f"heads of {name}": _heads(circuit) for name, circuit in circuits.items()}
    provenance = Provenance(
        "circuit-reuse", sum(len(task.clean) for task in tasks), seed, model.name, model.revision, settings=settings,
        passes=round(model.forwards - before), causal="patching",
    )  # fmt: skip
    results = {**{f"circuit of {name}": circuit for name, circuit in circuits.items()}, **told.results}
    return Reproduction("circuit-reuse", tuple(told.findings), provenance, 0.0, tuple(told.notes), results)


def _circuits(done: Reproduction) -> Found:
    start = "circuit of "
    return {name.removeprefix(start): c for name, c in done.results.items() if name.startswith(start)}


def _heads(circuit: Circuit) -> list[str]:
    return [str(site).removesuffix(".z") for site in circuit.heads()]


def _differences(model: Model, task: Task, texts: Sequence[str]) -> np.ndarray:
    """logit(answer) - logit(distractor) [row]."""
    logits = model.logits(list(texts)).reshape(len(texts), -1).float().cpu().numpy()
    rows = np.arange(len(texts))
    return logits[rows, task.answers] - logits[rows, task.distractors]


def _searched(model: Model, tasks: list[Task], rounds: int | None, seed: int, told: Told) -> Found:
    """A circuit for each task, empty (with a note) where clean and corrupted texts score alike."""
    shape, found = graph_of(model), {}
    most = max(4, math.ceil(0.02 * model.n_layers * model.n_heads))
    for task in tasks:
        gap = (_differences(model, task, task.clean) - _differences(model, task, task.corrupted)).mean()
        if abs(gap) < TOO_CLOSE:
            told.notes.append(
                f"{task.name}: clean and corrupted texts score the same, so there is no behaviour to explain"
            )
            nowhere = Provenance("iterative path patching", len(task.clean), seed, model.name, model.revision)
            found[task.name] = Circuit.from_edges(shape, [], nowhere)
            continue
        metric = logit_diff(task.answers, task.distractors)
        given: dict[str, Any] = {"most": most, "rounds": rounds, "seed": seed}
        found[task.name] = path_search(model, task.clean, task.corrupted, metric, **given)
        told.notes.extend(f"{task.name}: {warning}" for warning in found[task.name].provenance.warnings)
    return found


def _overlap(first: Circuit, second: Circuit, n_draws: int, seed: int) -> Scores | None:
    """None where a circuit holds no head and no MLP."""
    full = all(circuit.node_mask()[1:].any() for circuit in (first, second))
    return circuit_overlap(first, second, n_draws=n_draws, seed=seed) if full else None


def _overlaps(  # noqa: PLR0913 - what is compared, and how
    circuits: Found, tasks: list[Task], weak: Task, strong: Task, n_draws: int, seed: int, told: Told
) -> None:
    bar, apart = f"at least {SHARED}, random circuits at most {UNRELATED}", f"at most {UNRELATED}"
    found = _overlap(circuits[weak.name], circuits[strong.name], n_draws, seed)
    if found is None:
        told.nothing(JACCARD, bar, "a circuit is empty, so there is nothing to share")
        return
    told.results["overlap"] = found
    at = found.data.sel(what="nodes", statistic="jaccard")
    value, control = float(at["score"]), float(at["control"])
    holds = value >= SHARED and control <= UNRELATED and float(at["p"]) <= 0.05
    told.findings.append(Finding(JACCARD, value, control, bar, holds))
    inside = found.data.sel(what="nodes", statistic="first_in_second")
    told.findings.append(
        Finding(
            CONTAINED,
            float(inside["score"]),
            float(inside["control"]),
            "no bar: it depends on the sizes",
            None,
            "share",
        )
    )
    pairs = [(one, other.name) for one in (weak.name, strong.name) for other in tasks[2:]]
    others = {f"overlap of {a} and {b}": _overlap(circuits[a], circuits[b], n_draws, seed) for a, b in pairs}
    known = {name: scores for name, scores in others.items() if scores is not None}
    told.results.update(known)
    if known:
        rows = [s.data.sel(what="nodes", statistic="jaccard") for s in known.values()]
        most = max(rows, key=lambda row: float(row["score"]))
        value = float(most["score"])
        told.findings.append(Finding(APART, value, float(most["control"]), apart, value <= UNRELATED))
    elif pairs:
        told.nothing(APART, apart, "the unrelated tasks have no circuit")


def _again(model: Model, task: Task, rounds: int | None, seed: int, told: Told) -> None:
    """What overlap can be at most: the circuit of one task, searched twice."""
    bar = f"at least {SHARED}: an overlap of two tasks means little above it"
    halves = np.array_split(np.random.default_rng(seed).permutation(len(task.clean)), 2)
    once, twice = (_searched(model, [task.select(h.tolist())], rounds, seed, Told())[task.name] for h in halves)
    found = _overlap(once, twice, 1000, seed)
    if found is None:
        told.nothing(AGAIN, bar, "a circuit is empty")
        return
    at = found.data.sel(what="nodes", statistic="jaccard")
    told.findings.append(Finding(AGAIN, float(at["score"]), float(at["control"]), bar, bool(at["score"] >= SHARED)))


def _repair(model: Model, circuits: Found, weak: Task, strong: Task, n_random: int, seed: int, told: Told) -> None:
    """Which shared heads fell silent is decided on one half of the rows, what forcing them does is measured on the other."""
    bar = f"at least {REPAIRED}, random heads at most {RANDOM}"
    shared = [site for site in circuits[strong.name].heads() if site in circuits[weak.name].heads()]
    every = list(dict.fromkeys((*circuits[weak.name].heads(), *circuits[strong.name].heads())))
    if not shared:
        told.nothing(LIFT, bar, "the circuits share no head")
        return
    if not all((*weak.wrong_at, *strong.wrong_at)):
        told.nothing(
            LIFT,
            bar,
            "the distractor does not stand in every clean text; say in a column attend where heads should look",
        )
        return
    halves = np.array_split(np.random.default_rng(seed).permutation(len(weak.clean)), 2)
    chosen_on, rest = (weak.select(sorted(half.tolist())) for half in halves)
    attends, lacks = (
        attention_to(model, model.encode(list(t.clean)), shared, t.wrong_at).mean(0) for t in (strong, chosen_on)
    )
    silent = [head for head, less in zip(shared, attends - lacks, strict=True) if less >= LESS]
    if not silent:
        told.nothing(
            LIFT, bar, f"no shared head attends to the distractor by {LESS} less in the weaker task than in the other"
        )
        return
    kinds = {LIFT: silent, OTHERS: [h for h in shared if h not in silent], ALONE: [h for h in every if h not in shared]}
    room = model.n_layers * model.n_heads - len(every)
    sets = {name: heads for name, heads in kinds.items() if 0 < len(heads) <= room}
    writers = _writers(circuits[strong.name], shared) if all(rest.right_at) else []
    found = forced_attention(
        model, Keyed(rest.clean, rest.wrong_at), rest.answers, rest.distractors, sets, avoid=every,
        watched=Watched(writers, rest.right_at) if writers else None, n_random=n_random, seed=seed,
    )  # fmt: skip
    told.results["forced"] = found
    told.findings.extend(_lifts(found, bar, seed))


def _writers(circuit: Circuit, shared: list[Site]) -> list[Site]:
    """Shared heads that raise the answer directly."""
    names = {a for (a, b), w in zip(circuit.edge_names(), circuit.weights, strict=True) if b == "logits" and w > 0}
    return [site for site in shared if str(site).removesuffix(".z") in names]


def _lifts(found: Scores, bar: str, seed: int) -> list[Finding]:
    data, findings = found.data, []
    for name in data["set"].values.tolist():
        at = data.sel(set=name)
        gained = at["each"].values.astype(float) - data["unforced_each"].values
        value, control = float(gained.mean()), float(at["control"] - data.attrs["unforced"])
        low, high = (bootstrap_share if gained.min() >= 0 else bootstrap_mean)(gained, seed=seed)
        holds = value >= REPAIRED and control <= RANDOM if name == LIFT else None
        asked = bar if name == LIFT else "no bar: shown beside the heads that fell silent"
        findings.append(Finding(name, value, control, asked, holds, "share", float(low), float(high)))
    if "watched" in data:
        at, before = data.sel(set=LIFT), data.attrs["watched_unforced"]
        value, control = float(at["watched"]) - before, float(at["watched_control"]) - before
        held = f"at least {LESS}, random heads at most {RANDOM}"
        findings.append(Finding(SHIFT, value, control, held, value >= LESS and abs(control) <= RANDOM, "share"))
    return findings
