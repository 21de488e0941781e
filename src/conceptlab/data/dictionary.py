"""A dictionary to be read backwards: descriptions, the words they describe, and what is known of each word."""

from dataclasses import dataclass
from pathlib import Path

from conceptlab.data.records import read_records, texts_of

COLUMNS = ("description", "word")
MORE = ("synonyms", "category", "features")


@dataclass(frozen=True)
class Entry:
    """A `description` of a `word`; `synonyms` count as right, too. A word may have several entries, all with one `category`
    (empty: none) and the same `features`."""

    description: str
    word: str
    synonyms: tuple[str, ...] = ()
    category: str = ""
    features: tuple[str, ...] = ()

    def names(self, answer: str, *, synonyms: bool = True) -> bool:
        """Whether the answer is the word (or a synonym), but for capitals and blanks around it."""
        right = (self.word, *(self.synonyms if synonyms else ()))
        return answer.strip().casefold() in {name.strip().casefold() for name in right}


def read_dictionary(path: Path | str, *, most: int | None = None) -> list[Entry]:
    """Read CSV, JSON lines or a JSON list with the columns `description`, `word` and, if known, `synonyms`, `category`, `features`.

    Synonyms and features are separated by `;`; `-` stands for none. At most `most` rows. Raises DataError as `read_records`, and
    where a word has two categories.
    """
    table = read_records(path, COLUMNS, MORE)
    columns = [texts_of(table, n) if n in table.columns else ("-",) * len(table.places) for n in (*COLUMNS, *MORE)]
    found: list[Entry] = []
    category_of: dict[str, str] = {}
    for row, (description, word, synonyms, category, features) in enumerate(zip(*columns, strict=True)):
        if most is not None and row == most:
            break
        kind = "" if category.strip() == "-" else category.strip()
        if category_of.setdefault(word, kind) != kind:
            raise table.error(
                row, f"the word {word!r} has the categories {category_of[word]!r} and {kind!r}; give it one"
            )
        found.append(Entry(description.strip(), word.strip(), _listed(synonyms), kind, _listed(features)))
    return found


def _listed(cell: str) -> tuple[str, ...]:
    return () if cell.strip() == "-" else tuple(part.strip() for part in cell.split(";") if part.strip())
