"""Documents into rows of tokens: what one forward sees, how rows share a forward, and where the next row begins.

Nothing is dropped: a document longer than the context goes on in the next row, and the last row may be short.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Layout = Literal["packed", "documents"]


@dataclass(frozen=True)
class Tokens:
    """One document: its index in the corpus, ids [token] and the characters (start, end) [token, 2] each token came from."""

    doc: int
    ids: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class Cursor:
    """Where a row begins: token number `token` of document `doc`."""

    doc: int = 0
    token: int = 0


@dataclass(frozen=True)
class Row:
    """One row: `doc`, `ids` [token] and `offsets` [token, 2]; the row after it begins at `next`."""

    doc: np.ndarray
    ids: np.ndarray
    offsets: np.ndarray
    next: Cursor

    def __len__(self) -> int:
        return len(self.ids)


def rows_of(documents: Iterator[Tokens], layout: Layout, context: int, first_token: int = 0) -> Iterator[Row]:
    """Cut documents into rows of at most `context` tokens; "packed" rows hold several documents, one after the other.

    The first document begins with its token `first_token`.
    """
    waiting: list[Tokens] = []
    held, at = 0, first_token
    for document in documents:
        while at < len(document.ids):
            piece = _cut(document, at, context - held)
            waiting.append(piece)
            held, at = held + len(piece.ids), at + len(piece.ids)
            over = at == len(document.ids)
            if held == context or (over and layout == "documents"):
                yield _row(waiting, Cursor(document.doc + over, 0 if over else at))
                waiting, held = [], 0
        at = 0
    if waiting:
        yield _row(waiting, Cursor(waiting[-1].doc + 1))


def _cut(document: Tokens, at: int, length: int) -> Tokens:
    return Tokens(document.doc, document.ids[at : at + length], document.offsets[at : at + length])


def _row(pieces: Sequence[Tokens], after: Cursor) -> Row:
    doc = np.concatenate([np.full(len(p.ids), p.doc, dtype=np.int64) for p in pieces])
    return Row(doc, np.concatenate([p.ids for p in pieces]), np.concatenate([p.offsets for p in pieces]), after)


def kept_positions(length: int, positions: "str | Sequence[int]") -> np.ndarray:
    """Which tokens [token] of a row of `length` are kept: "all", the "last", or indices (negative ones from the end); an index
    that a row does not have is left out there."""
    kept = np.zeros(length, dtype=bool)
    if isinstance(positions, str):
        kept[slice(None) if positions == "all" else -1] = True
        return kept
    for position in positions:
        if -length <= position < length:
            kept[position] = True
    return kept


def batches(lengths: Sequence[int], batch_tokens: int) -> list[slice]:
    """Rows that share a forward: neighbours whose padded size stays within `batch_tokens`; a longer row runs alone."""
    found, start, width = [], 0, 0
    for row, length in enumerate(lengths):
        wider = max(width, length)
        if row > start and wider * (row + 1 - start) > batch_tokens:
            found.append(slice(start, row))
            start, wider = row, length
        width = wider
    if len(lengths):
        found.append(slice(start, len(lengths)))
    return found
