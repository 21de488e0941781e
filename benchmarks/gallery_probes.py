"""Third part of the gallery: at which depth small real models hold facts, emotions and inferences, in docs/gallery/probes/.

    python -m benchmarks.gallery_probes [--only NAME ...]

Models and data are found in ../shared; what is absent is skipped, and nothing of the data is copied. The curves are those of
`measure/probing/concept_depth`: as the model is, with noise letters glued to each text, and with weights rounded to bf16, int8 and
int4, beside shuffled labels.
"""

import argparse
import csv
import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from benchmarks.gallery_data import SHARED, SOURCES, _concept
from conceptlab.data import Concept
from conceptlab.measure.probing.concept_depth import POINTS, concept_depth, shifts
from conceptlab.model import Model, load_model
from conceptlab.plot.depth_conditions import depth_conditions
from conceptlab.plot.export import save_chart
from conceptlab.results import Scores

DOCS = Path(__file__).resolve().parents[1] / "docs" / "gallery" / "probes"
MODELS = ("stories260k", "tinystories-656k")
SEEDS, PERMUTATIONS, WORDS = 5, 20, 40
DATA = SHARED / "data" / "concept_depth_cd"
CUE = "Question: {} Answer:"  # our own words: every text of an inferential set ends alike, so that the probe reads the context
HEAD = """# Concept depth on small real models

Made by `python -m benchmarks.gallery_probes` ({seconds} on one core of {cores}). At which layer can a linear probe read factual,
emotional and inferential concepts, and what do noise in the text and rounded weights change? The models are tiny and were trained
on children's stories, so this shows the method, and how it says "nothing there", more than it shows the models' knowledge.

A concept counts as readable where the held-out score is above that of shuffled labels at any layer (95 % of the shuffled curves)
and half way to the plain curve's peak. **Depth as is** counts layers from the embedding (0), mean of those of {seeds} seeds that
have one; **shift** says how many layers deeper it is under noise and int4.

"""
Record = dict[str, Any]


def concepts_of(seed: int = 0) -> list[Concept]:
    """Two factual, two emotional and two inferential concepts, balanced; raises FileNotFoundError where ../shared is absent."""
    rng = np.random.default_rng(seed)
    read = {
        "fact: common claims": _claims,
        "fact: larger than": SOURCES["larger than"],
        "emotion: happy or sad": SOURCES["happy or sad"],
        "emotion: film sentiment": SOURCES["film sentiment"],
        "inference: strategy questions": _questions,
        "inference: coin flips": _coins,
    }
    found = []
    for name, rows in read.items():
        short = [row for row in rows() if len(row[0].split()) <= WORDS]
        found.append(_concept(name, short, rng=rng))
    return found


def _claims() -> list[tuple[str, object, object]]:
    with (DATA / "common_claim.csv").open(encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    return [(r["examples"], r["label"], i) for i, r in enumerate(rows) if r["label"] in ("True", "False")]


def _questions() -> list[tuple[str, object, object]]:
    rows = json.loads((DATA / "StrategyQA_task.json").read_text(encoding="utf-8"))["examples"]
    return [
        (CUE.format(r["input"]), max(r["target_scores"], key=r["target_scores"].get), i) for i, r in enumerate(rows)
    ]


def _coins() -> list[tuple[str, object, object]]:
    rows = json.loads((DATA / "coin_flip.json").read_text(encoding="utf-8"))["examples"]
    told = [(r["question"].split(" Note that")[0], r["answer"]) for r in rows]
    return [(CUE.format(text), answer, i) for i, (text, answer) in enumerate(told)]


def draw(model: Model, concepts: list[Concept]) -> Record:
    """The chart and the numbers of one model."""
    start, folder = process_time(), DOCS / model.name
    folder.mkdir(parents=True, exist_ok=True)
    depths = concept_depth(model, concepts, n_seeds=SEEDS, permutations=PERMUTATIONS)
    chart = depth_conditions(depths, name=model.name)
    counts = sorted({c.n for c in concepts})
    told = f"{counts[0]} rows" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} rows"
    save_chart(replace(chart, says=f"{chart.says} {told} a concept."), folder / "depth.png")
    record = {"concepts": numbers(depths, concepts), "seconds": short(process_time() - start)}
    record["machine"] = f"{os.cpu_count()} ({platform.machine()})"
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    (folder / "numbers.json").write_text(text, encoding="utf-8")
    return record


