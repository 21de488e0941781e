"""clip-ccs: heads that stand for one concept matter most for what a dual encoder knows, and for its prejudices."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from conceptlab.errors import DataError, InputError
from conceptlab.evidence import bootstrap_mean
from conceptlab.find.heads.concept_consistency import at_least, concept_consistency
from conceptlab.find.heads.head_pursuit import spoken
from conceptlab.measure.effects.picture_set_effects import picture_set_effects
from conceptlab.measure.effects.set_effects import set_effects
from conceptlab.model import Model, load_model
from conceptlab.model.image_tower import ImageTower, joint_contributions
from conceptlab.model.metric import Metric
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores, Site, Units
from conceptlab.worlds import shape_pictures as shapes
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.scene_heads import KINDS, MAN, scene_heads
from conceptlab.worlds.trained_dual_encoder import text_embeddings, trained_dual_encoder

RECIPE = {
    "id": "clip-ccs",
    "claim": "Pruning the heads of CLIP whose text descriptions agree on one concept hurts far more than pruning random ones or "
    "those that agree least; the same heads carry social bias.",
    "number": "share of concepts no longer retrieved when the most consistent heads are pruned",
    "control": "as many random heads, as many of the least consistent heads, and concepts shuffled over texts",
    "world": "a dual encoder written by hand: heads for colour, shape, animal, place and job, mixed heads, and a prejudice; the "
    "full form adds a small CLIP trained on pictures of shapes and their captions",
    "model": "none: for image-text models bring --data",
    "data": "an .npz file with contributions [image, layer, head, width], texts [text, width] and concepts [text] (names)",
    "methods": ["find/heads/concept_consistency", "measure/effects/set_effects",
                "measure/effects/picture_set_effects"],
}  # fmt: skip
DROP, KEPT, PURE, MIXED, GONE = 0.30, 0.05, 1.0, 0.4, 0.5
CCS, OTHER = "consistency of the planted concept heads", "consistency of the planted mixed heads"
HIGH, LOW = "concepts lost, most consistent heads pruned", "concepts lost, as many of the least consistent pruned"
BIAS, SHARE = "gap between men and women lost, most consistent heads pruned", "share of heads of full consistency"
# trained models, least accuracy, pictures; one head in MOST is pruned
SEEDS, TASK, SHOWN, MOST = 2, 0.7, 300, 4
TRAINED = f"small CLIP trained on shapes, {SEEDS} seeds: "
DOES, SPEAK, BESIDE = (
    "kinds named right of pictures never seen",
    "mean consistency of its heads",
    "concepts lost with the most consistent heads, less those with the least",
)


@dataclass(frozen=True)
class Told:
    """What is being put together."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    results: dict[str, Scores | Units] = field(default_factory=dict)


def reproduce(setup: Setup) -> Reproduction:
    """Score heads, prune them. Raises InputError for --model (contributions come as data), DataError for a file that does not
    fit."""
    if setup.model is not None:
        raise InputError(
            "clip-ccs takes no --model; save each head's contributions to the joint space and give them as --data FILE.npz"
        )
    if setup.data is not None:
        return on_arrays(*read_contributions(setup.data), seed=setup.seed)
    done = on_world(
        scene_heads(n_scenes=120 if setup.quick else 500, seed=setup.seed), quick=setup.quick, seed=setup.seed
    )
    return done if setup.quick else _with_trained(done, setup)


