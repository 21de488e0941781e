"""attention-heads-survey: the head atlas, every detector over one model, with stages and ablation (Zheng et al. 2024)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from conceptlab.data.indirect_objects import IndirectObjects
from conceptlab.data.records import read_records, texts_of
from conceptlab.errors import InputError
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.find.heads.head_atlas import CANDIDATE, CONFIRMED, head_atlas, roles_of
from conceptlab.find.heads.survey import HeadSurvey
from conceptlab.measure.effects.detector_agreement import detector_agreement
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores
from conceptlab.worlds.head_roles import head_roles, names_of
from conceptlab.worlds.planted import PlantedWorld

RECIPE = {
    "id": "attention-heads-survey",
    "claim": "What the literature says attention heads do falls into four stages, and is found by scores or by taking heads away; "
    "as software, one atlas that asks every role of every head of any model.",
    "number": "macro-F1 of the roles listed, and of those that ablation confirms; heads whose absence costs their own task most",
    "control": "the same with roles dealt out to other heads; and a twin model whose heads are all random",
    "world": "one model with heads for eight roles, three decoys that only look like them, and eight random heads",
    "model": "a causal language model; roles that its tokenizer does not allow to ask are named",
    "data": "CSV, JSONL or a JSON list with the columns text, answer, repeated: prompts with names for the indirect-object roles",
    "methods": ["find/heads/head_atlas", "measure/effects/detector_agreement", "measure/effects/head_losses"],
}
F1, OWN, LISTED, SHUFFLES = 0.95, 0.90, 0.05, 200
WORLDS, ROWS, TIE = 5, 12, 0.01  # of the full form; rows of the quick form and of tasks
OWN_MOST = "heads whose absence costs their own task most"


@dataclass(frozen=True, eq=False)
class Drawn:
    """An atlas and what is true of its heads: `roles` of each by its weights, and those that the model `used`."""

    atlas: Scores
    roles: Mapping[str, list[str]]
    used: Mapping[str, list[str]]

    @property
    def heads(self) -> list[str]:
        """Every head of the model."""
        return [f"L{layer}.H{head}" for layer, head in np.ndindex(self.atlas["label"].shape[1:])]

    def truth(self, which: str) -> np.ndarray:
        """Which roles [role, head] are true of the heads, by "roles" or "used"; a role that was not asked is no axis here."""
        said: Mapping[str, list[str]] = getattr(self, which)
        return np.array([[role in said.get(head, ()) for head in self.heads] for role in self.atlas["role"].values])

    def labels(self) -> np.ndarray:
        """Labels [role, head]."""
        return self.atlas["label"].values.reshape(self.atlas.data.sizes["role"], -1)


def reproduce(setup: Setup) -> Reproduction:
    """Draw up the atlas. Raises InputError for --data without --model."""
    if setup.model is not None:
        names = None if setup.data is None else _read(setup.data)
        return on_model(HeadSurvey(setup.model, seed=setup.seed, names=names), setup)
    if setup.data is not None:
        raise InputError("attention-heads-survey --data needs --model: the planted world has prompts of its own")
    seeds = range(setup.seed, setup.seed + (1 if setup.quick else WORLDS))
    return on_worlds(
        [head_roles(seed=seed) for seed in seeds], [head_roles(seed=seed, null=True) for seed in seeds], setup
    )


def on_worlds(worlds: Sequence[PlantedWorld], twins: Sequence[PlantedWorld], setup: Setup) -> Reproduction:
    """The row on worlds of many heads, together, and on `twins` whose heads are all random (not ablated)."""
    drawn = [_drawn(world, setup, seed=setup.seed + i) for i, world in enumerate(worlds)]
    random = [_drawn(twin, setup, seed=setup.seed + i, ablate=False) for i, twin in enumerate(twins)]
    rng = np.random.default_rng(setup.seed)
    findings = (
        _macro_f1(drawn, "roles", CANDIDATE, "roles listed, macro-F1", rng),
        _macro_f1(drawn, "used", CONFIRMED, "roles confirmed by ablation, macro-F1", rng),
        _random_heads(drawn, random),
        _own_most(drawn, [d.used for d in drawn], rng, asked=True),
    )
    return _done(findings, [d.atlas for d in drawn], setup, len(worlds))


def on_model(survey: HeadSurvey, setup: Setup) -> Reproduction:
    """The row on any model, whose truth nobody knows: how far ablation agrees with what was listed is told, not asked."""
    atlas = head_atlas(survey.model, survey=survey, progress=setup.progress)
    confirmed: dict[str, list[str]] = {}
    for role, heads in roles_of(atlas, least=CONFIRMED).items():
        for head in heads:
            confirmed.setdefault(head, []).append(role)
    findings = [_own_most([Drawn(atlas, {}, {})], [confirmed], np.random.default_rng(setup.seed), asked=False)]
    done = _done(tuple(findings), [atlas], setup, 1)
    if not atlas.data.sizes.get("task"):
        return done
    agreed = detector_agreement(atlas, seed=setup.seed)
    areas = tuple(
        _area(agreed, role) for role in agreed["role"].values.tolist() if np.isfinite(agreed["score"].sel(role=role))
    )
    return replace(done, findings=(*done.findings, *areas), results={**done.results, "agreement": agreed})


def _area(agreed: Scores, role: str) -> Finding:
    at = agreed.data.sel(role=role)
    name = f"{role}: its score of heads that ablation finds, above others"
    return Finding(
        name, float(at["score"]), float(at["control"]), "told, not asked (area under the curve)", None, "area"
    )


def _read(path: Path) -> IndirectObjects:
    table = read_records(path, ("text", "answer", "repeated"))
    return IndirectObjects(*(texts_of(table, name) for name in ("text", "answer", "repeated")))


def _drawn(world: PlantedWorld, setup: Setup, *, seed: int, ablate: bool = True) -> Drawn:
    model = load_model(world.model, tokenizer=world.tokenizer)
    survey = HeadSurvey(model, seed=seed, n_rows=ROWS if setup.quick else 32, task_rows=ROWS, names=names_of(world))
    atlas = head_atlas(model, survey=survey, ablate=ablate, progress=setup.progress)
    return Drawn(atlas, world.truth["roles"], world.truth["used"])


def _macro_f1(drawn: Sequence[Drawn], which: str, least: int, name: str, rng: np.random.Generator) -> Finding:
    """F1 of each role over the heads of all worlds, mean over roles that any head has; a role that was not asked has 0."""
    roles = sorted({role for d in drawn for said in getattr(d, which).values() for role in said})
    if which == "used":  # a role without a task cannot be confirmed
        without = {
            str(r)
            for d in drawn
            for r, t in zip(d.atlas["role"].values, d.atlas["task_of"].values, strict=True)
            if not t
        }
        roles = [role for role in roles if role not in without]

    def score(orders: Sequence[np.ndarray]) -> float:
        return float(np.mean([_f1(drawn, which, least, role, orders) for role in roles])) if roles else 0.0

    value = score([np.arange(len(d.heads)) for d in drawn])
    control = np.mean([score([rng.permutation(len(d.heads)) for d in drawn]) for _ in range(SHUFFLES)])
    return Finding(
        name, value, float(control), f"at least {F1:g} (control: roles dealt out to other heads)", value >= F1, "F1"
    )


def _f1(drawn: Sequence[Drawn], which: str, least: int, role: str, orders: Sequence[np.ndarray]) -> float:
    right = said = true = 0
    for d, order in zip(drawn, orders, strict=True):
        truth = np.array([role in getattr(d, which).get(head, ()) for head in d.heads])[order]
        at = d.atlas["role"].values.tolist()
        listed = d.labels()[at.index(role)] >= least if role in at else np.zeros(len(truth), dtype=bool)
        right, said, true = right + int((truth & listed).sum()), said + int(listed.sum()), true + int(truth.sum())
    return 2 * right / max(1, said + true)


def _random_heads(drawn: Sequence[Drawn], random: Sequence[Drawn]) -> Finding:
    """Share of (random head, role) that is listed, beside that of the roles that planted heads have."""
    nothing, planted = [], []
    for d in (*drawn, *random):
        written = np.array([head in d.roles for head in d.heads])
        listed = d.labels() >= CANDIDATE
        nothing.append(listed[:, ~written].reshape(-1))
        planted.append(listed[d.truth("roles")])
    value, shown = float(np.concatenate(nothing).mean()), np.concatenate(planted)
    beside = float(shown.mean()) if len(shown) else 0.0
    return Finding("roles listed for random heads, also of models that have no others", value, beside,
                   f"at most {LISTED:g} of all asked (control: roles of planted heads)", value <= LISTED, "share")  # fmt: skip


def _own_most(
    drawn: Sequence[Drawn], roles: Sequence[Mapping[str, list[str]]], rng: np.random.Generator, *, asked: bool
) -> Finding:
    """Of the heads with roles, the share without which no task loses more of its whole than the task of one of these roles.

    A task is lost at most wholly: an induction head is needed for two, and both are gone without it.
    """
    most: list[set[str]] = []
    own: list[set[str]] = []
    for d, said in zip(drawn, roles, strict=True):
        tasks, whole = d.atlas["task"].values, np.abs(d.atlas["whole"].values)
        task_of = dict(zip(d.atlas["role"].values.tolist(), d.atlas["task_of"].values.tolist(), strict=True))
        share = (d.atlas["loss"].values / np.maximum(whole, 1e-12)[:, None, None]).clip(max=1.0)
        for head in [head for head in said if any(task_of.get(role) for role in said[head])]:
            lost = share.reshape(len(tasks), len(d.heads))[:, d.heads.index(head)]
            most.append(set(tasks[lost >= lost.max() - TIE].tolist()))
            own.append({task_of[role] for role in said[head] if task_of.get(role)})
    right = [bool(a & b) for a, b in zip(most, own, strict=True)]
    dealt = [
        np.mean([bool(most[i] & own[j]) for i, j in enumerate(rng.permutation(len(own)))])
        for _ in range(SHUFFLES)
        if own
    ]
    value, control = (float(np.mean(x)) if x else float("nan") for x in (right, dealt))
    low, high = bootstrap_share(np.array(right, dtype=float)) if right else (None, None)
    bar = f"at least {OWN:g} (control: roles dealt out among these heads)"
    return Finding(OWN_MOST, value, control, bar, bool(value >= OWN) if asked else None, "share", low, high)


def _done(findings: tuple[Finding, ...], atlases: Sequence[Scores], setup: Setup, n_worlds: int) -> Reproduction:
    first = atlases[0]
    made = first.provenance
    notes = [f"not asked: {why}" for why in first.data.attrs["skipped"]]
    notes += [f"{f.name}: no head is confirmed, so there is nothing to compare" for f in findings if np.isnan(f.value)]
    provenance = Provenance(
        "attention-heads-survey", made.n, setup.seed, made.model, made.revision, causal="ablation",
        settings={"quick": setup.quick, "worlds": n_worlds, "roles": roles_of(first), 
                  "confirmed": roles_of(first, least=CONFIRMED)},
        passes=sum(a.provenance.passes for a in atlases), warnings=made.warnings,
    )  # fmt: skip
    return Reproduction("attention-heads-survey", findings, provenance, 0.0, tuple(notes), {"atlas": first})
