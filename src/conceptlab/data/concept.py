"""Concept: texts with one label each. ConceptSet: the concepts of one file, with a hash of their content."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from conceptlab.errors import DataError

Kind = Literal["binary", "classes", "graded"]
Span = tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class Concept:
    """One labelled property of texts.

    `labels` [row] are class ids (int64, indices into `class_names`) or, for a graded concept, float64 values.
    `groups` [row] are ids of rows that must share a fold (None: every row stands alone). `spans` give the
    characters of each text to read (None: its last real token). `words` are the label words of each class, for
    next-token effects (None: the data names none). Raises DataError where the parts do not fit together.
    """

    name: str
    texts: tuple[str, ...]
    labels: np.ndarray
    kind: Kind
    class_names: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    spans: tuple[Span, ...] = ()
    words: tuple[tuple[str, ...], ...] | None = None

    def __post_init__(self) -> None:
        if not self.spans:
            object.__setattr__(self, "spans", (None,) * len(self.texts))
        lengths = {
            len(self.texts),
            len(self.labels),
            len(self.spans),
            len(self.texts if self.groups is None else self.groups),
        }
        if len(lengths) > 1:
            raise DataError(
                f"concept {self.name!r}: texts, labels, groups and spans differ in length; give one of each a row"
            )
        if (self.kind == "graded") != (not self.class_names):
            raise DataError(f"concept {self.name!r}: a {self.kind} concept with the classes {list(self.class_names)}")
        if self.words is not None and len(self.words) != len(self.class_names):
            raise DataError(
                f"concept {self.name!r}: {len(self.words)} groups of words for {len(self.class_names)} classes"
            )

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.texts)


@dataclass(frozen=True, eq=False)
class ConceptSet:
    """Concepts that were read together; `data_hash` is the sha256 of their content, whatever file format it came in."""

    name: str
    concepts: tuple[Concept, ...]
    data_hash: str = field(default="")

    def __post_init__(self) -> None:
        names = [concept.name for concept in self.concepts]
        if len(set(names)) < len(names) or not names:
            raise DataError(f"{self.name}: needs concepts with names that differ, got {names}")
        if not self.data_hash:
            object.__setattr__(self, "data_hash", content_hash(self.concepts))

    def __iter__(self) -> Iterator[Concept]:
        return iter(self.concepts)

    def __len__(self) -> int:
        return len(self.concepts)

    def __getitem__(self, name: str) -> Concept:
        for concept in self.concepts:
            if concept.name == name:
                return concept
        raise DataError(f"{self.name} has no concept {name!r}; it has {', '.join(c.name for c in self.concepts)}")


def content_hash(concepts: Iterable[Concept]) -> str:
    """Return the sha256 of the concepts' content: one canonical JSON line a concept and a row, in order."""
    digest = hashlib.sha256()
    for concept in concepts:
        head = [concept.name, concept.kind, concept.class_names, concept.words, concept.n]
        digest.update(_line(head))
        groups = [None] * concept.n if concept.groups is None else concept.groups.tolist()
        for row in zip(concept.texts, concept.labels.tolist(), groups, concept.spans, strict=True):
            digest.update(_line(row))
    return digest.hexdigest()


def _line(values: object) -> bytes:
    return json.dumps(values, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
