"""What is written of one head or neuron: in the concepts of an atlas, in rankings of `conceptlab find`, in circuits."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from conceptlab.errors import ConceptlabError
from conceptlab.results import Circuit, Units
from conceptlab.web.atlas_shelf import AtlasShelf
from conceptlab.web.desk import Desk
from conceptlab.web.live.unit_weights import Unit

MOST_CONCEPTS = 200
PICKS = 24


def place_of(units: Units, unit: Unit) -> dict[str, Any] | None:
    """Score, null, p, q and rank of the unit in a ranking, rank 1 the largest score; None where it was not searched."""
    table = units.table
    at = np.flatnonzero((table["layer"].values == unit.layer) & (table["index"].values == unit.index))
    if units.kind != unit.kind or not len(at):
        return None
    scores = table["score"].values
    rank = 1 + int((scores > scores[at[0]]).sum())
    values = {name: _number(table[name].values[at[0]]) for name in ("score", "control", "p", "q")}
    return {**values, "rank": rank, "of": len(scores)}


def said_of(desk: Desk, shelf: AtlasShelf | None, unit: Unit) -> dict[str, Any]:
    """Rows of every ranking that holds the unit, smallest q first, and how many concepts of the atlas were not looked through."""
    rows, skipped = [], 0
    if shelf is not None:
        skipped = max(0, len(shelf.concepts) - MOST_CONCEPTS)
        for id, entry in list(shelf.concepts.items())[:MOST_CONCEPTS]:
            units = _units(shelf, id, unit.kind)
            found = None if units is None else place_of(units, unit)
            if found is not None:
                link = {"atlas": shelf.id, "concept": id}
                rows.append(
                    {"source": "atlas", "name": entry.name, "what": "carries the concept", "link": link, **found}
                )
    for finding in desk.findings.values():
        for name in finding.detectors if finding.kind == unit.kind else ():
            units = finding.units(name)
            found = None if units is None else place_of(units, unit)
            if found is not None:
                rows.append(
                    {
                        "source": "detector",
                        "name": name,
                        "what": f"found by conceptlab find in {finding.id}",
                        "link": None,
                        **found,
                    }
                )
    return {"rows": sorted(rows, key=lambda row: (_last(row["q"]), row["rank"])), "skipped": skipped}


def _units(shelf: AtlasShelf, id: str, kind: str) -> Units | None:
    """The ranking of a concept; None where there is none or it cannot be read."""
    try:
        made = shelf.concept(id)
    except ConceptlabError:
        return None  # the shelf keeps the sentence, and the concept's own page shows it
    return made.heads if kind == "head" else made.neurons


def circuits_of(desk: Desk, unit: Unit, shape: Mapping[str, int]) -> list[dict[str, Any]]:
    """The share that the unit (a neuron: its layer's MLP) has in every circuit of this model's shape."""
    node = unit.name if unit.kind == "head" else f"L{unit.layer}.mlp"
    rows = []
    for known in desk.explained.values():
        circuit = known.circuit
        if (circuit.shape.n_layers, circuit.shape.n_heads) == (shape["n_layers"], shape["n_heads"]):
            rows.append({"id": known.id, "metric": circuit.metric, "node": node, **share_in(circuit, node)})
    return rows


def share_in(circuit: Circuit, node: str) -> dict[str, Any]:
    """How many of the circuit's edges touch the node, their part of all |weights|, and the same of a node on average."""
    ends = [{_owner(a), _owner(b)} for a, b in circuit.edge_names()]
    weights = np.nan_to_num(np.abs(circuit.weights))
    touching = np.array([node in both for both in ends], dtype=bool)
    total = float(weights.sum())
    nodes = set().union(*ends) - {"embed", "logits"} if ends else set()
    mean = (
        float(np.mean([sum(w for w, both in zip(weights, ends, strict=True) if n in both) for n in nodes]))
        if nodes
        else 0.0
    )
    share = (
        {"share": float(weights[touching].sum()) / total, "average": mean / total}
        if total
        else {"share": None, "average": None}
    )
    return {"edges": int(touching.sum()), "of": len(circuit), **share}


def _owner(name: str) -> str:
    """The node that an end of an edge belongs to: `L1.H0.q` is of `L1.H0`."""
    return name.rsplit(".", 1)[0] if name.count(".") == 2 else name


def picks(shelf: AtlasShelf | None) -> list[dict[str, Any]]:
    """Units that the first concepts of an atlas name first, as links."""
    found: dict[str, dict[str, Any]] = {}
    for id in list(shelf.concepts)[:12] if shelf is not None else ():
        for kind in ("head", "neuron"):
            units = _units(shelf, id, kind)  # type: ignore[arg-type]
            for site in units.top(2, q_max=0.05) if units is not None else ():
                name = f"L{site.layer}.{'H' if kind == 'head' else 'N'}{site.units[0]}"
                found.setdefault(name, {"name": name, "kind": kind, "layer": site.layer, "index": site.units[0]})
    return list(found.values())[:PICKS]


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _last(q: float | None) -> float:
    return 2.0 if q is None else q
