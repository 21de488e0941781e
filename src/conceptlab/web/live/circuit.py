"""A circuit as a page draws it: nodes and edges with their places, every number of an edge, and what stands beside it.

Places are those of `plot.circuit_layout`. A circuit comes from a folder of `conceptlab explain`, or is found for a pair of prompts
(`find.circuits.explain`, with few exact edges, so that it takes a minute and not an hour).
"""

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np

from conceptlab.data.answer_pairs import AnswerPairs
from conceptlab.find.circuits.chosen_edges import RUNS_AN_EDGE
from conceptlab.find.circuits.edge_attribution_ig import edge_attribution_ig
from conceptlab.find.circuits.exact_edges import exact_edges
from conceptlab.find.circuits.explain import GRADIENTS, Explanation, explain_behaviour
from conceptlab.measure.circuits.ends import FEWEST
from conceptlab.model import Model
from conceptlab.model.edge_run import edge_run
from conceptlab.model.metric import Metric
from conceptlab.plot.circuit_layout import HEIGHT, PORTS, Node, layout
from conceptlab.results import Circuit
from conceptlab.runs import Part, Progress
from conceptlab.runs.estimate import duration
from conceptlab.web.in_turns import in_turns
from conceptlab.web.jobs import Said
from conceptlab.web.live.pair_tasks import PairAsked, pair_metric

MOST = 400  # edges drawn, the strongest
COLUMNS = ("weights", "low", "high", "exact", "control", "p", "q")
FEW_CHECKS, FEW_RESAMPLES = 20, 100
TOKENS = 150  # that run together, so that a piece of GPT-2's size takes less than half a second


@dataclass(frozen=True)
class CircuitAsked:
    """A circuit to be found: the pair or task, and how many edges are patched exactly."""

    pair: PairAsked
    n_exact: int = 30
    seed: int = 0

    @property
    def id(self) -> str:
        """The name under which its pins and groups are kept."""
        return f"pair-{sha256(repr(self).encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def found_circuit(model: Model, asked: CircuitAsked) -> Generator[Said | None, None, dict[str, Any]]:
    """Find the circuit of a pair, giving way to others between two blocks that run. Raises as the method."""
    pairs = asked.pair.pairs(model)
    metric = pair_metric(model, pairs)
    begun = time.perf_counter()
    model.logits(pairs.clean)
    seconds = (time.perf_counter() - begun) * asked.n_exact * RUNS_AN_EDGE / 2  # half of the blocks lie above an edge
    said = f"{asked.n_exact} edges patched exactly over {len(pairs.clean)} pairs: at most about {duration(seconds)}"
    yield Said(0.02, said)
    if len(pairs.clean) < FEWEST:
        circuit = yield from in_turns(lambda progress: _of_few(model, pairs, metric, asked, progress), 0.05, 0.98)
        return circuit_card(circuit, asked.id, pairs.name, {"notes": [of_few(len(pairs.clean))]})

    def explained(progress: Progress) -> Explanation:
        return explain_behaviour(
            model, pairs.clean, pairs.corrupted, metric, n_exact=asked.n_exact, n_check=FEW_CHECKS, n_resamples=FEW_RESAMPLES,
            seed=asked.seed, tokens_at_once=TOKENS, progress=progress,
        )  # fmt: skip

    found = yield from in_turns(explained, 0.05, 0.98)
    return circuit_card(found.circuit, asked.id, pairs.name, found.to_record())


def of_few(n: int) -> str:
    """What a circuit of fewer than `FEWEST` pairs is."""
    pairs = "one pair" if n == 1 else f"{n} pairs"
    return (
        f"These are the exact effects of the strongest edges on {pairs}. So few cannot say whether "
        f"they are the behaviour or chance, so no p is given. A task, or `conceptlab explain` with at least {FEWEST} pairs, can."
    )


def _of_few(model: Model, pairs: AnswerPairs, metric: Metric, asked: CircuitAsked, progress: Progress) -> Circuit:
    """The edges that gradients rank highest, patched exactly beside turned changes."""
    both = (model, pairs.clean, pairs.corrupted)
    with progress.task("a circuit of few pairs") as task:
        units = (GRADIENTS, RUNS_AN_EDGE // 2 * asked.n_exact)
        task.resize(sum(units))
        with Part(task, units[0]) as part:
            ranked = edge_attribution_ig(
                *both, metric, n_random=0, tokens_at_once=TOKENS, seed=asked.seed, progress=part
            )
        run = edge_run(*both, tokens_at_once=TOKENS, between=lambda: task.advance(0))
        with Part(task, units[1]) as part:
            found = exact_edges(run, metric, ranked.top(asked.n_exact), seed=asked.seed, progress=part)
    unknown = np.full(len(found), np.nan)
    return replace(found.top(asked.n_exact), p=unknown, q=unknown, low=unknown, high=unknown)


def circuit_card(circuit: Circuit, id: str, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of a circuit as plain values; `record` is what `explain` says of it. Edges are listed strongest first."""
    drawn = circuit.top(MOST)
    drawing = layout(drawn)
    beside = {(e.get("source"), e.get("target")): e for e in record.get("edges", ()) if isinstance(e, Mapping)}
    edges = []
    for i, ((source, target), wire) in enumerate(zip(drawn.edge_names(), drawing.wires, strict=True)):
        said = beside.get((source, target), {})
        edges.append(
            {
                "rank": i + 1, "source": source, "target": target, "enters": wire.target.name,
                **{column: _number(getattr(drawn, column)[i]) for column in COLUMNS},
                "direction": said.get("direction"), "chosen": said.get("chosen"),
                "points": [[round(x, 1), round(drawing.height - y, 1)] for x, y in wire.points],
            }
        )  # fmt: skip
    control = np.abs(circuit.control[np.isfinite(circuit.control)])
    share = record.get("faithfulness")
    return {
        "id": id, "name": name, "metric": circuit.metric, "n_edges": len(circuit), "of_edges": circuit.shape.n_edges,
        "model": circuit.provenance.model, "n_rows": circuit.provenance.n, "sign": circuit.sign_convention, "edges": edges,
        "nodes": [_node(node, drawing.height) for node in drawing.nodes],
        "served": [[x, drawing.height - y, u, drawing.height - v] for (x, y), (u, v) in drawing.served],
        "width": round(drawing.width), "height": round(drawing.height), "box": HEIGHT,
        "shape": [circuit.shape.n_layers, circuit.shape.n_heads], "null": float(control.max()) if len(control) else None,
        "share": dict(share) if isinstance(share, Mapping) else None,
        "notes": [str(note) for note in record.get("notes", ())],
    }  # fmt: skip


def _node(node: Node, height: float) -> dict[str, Any]:
    """A box, y downwards, with the address of its page where it has one."""
    unit = f"/unit?layer={node.layer}&head={node.head}" if node.kind == "head" else ""
    ports = [{"port": port, "x": PORTS[port]} for port in sorted(node.ports, key=lambda p: PORTS[p])]
    return {
        "name": node.name, "kind": node.kind, "layer": node.layer, "head": node.head, "x": round(node.x, 1),
        "y": round(height - node.y, 1), "width": round(node.width, 1), "ports": ports, "unit": unit,
    }  # fmt: skip


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
