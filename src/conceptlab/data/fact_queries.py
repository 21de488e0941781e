"""Questions about facts: a prompt that names its subject, the true answer, and what else goes with the subject in texts."""

from dataclasses import dataclass
from pathlib import Path

from conceptlab.data.records import read_records, texts_of
from conceptlab.data.table import shown


@dataclass(frozen=True)
class FactQuery:
    """`prompt` names its `subject` and is continued by the `answer`; `associated` are other answers that go with the subject."""

    prompt: str
    subject: str
    answer: str
    associated: tuple[str, ...] = ()

    @property
    def span(self) -> tuple[int, int]:
        """The characters of the subject in the prompt."""
        start = self.prompt.index(self.subject)
        return start, start + len(self.subject)


def read_fact_queries(path: Path | str, *, most: int | None = None) -> list[FactQuery]:
    """Read CSV, JSON lines or a JSON list with the columns `prompt`, `subject`, `answer`, `associated` (at most `most` rows).

    `associated` are answers separated by `;`, or `-` where none is known. Raises DataError as `read_records`, and where the prompt
    does not hold its subject before its end.
    """
    names = ("prompt", "subject", "answer", "associated")
    table = read_records(path, names)
    found = []
    for row, (prompt, subject, answer, associated) in enumerate(zip(*(texts_of(table, n) for n in names), strict=True)):
        if most is not None and row == most:
            break
        prompt, subject = prompt.rstrip(), subject.strip()
        if subject not in prompt or prompt.endswith(subject):
            raise table.error(
                row, f"the prompt {shown(prompt)} must hold the subject {shown(subject)} before its last word"
            )
        others = () if associated.strip() == "-" else tuple(a.strip() for a in associated.split(";") if a.strip())
        found.append(FactQuery(prompt, subject, answer, others))
    return found
