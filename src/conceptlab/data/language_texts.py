"""Texts by language, those of one `pair` being translations of each other."""

from dataclasses import dataclass
from pathlib import Path

from conceptlab.data.records import read_records, texts_of
from conceptlab.errors import DataError

FEWEST = 3


@dataclass(frozen=True)
class LanguageTexts:
    """`corpora` by language, and `parallel`: of pairs of languages, two lists of translations row by row."""

    corpora: dict[str, list[str]]
    parallel: dict[tuple[str, str], tuple[list[str], list[str]]]


def read_language_texts(path: Path | str, *, most: int | None = None) -> LanguageTexts:
    """Read CSV, JSON lines or a JSON list with the columns `language`, `text` and, optional, `pair` (at most `most` texts a
    language).

    Raises DataError as `read_records`, and for a single language or fewer than two texts of one.
    """
    table = read_records(path, ("language", "text"), ("pair",))
    languages, texts = texts_of(table, "language"), texts_of(table, "text")
    pairs = texts_of(table, "pair") if "pair" in table.columns else ("",) * len(texts)
    corpora: dict[str, list[str]] = {}
    by_pair: dict[str, dict[str, str]] = {}
    for language, text, pair in zip(languages, texts, pairs, strict=True):
        mine = corpora.setdefault(language, [])
        if most is None or len(mine) < most:
            mine.append(text)
            by_pair.setdefault(pair, {})[language] = text
    short = [name for name, mine in corpora.items() if len(mine) < 2]
    if len(corpora) < 2 or short:
        raise DataError(
            f"{path}: {len(corpora)} languages, {len(short)} of them with one text; give two texts of two or more"
        )
    names = list(corpora)
    parallel = {(a, b): _both(by_pair, a, b) for i, a in enumerate(names) for b in names[i + 1 :]}
    return LanguageTexts(corpora, {key: two for key, two in parallel.items() if len(two[0]) >= FEWEST})


def _both(by_pair: dict[str, dict[str, str]], one: str, other: str) -> tuple[list[str], list[str]]:
    rows = [texts for pair, texts in by_pair.items() if pair and one in texts and other in texts]
    return [row[one] for row in rows], [row[other] for row in rows]