def numbers(depths: Scores, concepts: list[Concept]) -> Record:
    """By concept: n, the peak beside shuffled labels in every condition, and the points as places on the layer axis."""
    data, moved = depths.data, shifts(depths)
    found: Record = {}
    for concept in concepts:
        own = data.sel(concept=concept.name)
        cells = {}
        for condition in map(str, data["condition"].values):
            at = own.sel(condition=condition)
            best = int(at["score"].values.argmax())
            cells[condition] = {
                c: short(at[c].values[best]) for c in ("score", "low", "high", "control", "control_high")
            }
            cells[condition]["layer"] = str(data["layer"].values[best])
            cells[condition] |= {p: mean(at[p].values) for p in POINTS}
            cells[condition]["seeds_readable"] = int(np.isfinite(at["depth"].values).sum())
            if condition != "as is":
                cells[condition]["shift"] = mean(moved.sel(concept=concept.name, condition=condition).values)
        found[concept.name] = {"n": concept.n, **cells}
    return found


def mean(values: np.ndarray) -> float | None:
    """Over the seeds that have a value."""
    finite = values[np.isfinite(values)]
    return short(finite.mean()) if len(finite) else None


def short(value: Any) -> float | None:
    """Four digits; None for NaN, which JSON has not."""
    return float(f"{float(value):.4g}") if np.isfinite(value) else None


def page(folder: Path) -> str:
    """docs/gallery/probes/README.md from the folders in `folder`."""
    files = {n: folder / n / "numbers.json" for n in MODELS}
    records = {n: json.loads(path.read_text(encoding="utf-8")) for n, path in files.items() if path.exists()}
    seconds = ", ".join(f"{n} {r['seconds']:.0f} s" for n, r in records.items())
    cores = next((r["machine"] for r in records.values()), "an unnamed machine")
    return HEAD.format(seconds=seconds, cores=cores, seeds=SEEDS) + "\n".join(part(n, r) for n, r in records.items())


def part(name: str, record: Record) -> str:
    """One model: its table and its picture."""
    lines = [
        "| concept | n | best score (shuffled) | at layer | depth as is | seeds readable | shift noised | shift int4 |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for concept, cells in record["concepts"].items():
        plain = cells["as is"]
        shown = f"{plain['score']:.3f} [{plain['low']:.3f}, {plain['high']:.3f}] ({plain['control']:.3f})"
        depth, noised, int4 = (place(v) for v in (plain["depth"], cells["noised"]["shift"], cells["int4"]["shift"]))
        seeds = f"{plain['seeds_readable']} of {SEEDS}"
        lines.append(
            f"| {concept} | {cells['n']} | {shown} | {plain['layer']} | {depth} | {seeds} | {noised} | {int4} |"
        )
    picture = f"![{name}: depth of concepts as is, noised and with rounded weights]({name}/depth.png)"
    return "\n".join([f"## {name}", "", *lines, "", picture, ""])


def place(value: float | None) -> str:
    """A place on the layer axis (0 is the embedding), or that there is none."""
    return "none" if value is None else f"{value:.1f}"


def main() -> int:
    """Draw every model that is here and write docs/gallery/probes/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of models to draw again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not DATA.is_dir():
        print("the data sets of ../shared are not here; nothing is drawn")
        return 0
    concepts = concepts_of()
    for name in MODELS:
        path = SHARED / "models" / name
        if not path.is_dir() or (options.only and name not in options.only):
            continue
        model = load_model(path)
        model.name = name
        print(f"{name}: {draw(model, concepts)['seconds']:.0f} s")
    (DOCS / "README.md").write_text(page(DOCS), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
