"""Texts by concept, with texts of none of them, and which category a concept belongs to."""

from dataclasses import dataclass
from pathlib import Path

from conceptlab.data.records import read_records, texts_of
from conceptlab.errors import DataError

NEGATIVE = "negative"


@dataclass(frozen=True)
class ConceptTexts:
    """`positives` by concept, `negatives` of none, and `category` by concept (empty where the file has none)."""

    positives: dict[str, list[str]]
    negatives: list[str]
    category: dict[str, str]


def read_concept_texts(path: Path | str, *, most: int | None = None) -> ConceptTexts:
    """Read CSV, JSON lines or a JSON list with the columns `concept` ("negative" for texts of none), `text` and, optional,
    `category`; at most `most` texts a concept. Raises DataError as `read_records`, and where positives or negatives are
    missing.
    """
    table = read_records(path, ("concept", "text"), ("category",))
    concepts, texts = texts_of(table, "concept"), texts_of(table, "text")
    categories = texts_of(table, "category") if "category" in table.columns else ()
    positives: dict[str, list[str]] = {}
    category: dict[str, str] = {}
    for row, (concept, text) in enumerate(zip(concepts, texts, strict=True)):
        mine = positives.setdefault(concept.strip(), [])
        if most is None or concept.strip() == NEGATIVE or len(mine) < most:
            mine.append(text)
        if categories:
            category[concept.strip()] = categories[row]
    negatives = positives.pop(NEGATIVE, [])
    category.pop(NEGATIVE, None)
    if not positives or len(negatives) < 2:
        raise DataError(
            f"{path}: {len(positives)} concepts and {len(negatives)} negative texts; give concepts and two negatives or more"
        )
    return ConceptTexts(positives, negatives, category)
