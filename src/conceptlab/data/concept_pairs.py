"""Minimal pairs about concepts and their properties, in the form of the published collections: one JSON list a language.

A record has `property`, `acceptable_concept`, `unacceptable_concept`, `prefix_acceptable`, `prefix_unacceptable`,
`property_phrase` and `negative_sample_type`; a sentence is a prefix, a space, the phrase and a full stop. Other keys are kept, so
that a file comes back as it was. Format after COMPS (Misra et al. 2023) and XCOMPS (He et al. 2025).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conceptlab.data.records import read_records, texts_of
from conceptlab.errors import DataError
from conceptlab.results.saving import write_bytes

COLUMNS = (
    "property", "acceptable_concept", "unacceptable_concept", "prefix_acceptable", "prefix_unacceptable", "property_phrase",
    "negative_sample_type",
)  # fmt: skip


@dataclass(frozen=True)
class ConceptPair:
    """One pair; `language` is the file's name, `rest` what the record holds besides."""

    language: str
    property: str
    acceptable_concept: str
    unacceptable_concept: str
    prefix_acceptable: str
    prefix_unacceptable: str
    property_phrase: str
    negative_sample_type: str
    rest: Mapping[str, Any] = field(default_factory=dict, compare=True, hash=False)

    def sentence(self, *, acceptable: bool) -> str:
        """Prefix and phrase, without the full stop."""
        prefix = self.prefix_acceptable if acceptable else self.prefix_unacceptable
        return f"{prefix} {self.property_phrase.rstrip('.')}"

    def swapped(self) -> "ConceptPair":
        """The same pair with what is acceptable and what is not exchanged."""
        return ConceptPair(
            self.language, self.property, self.unacceptable_concept, self.acceptable_concept, self.prefix_unacceptable,
            self.prefix_acceptable, self.property_phrase, self.negative_sample_type, self.rest,
        )  # fmt: skip


def read_concept_pairs(path: Path | str) -> list[ConceptPair]:
    """Read one file (a JSON list, JSON lines or CSV), or every such file of a folder, each of which is a language by its name.

    Raises DataError as `read_records`, and for a folder without such files.
    """
    path = Path(path)
    if not path.is_dir():
        return _read_one(path)
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in (".json", ".jsonl", ".csv"))
    if not files:
        raise DataError(f"{path}: holds no .json, .jsonl or .csv file; put one file a language there")
    return [pair for file in files for pair in _read_one(file)]


def write_concept_pairs(pairs: Sequence[ConceptPair], folder: Path | str) -> None:
    """Write a JSON list a language, as `read_concept_pairs` reads it. Raises RunError when the disk refuses."""
    by_language: dict[str, list[dict[str, Any]]] = {}
    for pair in pairs:
        record = {name: getattr(pair, name) for name in COLUMNS}
        by_language.setdefault(pair.language, []).append({**record, **pair.rest})
    for language, records in by_language.items():
        write_bytes(
            Path(folder) / f"{language}.json", (json.dumps(records, ensure_ascii=False, indent=1) + "\n").encode()
        )


def _read_one(path: Path) -> list[ConceptPair]:
    table = read_records(path, COLUMNS)
    rest = _rest(path) if path.suffix.lower() == ".json" else [{}] * len(table.places)
    cells = zip(*(texts_of(table, name) for name in COLUMNS), rest, strict=True)
    return [ConceptPair(path.stem, *row) for row in cells]


def _rest(path: Path) -> list[dict[str, Any]]:
    """What the records of a JSON list hold besides; `read_records` has seen that it is one."""
    records = json.loads(path.read_text(encoding="utf-8-sig"))
    return [{k: v for k, v in record.items() if k not in COLUMNS} for record in records]
