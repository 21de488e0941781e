"""Make the plan: one pass over the corpus, tokenised shard by shard; a pass that was killed goes on after its last shard.

The rows do not depend on who plans or how often it was stopped: a shard's record says at which token of which document the next
one begins.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlab.data.corpus import Corpus, Document
from conceptlab.errors import DataError, InputError
from conceptlab.runs import SILENT, Progress, Task
from conceptlab.runs.ledger import Ledger
from conceptlab.runs.place import Place
from conceptlab.runs.sealed import Damaged, seal, unseal
from conceptlab.store.manifest import Manifest
from conceptlab.store.plan import Plan, finish_plan, own_names, read_plan, shard_tokens, tokens_table, write_table
from conceptlab.store.rows import Cursor, Row, Tokens, rows_of

if TYPE_CHECKING:
    import pyarrow as pa

    from conceptlab.model import Model

TOGETHER = 256  # documents in one call of the tokenizer
END = Cursor(1 << 62)  # after every document
LONGEST = 64 << 20  # characters of one document


def make_plan(place: Place, manifest: Manifest, corpus: Corpus, model: "Model", *, progress: Progress = SILENT) -> Plan:
    """The plan of this store, made or gone on with where it is not finished; another process that plans is waited for.

    Raises DataError for a document that cannot be used (unless the manifest leaves such out) or a corpus without tokens.
    """
    with Ledger(place, "", 0) as ledger, ledger.alone():
        found = read_plan(place)
        if found is None:
            with progress.task("tokenise", None) as task:
                _Planner(place, manifest, corpus, model).run(task)
            found = read_plan(place)
    if found is None:
        raise InputError(f"{place.url} lost its plan while it was written; run the same command again")
    if found.manifest != manifest.id:
        raise InputError(f"{place.url} holds the plan of another store; choose another folder")
    for name in own_names(place, "plan"):
        place.delete(name)
    return found


@dataclass
class _Planner:
    place: Place
    manifest: Manifest
    corpus: Corpus
    model: "Model"

    def run(self, task: Task) -> None:
        """Write the files of every shard, then the plan."""
        pieces = self._pieces()
        begin = Cursor(*pieces[-1]["next"]) if pieces else Cursor()
        tokenised = _Tokeniser(self.model, self.manifest, self.corpus, begin)
        start, before = time.perf_counter(), sum(piece["n_tokens"] for piece in pieces)
        counted, held, rows = before, 0, list[Row]()
        for row in self._rows(tokenised, begin, before):
            rows.append(row)
            counted += len(row)
            held += len(row)
            if held >= self.manifest.shard_tokens:
                task.advance(held)
                speed = (counted - before) / (time.perf_counter() - start)
                task.describe(f"tokenise, {speed:,.0f} tokens/s, limited by the {tokenised.limit}")
                with tokenised.spending("disk"):
                    pieces.append(self._write(len(pieces), begin, rows, tokenised))
                begin, held, rows = rows[-1].next, 0, []
        if rows:
            cut = counted >= (self.manifest.tokens or END.doc)
            pieces.append(self._write(len(pieces), begin, rows, tokenised, end=not cut))
        if not pieces:
            raise DataError(f"{self.corpus.name}: no document has a token; add texts")
        finish_plan(self.place, self.manifest.id, pieces)

    def _rows(self, tokenised: "_Tokeniser", begin: Cursor, counted: int) -> Iterator[Row]:
        """The rows from `begin` on, until there are as many tokens as the manifest allows."""
        limit = self.manifest.tokens or END.doc
        rows = rows_of(iter(tokenised), self.manifest.rows, self.manifest.context, begin.token)  # type: ignore[arg-type]
        while counted < limit and (row := next(rows, None)) is not None:
            counted += len(row)
            yield row

    def _pieces(self) -> list[dict[str, Any]]:
        """Records of the shards that an earlier pass planned, as far as they go on without a gap."""
        found: list[dict[str, Any]] = []
        while (content := self.place.read(_piece_name(len(found)))) is not None:
            try:
                piece = unseal(content)
            except Damaged:
                break
            files = [piece[kind]["name"] for kind in ("tokens", "text") if piece.get(kind)]
            if piece.get("manifest") != self.manifest.id or any(self.place.size(name) is None for name in files):
                break
            found.append(piece)
        for name in own_names(self.place, "plan"):
            if name >= _piece_name(len(found)):
                self.place.delete(name)
        return found

    def _write(
        self, shard: int, begin: Cursor, rows: list[Row], tokenised: "_Tokeniser", *, end: bool = False
    ) -> dict[str, Any]:
        tokens = shard_tokens(rows, self.manifest.positions)
        after = rows[-1].next
        texts, skipped = tokenised.begun(begin, END if end else after)
        piece = {
            "manifest": self.manifest.id,
            "tokens": write_table(self.place, tokens_table(tokens), "tokens", shard),
            "text": write_table(self.place, _text_table(texts), "text", shard) if self.manifest.text else None,
            "n_rows": len(rows),
            "n_tokens": len(tokens.token),
            "n_kept": int(tokens.kept.sum()),
            "first_doc": int(rows[0].doc[0]),
            "n_docs": len(texts),
            "n_skipped": skipped,
            "next": [after.doc, after.token],
        }
        self.place.create(_piece_name(shard), seal(piece))
        return piece


class _Tokeniser:
    """The documents of a corpus from `begin` on, tokenised; remembers the texts until their shard is written."""

    def __init__(self, model: "Model", manifest: Manifest, corpus: Corpus, begin: Cursor) -> None:
        self.model, self.manifest, self.corpus, self.begin = model, manifest, corpus, begin
        self.waiting: list[Document] = []
        self.skipped: list[int] = []
        self._spent = {"corpus": 0.0, "tokenizer": 0.0, "disk": 0.0}  # seconds

    def __iter__(self) -> Iterator[Tokens]:
        documents = iter(self.corpus.documents(self.begin.doc))
        while True:
            with self.spending("corpus"):
                together = list(islice(documents, TOGETHER))
            if not together:
                return
            with self.spending("tokenizer"):
                found = self._tokenised(together)
            yield from found

    @contextmanager
    def spending(self, what: str) -> Iterator[None]:
        """Count the seconds of the body for `what`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[what] += time.perf_counter() - start

    @property
    def limit(self) -> str:
        """What most of the time went to: reading the corpus, the tokenizer, or the disk that takes the plan."""
        return max(self._spent, key=self._spent.__getitem__)

    def begun(self, begin: Cursor, after: Cursor) -> tuple[list[Document], int]:
        """Documents with tokens that begin in a shard from `begin` to `after`, and how many were left out on the way."""
        first, last = begin.doc + (begin.token > 0), after.doc + (after.token > 0)
        texts = [document for document in self.waiting if first <= document.index < last]
        self.waiting = [document for document in self.waiting if document.index >= last]
        skipped = sum(first <= index < last for index in self.skipped)
        self.skipped = [index for index in self.skipped if index >= last]
        return texts, skipped

    def _tokenised(self, documents: list[Document]) -> list[Tokens]:
        usable = [document for document in documents if self._usable(document)]
        self.waiting += usable
        packed = self.manifest.rows == "packed"
        coded = tokenise(self.model, [document.text for document in usable], separate=packed)
        return [Tokens(document.index, *found) for document, found in zip(usable, coded, strict=True)]

    def _usable(self, document: Document) -> bool:
        why = document.fault or _fault(document.text)
        if why is None:
            return True
        if self.manifest.bad_documents == "error":
            raise DataError(f"{self.corpus.name}, {document.place}: {why}; mend it, or leave such out with --skip-bad")
        self.skipped.append(document.index)
        return False


