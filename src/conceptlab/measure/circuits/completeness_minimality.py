"""Completeness and minimality of a circuit (Wang et al. 2023): does it break as the model breaks, and does it need all its edges?

Completeness: taking a set K of edges out of circuit C and out of the whole graph G should do the same; the gap is |f(C without
K) - f(G without K)|, f as in `faithfulness.py`. K is each given class (default: the edges of each head or MLP of the circuit),
random subsets of the circuit, and the worst set that a greedy search finds. A circuit that keeps one of two interchangeable
branches is faithful and not complete. Beside each gap stands that of random circuits of equal size for the same K.

Minimality: an edge v is needed if for some K it makes a difference, |f(C without K and v) - f(C without K)|. K is nothing, each
other edge (or random subsets, where edges are many). Beside it stands the same for random edges from outside, added to the
circuit: what an edge that is not needed shows. Edges below `least` are violators.

Departure: edges where the paper has heads, and shares of the behaviour where it has logits. Cost: completeness 2 + n_random circuit
runs a set and 2 x candidates a greedy step; minimality about |C| squared runs, or |C| x n_subsets.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import permutation_p, q_values
from conceptlab.evidence.random_circuits import random_circuits
from conceptlab.measure.circuits.ends import Ends, ends_of
from conceptlab.model.edge_run import EdgeRun
from conceptlab.model.metric import Metric
from conceptlab.results import Circuit, Provenance, Scores

CARD = {
    "name": "completeness and minimality",
    "paper": "Wang et al. 2023, Interpretability in the Wild",
    "tags": ["circuits", "evaluation"],
    "takes": "a prepared EdgeRun, a metric, a circuit",
    "returns": "Scores",
    "cost": "some hundred circuit runs",
}

Edges = Iterable[tuple[str, str]]
_AT_ONCE = 32  # edges whose circuits are held together


def completeness(  # noqa: PLR0913 - one experiment, fully stated
    run: EdgeRun,
    metric: Metric,
    circuit: Circuit,
    classes: Mapping[str, Edges] | None = None,
    *,
    n_sets: int = 10,
    n_greedy: int = 3,
    n_steps: int = 8,
    n_candidates: int = 10,
    n_random: int = 10,
    seed: int = 0,
) -> Scores:
    """`score` [set] is the gap of each set K with its 95 % interval, `control` the mean gap of random circuits, `control_low` and
    `control_high` their 2.5 and 97.5 % points.

    Columns `kind` (nothing, class, random or greedy), `n_removed`, `circuit_share`, `whole_share`. Attributes `worst_class`,
    `worst_random`, `worst_greedy`: the largest gap of each kind. `classes` are named lists of edges; edges outside the circuit
    are left out of K. Raises InputError for an empty circuit.
    """
    mask = _mask_of(run, circuit)
    rng, ends = np.random.default_rng(seed), ends_of(run, metric)
    sets = {("nothing", "nothing"): np.zeros_like(mask)}
    sets |= {("class", name): k for name, k in _classes(run, circuit, classes).items()}
    sets |= {("random", f"random {i}"): k for i, k in enumerate(_subsets(mask, n_sets, rng))}
    for i in range(n_greedy):
        sets["greedy", f"greedy {i}"] = _greedy(run, metric, ends, mask, n_steps, n_candidates, rng)
    removed = np.stack(list(sets.values()))
    ours, whole = (run.evaluate(base & ~removed, metric) for base in (mask[None], np.ones_like(mask)[None]))
    difference = ends.empty + ours - whole
    low, high = ends.interval(difference, seed=seed)
    drawn = np.zeros((0, len(mask)), dtype=bool)
    if n_random:
        drawn = run.mask(*random_circuits(circuit, n_random, seed=seed))
    beside = ends.share(run.evaluate((drawn[:, None] & ~removed).reshape(-1, len(mask)), metric)) if n_random else None
    gaps = None if beside is None else np.abs(beside.reshape(n_random, -1) - ends.share(whole))
    columns = _gap_columns(ends.share(ours), ends.share(whole), (low, high), gaps)
    columns |= {"kind": np.array([kind for kind, _ in sets]), "n_removed": removed.sum(1)}
    data = xr.Dataset({n: ("set", v) for n, v in columns.items()}, coords={"set": [name for _, name in sets]})
    worst = {f"worst_{kind}": float(data["score"].values[columns["kind"] == kind].max(initial=0.0)) for kind, _ in sets}
    return Scores(data.assign_attrs(worst), _provenance(run, metric, ends, "completeness", seed, n_random))


def minimality(  # noqa: PLR0913 - one experiment, fully stated
    run: EdgeRun,
    metric: Metric,
    circuit: Circuit,
    *,
    least: float = 0.01,
    max_pairs: int = 24,
    n_subsets: int = 20,
    n_random: int = 40,
    seed: int = 0,
) -> Scores:
    """`score` [edge] is the largest difference that an edge makes over the sets K, `control` the mean of the same for `n_random`
    random edges from outside, `control_high` their 95 % point, p and q the edge's place among them.

    `violator` marks edges whose difference stays below `least`; `source`, `target` name each edge; `alone` is the difference with
    nothing else taken out. Raises InputError for an empty circuit.
    """
    mask = _mask_of(run, circuit)
    rng, ends = np.random.default_rng(seed), ends_of(run, metric)
    numbers = circuit.edge_numbers
    sets = [np.zeros_like(mask)]
    if len(circuit) <= max_pairs:
        sets += [_one(mask, edge) for edge in numbers]
    else:
        sets += _subsets(mask, n_subsets, rng)
    bases = mask & ~np.stack(sets)
    outside = rng.permutation(np.flatnonzero(~mask & run.differs()))[:n_random]
    made = _differences(run, metric, ends, bases, numbers)
    null = _differences(run, metric, ends, bases, outside).max(1)
    score = made.max(1)
    p = permutation_p(score, null[:, None]) if len(null) else np.full(len(score), np.nan)
    names = np.array(circuit.edge_names()).reshape(-1, 2)
    none = np.full(len(score), np.nan)
    columns = {
        "score": score, "control": none if not len(null) else np.full(len(score), null.mean()),
        "control_high": none if not len(null) else np.full(len(score), np.quantile(null, 0.95)),
        "p": p, "q": q_values(p) if len(null) else none, "alone": made[:, 0], "violator": score < least,
        "source": names[:, 0], "target": names[:, 1],
    }  # fmt: skip
    data = xr.Dataset({name: ("edge", values) for name, values in columns.items()})
    settings = {"least": least, "n_sets": len(sets), "n_random": len(outside)}
    return Scores(data, _provenance(run, metric, ends, "minimality", seed, n_random, settings))


def _mask_of(run: EdgeRun, circuit: Circuit) -> np.ndarray:
    if not len(circuit):
        raise InputError("the circuit has no edge, so there is nothing to take out of it")
    return run.mask(circuit)[0]


def _classes(run: EdgeRun, circuit: Circuit, classes: Mapping[str, Edges] | None) -> dict[str, np.ndarray]:
    """K of each class as bool [edge]: the given ones, or the circuit's edges into and out of each of its heads and MLPs."""
    shape, mask = run.shape, run.mask(circuit)[0]
    if classes is not None:
        return {
            name: run.mask(Circuit.from_edges(shape, edges, circuit.provenance))[0] & mask
            for name, edges in classes.items()
        }
    found = {}
    receiver, served = shape.serves
    for node in (
        np.flatnonzero(circuit.node_mask())[1:] if circuit.node_mask()[0] else np.flatnonzero(circuit.node_mask())
    ):
        touches = (circuit.source == node) | np.isin(circuit.target, receiver[served == node])
        k = np.zeros_like(mask)
        k[circuit.edge_numbers[touches]] = True
        found[shape.senders.names[node]] = k
    return found


