"""Second half of `make gallery`: what small real models do with a prompt, by patching, lenses and one circuit each, in
docs/gallery/causal/.

Models are found in ../shared; what is absent is skipped. The prompts are our own (`benchmarks.gallery_causal_data`).
"""

import argparse
import json
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.gallery_causal_data import BLANK, TASKS, Chosen, chosen_pairs
from benchmarks.gallery_causal_page import page, percent
from benchmarks.gallery_data import SHARED
from conceptlab.errors import InputError
from conceptlab.find.circuits.edge_attribution_ig import edge_attribution_ig
from conceptlab.find.circuits.explain import Explanation, explain_behaviour
from conceptlab.measure.attribution.direct_logit import direct_logit
from conceptlab.measure.lenses.logit_lens import logit_lens
from conceptlab.measure.patching.activation_patching import By, activation_patching
from conceptlab.measure.patching.pairs import Direction
from conceptlab.model import Model, load_model
from conceptlab.model.metric import Metric, logit_diff
from conceptlab.plot import Chart
from conceptlab.plot.circuit import circuit_graph
from conceptlab.plot.contributions import contribution_chart
from conceptlab.plot.export import save_chart
from conceptlab.plot.lens import lens_curve, lens_map
from conceptlab.plot.patching import LEAST, patching_map
from conceptlab.results import Scores

DOCS = Path(__file__).resolve().parents[1] / "docs" / "gallery" / "causal"
LEVEL = 0.05
READ = 12  # last positions that the chart of the lens shows
EXACT = 100  # edges that are patched exactly
KEPT = 12  # cells, components and edges written into numbers.json
Numbers = dict[str, object]


@dataclass(frozen=True, eq=False)
class Behaviour:
    """A model, the pairs it gets right, and the logit difference that is explained."""

    model: Model
    pairs: Chosen

    @property
    def metric(self) -> Metric:
        """logit(answer) - logit(distractor) of the clean prompts."""
        return logit_diff(self.pairs.answers, self.pairs.distractors)


def patching(about: Behaviour) -> tuple[dict[str, Chart], Numbers]:
    """The stream by layer and position, and heads' outputs, in both directions."""
    charts, numbers = {}, {}
    wanted: list[tuple[str, By, str]] = [("resid_pre", "position", "stream"), ("z", "head", "heads")]
    for site, by, called in wanted:
        for direction in get_args(Direction):
            found = activation_patching(
                about.model, about.pairs.clean, about.pairs.corrupted, about.metric, site=site, by=by, direction=direction
            )  # fmt: skip
            if by == "position":
                found = Scores(found.data.assign_coords(position=about.pairs.places), found.provenance)
            title = f"{about.model.name}: patching the {called}, {direction}"
            charts[f"{called}-{direction}"] = replace(patching_map(found), title=title)
            numbers[f"{called} {direction}"] = cells(found)
    return charts, numbers


def cells(found: Scores) -> Numbers:
    """How many cells of a map are found, and the largest of them beside their controls."""
    columns = {c: found[c].values.ravel() for c in ("score", "low", "high", "control", "q")}
    axes = [str(d) for d in found["score"].dims]
    index = np.stack(np.unravel_index(np.arange(found["score"].size), found["score"].shape), 1)
    labels = [[found[a].values[i] for a, i in zip(axes, at, strict=True)] for at in index]
    order = np.argsort(-np.abs(columns["score"]))
    held = (columns["q"] <= LEVEL) & (np.abs(columns["score"]) >= LEAST)
    largest = {
        ", ".join(f"{a} {v}" for a, v in zip(axes, labels[i], strict=True)): {
            c: short(values[i]) for c, values in columns.items()
        }
        for i in order[:KEPT]
    }
    return {
        "cells": len(order),
        "found": int(held.sum()),
        "largest_control": short(np.abs(columns["control"]).max()),
        "largest": largest,
    }


def lenses(about: Behaviour) -> tuple[dict[str, Chart], Numbers]:
    """What every layer would say on the first prompt, and how the two answers rank by layer on all of them."""
    name, pairs = about.model.name, about.pairs
    length = len(pairs.places)
    shown = logit_lens(about.model, pairs.clean[:1], positions=tuple(range(max(0, length - READ), length)))
    targets = [[a, b] for a, b in zip(pairs.answers, pairs.distractors, strict=True)]
    ranked = logit_lens(about.model, pairs.clean, targets, target_names=["answer", "distractor"])
    charts = {"lens": lens_map(shown, name=name), "rank": lens_curve(ranked, name=name)}
    columns = {c: ranked[c].sel(target="answer").values for c in ("rank", "rank_control", "score", "control", "q")}
    columns["rank_of_distractor"] = ranked["rank"].sel(target="distractor").values
    layers = [str(v) for v in ranked["layer"].values]
    return charts, {layer: {c: short(v[i]) for c, v in columns.items()} for i, layer in enumerate(layers)}


def contributions(about: Behaviour) -> tuple[dict[str, Chart], Numbers]:
    """What each head and MLP writes straight into the difference of the two answers."""
    pairs = about.pairs
    found = direct_logit(about.model, pairs.clean, pairs.answers, pairs.distractors)
    names = [str(v) for v in found["component"].values]
    columns = {c: found[c].values for c in ("score", "low", "high", "control", "control_low", "control_high", "q")}
    order = np.argsort(-np.abs(columns["score"]))[:KEPT]
    numbers = {
        "components": len(names),
        "found": int((columns["q"] <= LEVEL).sum()),
        "largest": {names[i]: {c: short(v[i]) for c, v in columns.items()} for i in order},
    }
    return {"direct": contribution_chart(found, name=about.model.name)}, numbers


