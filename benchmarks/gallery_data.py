"""Real labelled data for the gallery, read from ../shared (nothing of it is copied into the project)."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from conceptlab.data import Concept, ConceptSet

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"
ROWS = 400


def _concept(name: str, rows: list[tuple[str, object, object]], *, rng: np.random.Generator) -> Concept:
    """A concept from (text, label, group) rows: shuffled, balanced, at most ROWS of them; float labels are graded."""
    graded = isinstance(rows[0][1], float)
    order = rng.permutation(len(rows))
    if graded:
        chosen, names = order[:ROWS], ()
    else:
        names = tuple(sorted({str(label) for _, label, _ in rows}))
        each = min(ROWS // len(names), *(sum(str(r[1]) == n for r in rows) for n in names))
        chosen = np.concatenate([[i for i in order if str(rows[i][1]) == n][:each] for n in names])
        chosen = rng.permutation(chosen.astype(int))
    texts, labels, groups = zip(*(rows[i] for i in chosen), strict=True)
    ids = np.unique([str(g) for g in groups], return_inverse=True)[1]
    values = np.array(labels, dtype=float) if graded else np.array([names.index(str(v)) for v in labels])
    kind = "graded" if graded else "binary" if len(names) == 2 else "classes"
    grouped = ids if len(np.unique(ids)) < len(ids) else None
    return Concept(name=name, texts=tuple(map(str, texts)), labels=values, kind=kind, class_names=names, groups=grouped)


def _truth(file: str, group: str | None) -> list[tuple[str, object, object]]:
    with (SHARED / "data/geometry_of_truth" / file).open(encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    return [
        (r["statement"], "true" if r["label"] == "1" else "false", r[group] if group else i) for i, r in enumerate(rows)
    ]


def _emotions(names: tuple[str, ...]) -> list[tuple[str, object, object]]:
    folder = SHARED / "data/repe_emotions"
    return [
        (t, n, t) for n in names for t in json.loads((folder / f"{n}.json").read_text(encoding="utf-8")) if t.strip()
    ]


def _sentiment() -> list[tuple[str, object, object]]:
    lines = (SHARED / "data/sst2/dev.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.rsplit("\t", 1) for line in lines if "\t" in line]
    return [(t, "positive" if v == "1" else "negative", t) for t, v in pairs]


def _animals() -> list[tuple[str, object, object]]:
    kinds = json.loads((SHARED / "data/categorical_hierarchy/animals.json").read_text(encoding="utf-8"))
    return [(f"I saw a {w}", n, w) for n in ("mammal", "bird", "fish") for w in kinds.get(n, [])]


def _names() -> list[tuple[str, object, object]]:
    spec = json.loads((SHARED / "data/syntaxgym_templates/syntaxgym.json").read_text(encoding="utf-8"))
    found = spec["agr_gender"]["variables"]["name"]
    return [(f"There was a child named {n}", p, n) for p in ("he", "she") for n in found[p]]


def _valence() -> list[tuple[str, object, object]]:
    with (SHARED / "data/word_norms/Ratings_Warriner_et_al.csv").open(encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    return [(f"The word is {r['Word']}", float(r["V.Mean.Sum"]), r["Word"]) for r in rows if r["Word"].isalpha()]


def _agreement() -> list[tuple[str, object, object]]:
    lines = (
        (SHARED / "data/blimp/regular_plural_subject_verb_agreement_1.jsonl").read_text(encoding="utf-8").splitlines()
    )
    pairs = [json.loads(line) for line in lines][:ROWS]
    return [(p[k], k.split("_")[1], p["pairID"]) for p in pairs for k in ("sentence_good", "sentence_bad")]


SOURCES: dict[str, Callable[[], list[tuple[str, object, object]]]] = {
    "happy or sad": lambda: _emotions(("happiness", "sadness")),
    "four emotions": lambda: _emotions(("happiness", "sadness", "anger", "fear")),
    "film sentiment": _sentiment,
    "kind of animal": _animals,
    "gender of a first name": _names,
    "valence of a word": _valence,
    "verb agrees": _agreement,
    "city is in country": lambda: _truth("cities.csv", "city"),
    "larger than": lambda: _truth("larger_than.csv", None),
    "Spanish translation": lambda: _truth("sp_en_trans.csv", None),
}


def real_concepts(max_words: int | None = None, seed: int = 0) -> ConceptSet:
    """The gallery's concepts; `max_words` keeps short texts, for models with a short context.

    Raises FileNotFoundError where ../shared is absent.
    """
    rng = np.random.default_rng(seed)
    concepts = []
    for name, read in SOURCES.items():
        rows = [r for r in read() if max_words is None or len(r[0].split()) <= max_words]
        concepts.append(_concept(name, rows, rng=rng))
    return ConceptSet("real", tuple(concepts))