def _subsets(mask: np.ndarray, n: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Random subsets of the circuit, each of a random size below its own."""
    edges = np.flatnonzero(mask)
    subsets = []
    for _ in range(n):
        k = np.zeros_like(mask)
        k[rng.choice(edges, rng.integers(1, max(2, len(edges))), replace=False)] = True
        subsets.append(k)
    return subsets


def _greedy(  # noqa: PLR0913 - one search
    run: EdgeRun,
    metric: Metric,
    ends: Ends,
    mask: np.ndarray,
    n_steps: int,
    n_candidates: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """The set with the largest gap on a way that adds, step by step, the worst of some random edges of the circuit."""
    removed, best, worst = np.zeros_like(mask), np.zeros_like(mask), 0.0
    for _ in range(min(n_steps, int(mask.sum()))):
        left = np.flatnonzero(mask & ~removed)
        tried = rng.choice(left, min(n_candidates, len(left)), replace=False)
        sets = np.stack([removed | _one(mask, edge) for edge in tried])
        both = run.evaluate(np.concatenate([mask & ~sets, ~sets]), metric)
        ours, whole = ends.share(both).reshape(2, -1)
        gaps = np.nan_to_num(np.abs(ours - whole))
        removed = sets[int(gaps.argmax())]
        if gaps.max() > worst:
            best, worst = removed, float(gaps.max())
    return best


def _one(mask: np.ndarray, edge: int) -> np.ndarray:
    alone = np.zeros_like(mask)
    alone[edge] = True
    return alone


def _differences(run: EdgeRun, metric: Metric, ends: Ends, bases: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """What each of `edges` does [edge, set] when it is in each of `bases` [set, edge] (put there if it is not), as a share; 0 where
    a base belongs to a set that holds the edge itself."""
    made = np.zeros((len(edges), len(bases)))
    for start in range(0, len(edges), _AT_ONCE):
        few = edges[start : start + _AT_ONCE]
        without = np.repeat(bases[None], len(few), 0)
        with_it = without.copy()
        for i, edge in enumerate(few):
            without[i, :, edge], with_it[i, :, edge] = False, True
        values = run.evaluate(np.concatenate([with_it, without]).reshape(-1, bases.shape[1]), metric)
        shares = ends.share(values).reshape(2, len(few), len(bases))
        made[start : start + _AT_ONCE] = np.nan_to_num(np.abs(shares[0] - shares[1]))
    return made


def _gap_columns(
    ours: np.ndarray, whole: np.ndarray, interval: tuple[np.ndarray, np.ndarray], gaps: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Gaps are sizes, so an interval of the signed difference that holds 0 begins at 0."""
    low, high = interval
    none = np.full(len(ours), np.nan)
    crosses = low * high <= 0
    edges = np.sort(np.abs(np.stack([low, high])), 0)
    beside = (none, none, none) if gaps is None else (gaps.mean(0), *np.quantile(gaps, [0.025, 0.975], axis=0))
    return {
        "score": np.abs(ours - whole), "low": np.where(crosses, 0.0, edges[0]), "high": edges[1],
        "control": beside[0], "control_low": beside[1], "control_high": beside[2],
        "circuit_share": ours, "whole_share": whole,
    }  # fmt: skip


def _provenance(  # noqa: PLR0913 - one envelope
    run: EdgeRun,
    metric: Metric,
    ends: Ends,
    method: str,
    seed: int,
    n_random: int,
    more: Mapping[str, object] = {},  # noqa: B006
) -> Provenance:
    settings = {"metric": metric.name, "ablation": run.ablation, "n_random": n_random, **more}
    return Provenance(
        method, run.n_rows, seed, model=run.model.name, revision=run.model.revision, settings=settings,
        passes=round(run.passes), causal="patching", warnings=ends.warnings,
    )  # fmt: skip
