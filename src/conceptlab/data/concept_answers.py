"""Prompts with their answers, each answer a word of a named concept: colours, numbers, countries, …"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conceptlab.data.records import read_records, texts_of
from conceptlab.errors import InputError
from conceptlab.model import Model


@dataclass(frozen=True)
class ConceptAnswer:
    """`text` up to its `answer`, a word of `concept`."""

    text: str
    answer: str
    concept: str


def read_concept_answers(path: Path | str, *, most: int | None = None) -> list[ConceptAnswer]:
    """Read CSV, JSON lines or a JSON list with the columns `text`, `answer`, `concept`. Raises DataError as `read_records`."""
    table = read_records(path, ("text", "answer", "concept"))
    columns = [texts_of(table, name) for name in ("text", "answer", "concept")]
    return [ConceptAnswer(*cells) for cells in zip(*columns, strict=True)][:most]


def single_tokens(model: Model, words: Sequence[str]) -> dict[str, int]:
    """The token of each word that is one token, with a space before it or without. Raises InputError where fewer than two are."""
    found: dict[str, int] = {}
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    for word in dict.fromkeys(word.strip() for word in words):
        for text in (f" {word}", word):
            ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) == 1 and ids[0] != unknown:
                found.setdefault(word, ids[0])
    if len(set(found.values())) < 2:
        raise InputError(
            f"{len(found)} of {len(set(words))} words are one token for {model.name}'s tokenizer, a concept needs two; use others"
        )
    return found