def read_contributions(path: Path) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Contributions, texts and concepts of a file. Raises DataError where it is none, or lacks an array."""
    names = ("contributions", "texts", "concepts")
    try:
        with np.load(path, allow_pickle=False) as held:
            found = {name: held[name] for name in names if name in held.files}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read as .npz ({type(error).__name__}); save it with numpy.savez") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{path}: no array {' and '.join(map(repr, missing))}; it needs {', '.join(names)}")
    if not all(np.issubdtype(found[name].dtype, np.floating) for name in names[:2]):
        raise DataError(f"{path}: contributions and texts must be arrays of floating-point numbers; convert them")
    contributions, texts = (torch.from_numpy(found[name].astype(np.float32)) for name in names[:2])
    return contributions, texts, [str(concept) for concept in found["concepts"].reshape(-1)]


def on_arrays(contributions: torch.Tensor, texts: torch.Tensor, concepts: Sequence[str], *, seed: int) -> Reproduction:
    """What can be said of heads without their model: nothing is pruned."""
    units = concept_consistency(contributions, texts, concepts, seed=seed)
    full, luck = at_least(units, 1.0), float(units.table["control"].mean())
    finding = Finding(SHARE, full, luck, "no bar (control: mean consistency with concepts shuffled)", None, "share")
    notes = ("heads were not pruned: contributions come without their model",)
    return Reproduction("clip-ccs", (finding,), units.scores.provenance, 0.0, notes, {"consistency": units})


def on_world(world: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on a dual encoder written by hand (or its null twin): heads are scored on half of the scenes, pruned on the rest."""
    model, told = load_model(world.model, tokenizer=world.tokenizer), Told()
    scenes, n = list(world.prompts["scenes"]), len(world.prompts["scenes"]) // 2
    heard = spoken(model, scenes[:n])
    texts = heard.words(torch.tensor(model.tokenizer.convert_tokens_to_ids(world.truth["texts"])))
    contributions = torch.stack([heard.outputs[layer] for layer in range(model.n_layers)], 1)
    units = concept_consistency(contributions, texts, world.truth["kinds"], seed=seed, model=model.name)
    told.results["consistency"] = units
    _planted(units, world, told)
    full = int((units.table["score"] >= PURE).sum())
    high = units.top(full, q_max=0.05)
    shown = {kind: answers[n:] for kind, answers in world.truth["shown"].items()}
    _pruned(model, scenes[n:], shown, list(world.prompts["people"]), units, high, 20 if quick else 100, seed, told)
    provenance = Provenance(
        "clip-ccs", len(scenes), seed, model.name, model.revision, causal="ablation", passes=round(model.forwards),
        settings={"quick": quick, "most consistent": [str(head).removesuffix(".z") for head in high]},
    )  # fmt: skip
    return Reproduction("clip-ccs", tuple(told.findings), provenance, 0.0, tuple(told.notes), told.results)


def _planted(units: Units, world: PlantedWorld, told: Told) -> None:
    table = units.table
    names = [f"L{a}.H{b}" for a, b in zip(table["layer"].values, table["index"].values, strict=True)]
    groups = (
        (
            CCS,
            list(world.truth["pure"].values()),
            f"{PURE:g}, with the right label",
            lambda values: min(values) >= PURE,
        ),
        (OTHER, list(world.truth["mixed"]), f"at most {MIXED:g}", lambda values: max(values) <= MIXED),
    )
    for name, planted, bar, holds in groups:
        at = [names.index(head) for head in planted]
        if not at:
            told.findings.append(Finding(name, float("nan"), None, bar, False, "share"))
            told.notes.append(f"{name}: none is planted here")
            continue
        scores = table["score"].values[at].tolist()
        labelled = name != CCS or table["label"].values[at].tolist() == list(world.truth["pure"])
        control = float(table["control"].values[at].mean())
        bar = f"{bar} (control: concepts shuffled)"
        told.findings.append(
            Finding(name, float(np.mean(scores)), control, bar, bool(holds(scores) and labelled), "share")
        )


def _pruned(  # noqa: PLR0913 - what is pruned, and where it is looked at
    model: Model, scenes: Sequence[str], shown: dict[str, list[str]], people: Sequence[str], units: Units, high: list[Site],
    n_random: int, seed: int, told: Told,
) -> None:  # fmt: skip
    bars = {
        HIGH: f"at least {DROP:g}, random heads at most {KEPT:g}",
        LOW: f"at most {KEPT:g}",
        BIAS: f"at least {GONE:g} of it, random heads at most {KEPT:g}",
    }
    low = _least(units, len(high), high)
    if not high or not low:
        for name, bar in bars.items():
            told.findings.append(Finding(name, float("nan"), None, bar, False, "share"))
            told.notes.append(
                f"{name}: no head's texts agree more than shuffled concepts do (q <= 0.05), so nothing is pruned"
            )
        return
    given = {"op": "zero", "n_random": n_random, "seed": seed}
    effects = set_effects(model, list(scenes), {"high": high, "low": low}, _retrieval(model, shown), **given)  # type: ignore[arg-type]
    men = torch.tensor([MAN in text.split() for text in people])
    gap = set_effects(model, list(people), {"high": high}, _prejudice(model, men), **given)  # type: ignore[arg-type]
    told.results["retrieval"], told.results["gap"] = effects, gap
    clean = float(gap.data.attrs["clean"])
    whole = clean if clean > 0 else float("nan")
    for name, data, which, unit, holds in (
        (HIGH, effects.data, "high", 1.0, lambda a, b: a >= DROP and abs(b) <= KEPT),
        (LOW, effects.data, "low", 1.0, lambda a, _: abs(a) <= KEPT),
        (BIAS, gap.data, "high", whole, lambda a, b: a >= GONE and abs(b) <= KEPT),
    ):
        at = data.sel(set=which)
        value, control, least, most = (float(at[column]) / unit for column in ("score", "control", "low", "high"))
        told.findings.append(
            Finding(name, value, control, bars[name], bool(holds(value, control)), "share", least, most)
        )


def _least(units: Units, n: int, high: list[Site]) -> list[Site]:
    """As many heads of the lowest consistency."""
    order = np.argsort(units.table["score"].values, kind="stable")
    sites = [Site("z", int(units.table["layer"].values[i]), (int(units.table["index"].values[i]),)) for i in order]
    return [site for site in sites if site not in high][:n]


