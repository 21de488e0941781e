"""The self-contained `report.html` of an atlas: its words and charts laid out by `pages`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlab.atlas.figures import atlas_figures, concept_figures
from conceptlab.atlas.notes import NOTES
from conceptlab.atlas.saving import slug
from conceptlab.atlas.table import summary_rows
from conceptlab.atlas.words import findings, lede
from conceptlab.pages import Figure, Note, Report, Section, render_report
from conceptlab.pages.bundle import begin_bundle
from conceptlab.plot.naming import visible
from conceptlab.results.saving import write_bytes

if TYPE_CHECKING:
    from conceptlab.atlas.atlas import Atlas, ConceptMap

HEADINGS = {"depth": "Readable by layer", "effects": "Is it used?", "heads": "Heads", "neurons": "Neurons"}


def write_report(atlas: "Atlas", path: Path | str) -> Path:
    """Write the page to `path` and return it. Raises RunError when the disk refuses."""
    begin_bundle()
    path = Path(path)
    write_bytes(path, render_report(report_of(atlas)).encode("utf-8", "backslashreplace"))
    return path


def report_of(atlas: "Atlas") -> Report:
    """What stands on the page."""
    figures = {key: Figure(key, key, chart, wide=True) for key, chart in atlas_figures(atlas).items()}
    name = visible(str(atlas.model.get("name", "")), 120)
    return Report(
        title=f"Atlas of {name}",
        model=name,
        lede=lede(atlas),
        facts=_facts(atlas),
        summary=summary_rows(atlas),
        overview=tuple(f for key, f in figures.items() if key == "depth_map"),
        sections=tuple(_section(concept, len(atlas.concepts)) for concept in atlas.concepts),
        geometry=tuple(f for key, f in figures.items() if key == "cosines"),
        notes=tuple(Note(term, text) for term, text in NOTES.items()),
        provenance=_provenance(atlas),
        warnings=tuple(visible(w, 400) for w in atlas.provenance.warnings),
    )


def _section(concept: "ConceptMap", n_concepts: int) -> Section:
    key = slug(concept.name)
    figures = tuple(
        Figure(f"{key}-{kind}", f"{key}-{kind}", chart, heading=HEADINGS[kind])
        for kind, chart in concept_figures(concept).items()
    )
    classes = " / ".join(visible(c, 24) for c in concept.class_names[:6])
    more = f" and {len(concept.class_names) - 6} more" if len(concept.class_names) > 6 else ""
    facts = (concept.kind, f"{classes}{more}", f"{concept.n:,} texts")
    return Section(
        id=f"concept-{key}",
        name=visible(concept.name),
        found=concept.found,
        facts=tuple(fact for fact in facts if fact),
        findings=tuple(Note(term, text) for term, text in findings(concept, n_concepts).items()),
        figures=figures,
        warnings=tuple(visible(w, 400) for w in concept.warnings),
    )


def _facts(atlas: "Atlas") -> tuple[Note, ...]:
    words = {"n_layers": "layers", "n_heads": "heads a layer", "d_model": "d_model", "d_mlp": "neurons a layer"}
    facts = [Note(word, f"{atlas.model[key]:,}") for key, word in words.items() if atlas.model.get(key)]
    n = max((c.n for c in atlas.concepts), default=0)
    return (*facts, Note("texts, at most", f"{n:,}"), Note("time", f"{atlas.seconds:.0f} s"))


def _provenance(atlas: "Atlas") -> tuple[Note, ...]:
    envelope = atlas.provenance
    fixed: dict[str, Any] = {
        "model": atlas.model.get("name"),
        "revision": atlas.model.get("revision"),
        "data (sha256)": envelope.data_hash,
        "seed": envelope.seed,
        "seconds": f"{atlas.seconds:.1f}",
        "passes over the model (texts)": f"{envelope.passes:,}",
        "method": envelope.method,
    }
    fixed |= {f"setting: {key}": value for key, value in envelope.settings.items()}
    fixed |= {f"version: {key}": value for key, value in envelope.versions.items()}
    return tuple(Note(visible(str(k), 60), visible(str(v), 200)) for k, v in fixed.items() if v not in (None, ""))