def circuit(about: Behaviour) -> tuple[dict[str, Chart], Numbers]:
    """The edges that carry the difference: ranked by EAP-IG, patched exactly, judged on held-out pairs."""

    def ranked(model: Model, clean, corrupted, metric: Metric):
        return edge_attribution_ig(model, clean, corrupted, metric, steps=10, n_random=0)

    found = explain_behaviour(
        about.model,
        about.pairs.clean,
        about.pairs.corrupted,
        about.metric,
        scores=ranked,
        n_exact=EXACT,
        n_check=20,
        level=1.0,  # every edge that was chosen is drawn, dashed where q is above LEVEL
    )
    chart = circuit_graph(found.circuit, name=about.model.name) if len(found.circuit) else None
    return ({} if chart is None else {"circuit": replace(chart, says=f"{chart.says} {carried(found)}")}), edges(found)


def carried(found: Explanation) -> str:
    """What the circuit is worth beside random ones, for the picture."""
    score, control = (percent(found.faithfulness[c].values[0]) for c in ("score", "control"))
    pairs = f"{found.circuit.provenance.n} pairs that did not choose them"
    whole = "" if len(found.circuit.pruned()) else " They make no whole path from embed to logits."
    sure = f"{int((found.circuit.q <= LEVEL).sum())} edges have q ≤ {LEVEL}."
    return f"{sure} Alone the edges carry {score} of the difference on {pairs}, random circuits of that size {control}.{whole}"


def edges(found: Explanation) -> Numbers:
    """The circuit's numbers: how much it carries beside random circuits, and its strongest edges."""
    made, held = found.circuit, found.faithfulness
    columns = {c: getattr(made, c) for c in ("weights", "low", "high", "control", "q")}
    order = np.argsort(-np.abs(made.weights))[:KEPT]
    names = made.edge_names()
    return {
        "edges": len(made),
        "of": made.shape.n_edges,
        "held_out_pairs": made.provenance.n,
        "sure": int((made.q <= LEVEL).sum()),
        "whole_paths": len(made.pruned()),
        "notes": list(found.notes),
        **{
            c: short(held[c].values[0]) for c in ("score", "low", "high", "control", "control_low", "control_high", "p")
        },
        "largest": {
            " -> ".join(names[i]): {c: short(v[i]) for c, v in columns.items()} | {"chosen": short(found.chosen[i])}
            for i in order
        },
    }


def short(value: Any) -> float | None:
    """Four digits; None for NaN, which JSON has not."""
    return float(f"{float(value):.4g}") if np.isfinite(value) else None


def ends(about: Behaviour) -> Numbers:
    """How many pairs were asked, got right and kept, and how the two answers stand on both sides."""
    pairs, rows = about.pairs, np.arange(len(about.pairs.clean))
    sides = {}
    for side, texts in (("clean", pairs.clean), ("corrupted", pairs.corrupted)):
        logits = about.model.logits(texts).double().numpy()
        sides[f"logit_diff_{side}"] = short((logits[rows, pairs.answers] - logits[rows, pairs.distractors]).mean())
    return {"tried": pairs.tried, "right": pairs.right, "kept": len(rows), "positions": len(pairs.places), **sides}


def draw(model: Model) -> None:
    """Charts and numbers of one model; of one that cannot do its task, a line that says so."""
    start, folder = process_time(), DOCS / model.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        about = Behaviour(model, chosen_pairs(model, TASKS[model.name]))
    except InputError as error:
        write(folder, {"cannot": str(error)})
        return
    numbers: Numbers = {"pairs": ends(about)}
    for part in (patching, lenses, contributions, circuit):
        charts, numbers[part.__name__] = part(about)
        for name, chart in charts.items():
            save_chart(with_n(chart, name, len(about.pairs.clean)), folder / f"{name}.png")
    numbers |= {"seconds": short(process_time() - start), "machine": f"{os.cpu_count()} ({platform.machine()})"}
    write(folder, numbers)
    print(f"{model.name}: {len(about.pairs.clean)} pairs, {numbers['seconds']:.0f} s")


def with_n(chart: Chart, name: str, n: int) -> Chart:
    """The same chart, saying how many pairs it is made of."""
    more = {
        "lens": f"The first of {n} prompts.",
        "circuit": "",
        "direct": f"The logit is that of the answer less that of the distractor; mean over {n} pairs.",
    }.get(name, f"n = {n} pairs.")
    if name == "lens":  # the sign for a blank is missing in the font and makes tokens wider than their cells
        rows = tuple(
            {k: v.replace("␣", BLANK) if isinstance(v, str) else v for k, v in row.items()} for row in chart.rows
        )
        chart = replace(chart, rows=rows)
    return replace(chart, says=f"{chart.says} {more}".strip())


def write(folder: Path, numbers: Numbers) -> None:
    """numbers.json of one model."""
    (folder / "numbers.json").write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def main() -> int:
    """Draw every model that is here and write docs/gallery/causal/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of models to draw again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in TASKS:
        path = SHARED / "models" / name
        if not path.is_dir() or (options.only and name not in options.only):
            continue
        model = load_model(path)
        model.name = name
        draw(model)
    (DOCS / "README.md").write_text(page(DOCS), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
