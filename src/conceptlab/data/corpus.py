"""A corpus: documents in a fixed order, read as a stream, so that its size does not matter."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Document:
    """One text: its `index` in the corpus, where it stands (`line 7`, `row 12`), its own `id` where the corpus has ids, and what is
    wrong with it, if anything (`text` is then empty)."""

    index: int
    text: str
    place: str
    id: str | None = None
    fault: str | None = None


class Corpus(Protocol):
    """Documents by index, the same on every reading."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def fingerprint(self) -> str:
        """What tells this corpus from one with other texts, without reading all of it where that is avoidable."""
        ...

    def documents(self, start: int = 0) -> Iterator[Document]:
        """Documents `start`, `start + 1`, … to the end."""
        ...


@dataclass(frozen=True)
class TextList:
    """Texts in memory as a corpus."""

    texts: tuple[str, ...]
    name: str = "texts"

    def fingerprint(self) -> str:
        """The sha256 of all texts."""
        digest = hashlib.sha256()
        for text in self.texts:
            content = text.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little") + content)
        return digest.hexdigest()

    def documents(self, start: int = 0) -> Iterator[Document]:
        """The texts in order."""
        for index in range(start, len(self.texts)):
            yield Document(index, self.texts[index], f"text {index}")