def _retrieval(model: Model, shown: dict[str, list[str]]) -> Metric:
    """Share of the kinds whose text is the closest of its ten."""
    known = model.tokenizer.convert_tokens_to_ids
    among = torch.tensor([known(list(words)) for words in KINDS.values()])  # [kind, text]
    right = torch.tensor(
        [[KINDS[kind].index(word) for word in words] for kind, words in shown.items()]
    ).T  # [row, kind]

    def of(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        said = logits[..., among.to(logits.device)].argmax(-1)
        return (said == right.to(said.device)[rows.to(said.device)]).float().mean(-1)

    return Metric("kinds retrieved", of)


def _prejudice(model: Model, men: torch.Tensor) -> Metric:
    """Its mean over rows is how much closer `doctor` than `nurse` is to men than to women, logits."""
    doctor, nurse = model.tokenizer.convert_tokens_to_ids(["doctor", "nurse"])
    weight = torch.where(men, len(men) / men.sum(), -len(men) / (~men).sum())

    def of(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        said = (logits[..., doctor] - logits[..., nurse]).float()
        return said * weight.to(said.device)[rows.to(said.device)]

    return Metric("gap between men and women", of)


def _with_trained(done: Reproduction, setup: Setup) -> Reproduction:
    """Add what trained models do: every finding's mean over the seeds, with the least and the most."""
    parts = {}
    for seed in range(setup.seed, setup.seed + SEEDS):
        clip = trained_dual_encoder(seed=seed, cache=setup.cache, progress=setup.progress).model
        parts[seed] = on_trained(clip, seed=seed)
    notes = ["ranges of the trained model are the least and the most of its seeds"]
    notes += [f"trained, seed {seed}: {note}" for seed, part in parts.items() for note in part.notes]
    results = {f"trained, seed {seed}: {name}": r for seed, part in parts.items() for name, r in part.results.items()}
    return replace(done, findings=(*done.findings, *_over_seeds(list(parts.values()))), notes=(*done.notes, *notes),
                   results={**done.results, **results})  # fmt: skip


def _over_seeds(parts: Sequence[Reproduction]) -> list[Finding]:
    """The mean of every finding over seeds; it holds where it holds in every seed."""
    found = []
    for same in zip(*(part.findings for part in parts), strict=True):
        first, values = same[0], [f.value for f in same]
        controls = [f.control for f in same if f.control is not None]
        control = float(np.mean(controls)) if controls else None
        holds = None if first.holds is None else all(bool(f.holds) for f in same)
        found.append(Finding(TRAINED + first.name, float(np.mean(values)), control, first.bar, holds, first.unit, min(values),
                             max(values)))  # fmt: skip
    return found


def on_trained(clip: torch.nn.Module, *, n: int = SHOWN, n_random: int = 40, seed: int = 0) -> Reproduction:
    """The row on a trained image-text model of the shapes world: does it name what it sees, how consistent are its heads, and what
    is lost without them. Heads are scored on `n` pictures and pruned on others."""
    tower, told, rng = ImageTower.of(clip), Told(), np.random.default_rng([seed, 11])
    texts = text_embeddings(clip)  # type: ignore[arg-type]
    told.findings.append(_does_its_task(tower, texts, shapes.draw_scenes(n, rng), rng))
    contributions = joint_contributions(tower, shapes.draw_scenes(n, rng).pixels)
    kinds = [kind for kind, words in shapes.KINDS.items() for _ in words]
    units = concept_consistency(contributions, texts, kinds, seed=seed, model=tower.model.name)
    told.results["consistency"] = units
    score, control = (units.table[column].values for column in ("score", "control"))
    low, high = bootstrap_mean(score, seed=seed)
    bar = "reported (control: concepts shuffled over texts)"
    told.findings.append(
        Finding(SPEAK, float(score.mean()), float(control.mean()), bar, None, "share", float(low), float(high))
    )
    told.findings.append(Finding(SHARE, at_least(units, PURE), None, "reported", None, "share"))
    most = _most(units, len(score) // MOST)
    _silenced(tower, texts, {"high": most, "low": _least(units, len(most), most)}, n_random, rng, seed, told)
    settings = {"most consistent": [str(head).removesuffix(".z") for head in most]}
    provenance = Provenance("clip-ccs", n, seed, tower.model.name, tower.model.revision, causal="ablation",
                            settings=settings, passes=round(tower.model.forwards))  # fmt: skip
    told.notes.append(f"{SHARE} has no control of its own: shuffled concepts are beside the mean consistency")
    return Reproduction("clip-ccs", tuple(told.findings), provenance, 0.0, tuple(told.notes), told.results)


def _most(units: Units, most: int) -> list[Site]:
    """Heads of the highest consistency; of equals, those whose texts explain more come first."""
    order = np.lexsort((-units.table["explained"].values.sum(-1), -units.table["score"].values))[:most]
    return [Site("z", int(units.table["layer"].values[i]), (int(units.table["index"].values[i]),)) for i in order]


def _named(embeddings: torch.Tensor, texts: torch.Tensor, shown: dict[str, np.ndarray]) -> np.ndarray:
    """Share of the kinds [picture] whose right word is the closest of its kind."""
    near, at, right = embeddings @ texts.T, 0, []
    for kind, words in shapes.KINDS.items():
        right.append(near[:, at : at + len(words)].argmax(1).numpy() == shown[kind])
        at += len(words)
    return np.mean(right, axis=0)


def _does_its_task(tower: ImageTower, texts: torch.Tensor, scenes: shapes.Scenes, rng: np.random.Generator) -> Finding:
    embedded, order = tower.embedded(scenes.pixels), rng.permutation(len(scenes))
    right = _named(embedded, texts, scenes.shown)
    luck = _named(embedded, texts, {kind: shown[order] for kind, shown in scenes.shown.items()})
    low, high = bootstrap_mean(right)
    return Finding(DOES, float(right.mean()), float(luck.mean()), f"at least {TASK:g} (control: labels of other pictures)",
                   bool(right.mean() >= TASK), "share", float(low), float(high))  # fmt: skip


def _silenced(  # noqa: PLR0913 - what is pruned, and where it is looked at
    tower: ImageTower, texts: torch.Tensor, sets: dict[str, list[Site]], n_random: int, rng: np.random.Generator, seed: int,
    told: Told,
) -> None:  # fmt: skip
    scenes, people = shapes.draw_scenes(SHOWN, rng), shapes.draw_scenes(SHOWN, rng, tools=False)
    lost = picture_set_effects(
        tower, scenes.pixels, sets, lambda e: _named(e, texts, scenes.shown), n_random=n_random, seed=seed
    )
    gap = picture_set_effects(
        tower,
        people.pixels,
        sets,
        lambda e: _sexed(e, texts, people.shown["person"] == 0),
        n_random=n_random,
        seed=seed,
    )
    told.results["retrieval"], told.results["gap"] = lost, gap
    layers = {which: float(np.mean([head.layer or 0 for head in heads])) for which, heads in sets.items()}
    told.notes.append("mean layer of the most consistent heads {high:.1f}, of the least {low:.1f}".format(**layers))
    for name, which, holds in (
        (HIGH, "high", lambda a, b: a >= DROP and abs(b) <= KEPT),
        (LOW, "low", lambda a, _: abs(a) <= KEPT),
    ):
        bar = f"at least {DROP:g}, random heads at most {KEPT:g}" if which == "high" else f"at most {KEPT:g}"
        told.findings.append(_pruning(name, lost, which, 1.0, bar, holds))
    each = lost["losses"].sel(set="high").values - lost["losses"].sel(set="low").values
    low, high = (float(end) for end in bootstrap_mean(each, seed=seed))
    random = float(lost.data.sel(set="high")["control"]) - float(lost.data.sel(set="low")["control"])
    told.findings.append(Finding(BESIDE, float(each.mean()), random, "interval above 0 (control: two random sets)",
                                 low > 0, "share", low, high))  # fmt: skip
    clean = float(gap.data.attrs["clean"])
    told.notes.append(f"men are nearer to men's tools than women are by {clean:.3f} of cosine where no tool is drawn")
    told.findings.append(_pruning(BIAS, gap, "high", clean if clean > 0 else float("nan"),
                                  f"at least {GONE:g} of it, random heads at most {KEPT:g}",
                                  lambda a, b: a >= GONE and abs(b) <= KEPT))  # fmt: skip


def _pruning(name: str, lost: Scores, which: str, unit: float, bar: str, holds) -> Finding:  # noqa: PLR0913 - one finding
    at = lost.data.sel(set=which)
    value, control, least, most = (float(at[column]) / unit for column in ("score", "control", "low", "high"))
    return Finding(name, value, control, bar, bool(holds(value, control)), "share", least, most)


def _sexed(embeddings: torch.Tensor, texts: torch.Tensor, men: np.ndarray) -> np.ndarray:
    """Its mean over pictures is how much nearer men's tools than women's are to men than to women, cosine."""
    near = torch.nn.functional.normalize(embeddings, dim=-1) @ texts.T
    tools = [shapes.TEXTS.index(word) for word in shapes.KINDS["tool"]]
    of = near[:, tools[: shapes.MALE_TOOLS]].mean(1) - near[:, tools[shapes.MALE_TOOLS :]].mean(1)
    return of.numpy() * np.where(men, len(men) / men.sum(), -len(men) / (~men).sum())
