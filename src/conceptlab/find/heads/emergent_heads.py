"""Which heads enter a behaviour's circuit between two checkpoints, which leave it, and which were there before?

Edges are scored at every checkpoint by integrated gradients (EAP-IG); a head's part is its strongest outgoing edge, as a share of
the largest change of the metric at any checkpoint, so that a checkpoint without the behaviour has no circuit. A head is in the
circuit with a part of `least`. Emergent: in the last checkpoint's and not in the first one's, and larger there (q <= 0.05 over all
heads); recruited: so too, but the first checkpoint used it for something else (`known`); lost: the reverse; kept: in both. With
more than two checkpoints, births and deaths are counted on the way.
Source: Thinking Sparks! Emergent Attention Heads in Reasoning Models During Post Training, 2025.
Control: the same difference between the two halves of the rows of one and the same checkpoint (churn), and signs flipped over parts
of the rows for p. Departures: heads are chosen by size and not by a count of edges, which makes births out of nothing where scores
are flat. Cost: per checkpoint two forwards of the rows, and `steps` forwards and backwards.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import q_values
from conceptlab.evidence.sign_flips import sign_flip_p
from conceptlab.find.circuits.edge_attribution_ig import edge_attribution_ig
from conceptlab.measure.effects.paired_tasks import PairedTask
from conceptlab.model import Model
from conceptlab.results import Circuit, Provenance, Scores, Site
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "emergent heads between checkpoints",
    "paper": "Thinking Sparks! Emergent Attention Heads in Reasoning Models During Post Training, 2025",
    "tags": ["heads", "circuits", "training"],
    "takes": "checkpoints of one architecture, clean and corrupted texts with their answers",
    "returns": "Scores",
    "cost": "2 forwards and `steps` forwards and backwards of the rows, a checkpoint",
}
STATES = ("emergent", "recruited", "lost", "kept")
FEWEST = 2  # rows a part


def emergent_heads(  # noqa: PLR0913 - one experiment, fully stated
    models: Sequence[Model],
    tasks: PairedTask | Sequence[PairedTask],
    *,
    known: Sequence[Site] = (),
    least: float = 0.1,
    steps: int = 5,
    n_parts: int = 12,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """Compare checkpoints, the first with the last; `tasks`: one for all, or one for each; `known`: heads that the first checkpoint
    uses for other behaviours.

    Axes layer and head: `score` part in the last checkpoint less that in the first, `control` the same between halves of the rows
    within a checkpoint, `p`, `q`, `state` (one of `STATES` or ""). Axis checkpoint: `part` (with layer, head), `metric`
    and `change` (mean logit difference, and how far corruption moves it), `active`, `births`, `deaths`. Raises InputError for fewer
    than two checkpoints, checkpoints of several shapes, or too few rows; SiteError as `edge_attribution_ig`.
    """
    listed = [tasks] * len(models) if isinstance(tasks, PairedTask) else list(tasks)
    _check(models, listed, n_parts)
    before = sum(model.forwards for model in set(models))
    raw, change, metric = [], [], []
    with progress.task("checkpoints", total=len(models)) as task:
        for model, pairs in zip(models, listed, strict=True):
            found = [_parts(model, pairs.take(rows), steps, seed) for rows in _split(len(pairs), n_parts, seed)]
            raw.append(np.stack([part for part, _ in found]))
            change.append(float(np.mean([gap for _, gap in found])))
            metric.append(_mean(model, pairs))
            task.advance(1)
    whole = max(map(abs, change))
    parts = np.stack(raw) / whole if whole > 0 else np.stack(raw) * 0.0  # [checkpoint, part of the rows, layer, head]
    data = _table(parts, known, least, seed)
    data["metric"], data["change"] = ("checkpoint", np.array(metric)), ("checkpoint", np.array(change))
    settings = {
        "least": least,
        "steps": steps,
        "n_parts": n_parts,
        "known": list(map(str, known)),
        "checkpoints": [model.name for model in models],
    }
    provenance = Provenance(
        "emergent heads", len(listed[-1]), seed, models[-1].name, models[-1].revision, settings=settings,
        passes=round(sum(model.forwards for model in set(models)) - before),
    )  # fmt: skip
    return Scores(data, provenance)


def heads_in(found: Scores, state: str) -> list[Site]:
    """The heads of a state, strongest first. Raises InputError for an unknown one."""
    if state not in STATES:
        raise InputError(f"no state {state!r}; the states are {', '.join(STATES)}")
    layer, head = np.nonzero(found["state"].values == state)
    order = np.argsort(-np.abs(found["part"].values).max(0)[layer, head], kind="stable")
    return [Site("z", int(layer[i]), (int(head[i]),)) for i in order]


def _check(models: Sequence[Model], tasks: Sequence[PairedTask], n_parts: int) -> None:
    shapes = {(model.n_layers, model.n_heads, model.d_model) for model in models}
    if len(models) < 2 or len(tasks) != len(models):
        raise InputError(
            f"{len(models)} checkpoints came with {len(tasks)} tasks; give two checkpoints at least, and one task or one each"
        )
    if len(shapes) > 1:
        raise InputError(
            f"the checkpoints have several shapes (layers, heads, width): {sorted(shapes)}; heads are compared by their place, so "
            "give checkpoints of one model"
        )
    few = min(map(len, tasks))
    if n_parts < 2 or few < FEWEST * n_parts:
        raise InputError(
            f"{few} rows cannot be cut into {n_parts} parts of {FEWEST} and more; give more rows or fewer parts"
        )


def _split(n: int, n_parts: int, seed: int) -> list[list[int]]:
    order = np.random.default_rng(seed).permutation(n)
    return [sorted(part.tolist()) for part in np.array_split(order, n_parts)]


def _parts(model: Model, pairs: PairedTask, steps: int, seed: int) -> tuple[np.ndarray, float]:
    """Every head's strongest outgoing edge [layer, head], in the metric's units, and the change of the metric."""
    circuit = edge_attribution_ig(model, pairs.clean, pairs.corrupted, pairs.metric, steps=steps, n_random=2, seed=seed)
    gap = float(circuit.provenance.settings["gap"])
    return strongest_edges(circuit, (model.n_layers, model.n_heads)) * abs(gap), gap


def strongest_edges(circuit: Circuit, shape: tuple[int, int]) -> np.ndarray:
    """Size of the strongest edge that leaves each head, [layer, head]; 0 where none has a score."""
    senders, found = circuit.shape.senders, np.zeros(shape)
    mine = senders.kind[circuit.source] == "head"
    at = senders.layer[circuit.source[mine]], senders.head[circuit.source[mine]]
    np.maximum.at(found, at, np.nan_to_num(np.abs(circuit.weights[mine])))
    return found


def _mean(model: Model, pairs: PairedTask) -> float:
    logits = model.logits(pairs.clean).float().cpu().numpy()
    rows = np.arange(len(pairs))
    return float((logits[rows, list(pairs.answers)] - logits[rows, list(pairs.distractors)]).mean())


def _table(parts: np.ndarray, known: Sequence[Site], least: float, seed: int) -> xr.Dataset:
    """`parts` [checkpoint, part of the rows, layer, head]."""
    mean, moved = parts.mean(1), parts[-1] - parts[0]
    up, down = (sign_flip_p(sign * moved, seed=seed) for sign in (1, -1))
    p = np.minimum(1.0, 2 * np.minimum(up, down))
    q = q_values(p.reshape(-1)).reshape(p.shape)
    churn = np.abs(parts[:, ::2].mean(1) - parts[:, 1::2].mean(1)).max(0)
    there = mean >= least
    used = np.zeros(p.shape, dtype=bool)
    for site in known:
        used[site.layer, list(site.units)] = True
    state = np.full(p.shape, "", dtype="<U9")
    born_here = there[-1] & ~there[0] & (q <= 0.05)
    state[born_here & ~used], state[born_here & used] = "emergent", "recruited"
    state[there[0] & ~there[-1] & (q <= 0.05)] = "lost"
    state[there[0] & there[-1]] = "kept"
    born = np.concatenate([[0], (there[1:] & ~there[:-1]).sum((1, 2))])
    died = np.concatenate([[0], (there[:-1] & ~there[1:]).sum((1, 2))])
    dims = ("layer", "head")
    columns = {"score": mean[-1] - mean[0], "control": churn, "p": p, "q": q, "state": state}
    return xr.Dataset(
        {
            **{name: (dims, values) for name, values in columns.items()},
            "part": (("checkpoint", *dims), mean),
            "active": ("checkpoint", there.sum((1, 2))),
            "births": ("checkpoint", born),
            "deaths": ("checkpoint", died),
        },
        coords={"layer": np.arange(p.shape[0]), "head": np.arange(p.shape[1]), "checkpoint": np.arange(len(parts))},
    )