def _fault(text: str) -> str | None:
    if not text.strip():
        return "the text is empty"
    if len(text) > LONGEST:
        return f"the text has {len(text):,} characters, at most {LONGEST:,} are read"
    return None


def tokenise(model: "Model", texts: list[str], *, separate: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids [token] and character offsets [token, 2] of texts, with the special tokens that the tokenizer adds.

    `separate`: where the tokenizer adds none, end each text with its end-of-text token, if it has one. Offsets are -1 where the
    tokenizer gives none. Raises InputError where the model reads no text or the tokenizer is not its own.
    """
    tokenizer = model.tokenizer
    if not model.reads_text or tokenizer is None:
        raise InputError(f"{model.name} has no tokenizer or does not read text alone; choose another model or --stack")
    if not texts:
        return []
    fast = bool(getattr(tokenizer, "is_fast", False))
    coded = tokenizer(texts, return_offsets_mapping=fast, padding=False, truncation=False, verbose=False)
    end = tokenizer.eos_token_id if separate and not tokenizer.num_special_tokens_to_add() else None
    size = getattr(getattr(model.module, "config", None), "vocab_size", None)
    found = []
    for row, ids in enumerate(coded["input_ids"]):
        offsets = np.asarray(coded["offset_mapping"][row] if fast else [(-1, -1)] * len(ids)).reshape(-1, 2)
        ids = np.asarray(ids, dtype=np.int64)
        if end is not None:
            ids, offsets = np.append(ids, end), np.vstack([offsets, np.full((1, 2), len(texts[row]))])
        if isinstance(size, int) and len(ids) and ids.max() >= size:
            raise InputError(
                f"token {ids.max()} is outside the vocabulary of {model.name} ({size}); is this its tokenizer?"
            )
        found.append((ids, offsets))
    return found


def _text_table(documents: list[Document]) -> "pa.Table":
    import pyarrow as pa

    doc = pa.array([d.index for d in documents], pa.int64())
    ids = pa.array([d.id for d in documents], pa.string())
    return pa.table({"doc": doc, "id": ids, "text": pa.array([d.text for d in documents], pa.string())})


def _piece_name(shard: int) -> str:
    return f"plan/{shard:06d}.json"
