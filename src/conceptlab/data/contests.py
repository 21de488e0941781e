"""Prompts that say something else than what is known: each with the known answer and the one that the prompt brings."""

from dataclasses import dataclass
from pathlib import Path

from conceptlab.data.records import read_records, texts_of
from conceptlab.data.table import shown


@dataclass(frozen=True)
class Contest:
    """`prompt` ends before the answer and holds `counterfactual` at the characters `span`; `fact` is what is known without it."""

    prompt: str
    fact: str
    counterfactual: str
    span: tuple[int, int]

    @property
    def consistent(self) -> str:
        """The prompt with the fact where the counterfactual stood."""
        return self.prompt[: self.span[0]] + self.fact.strip() + self.prompt[self.span[1] :]

    @property
    def consistent_span(self) -> tuple[int, int]:
        """Where the fact stands in `consistent`."""
        return self.span[0], self.span[0] + len(self.fact.strip())


def contest(prompt: str, fact: str, counterfactual: str) -> Contest:
    """A contest whose counterfactual stands in the prompt. Raises ValueError where it does not."""
    start = prompt.index(counterfactual.strip())
    return Contest(prompt, fact, counterfactual, (start, start + len(counterfactual.strip())))


def read_contests(path: Path | str, *, most: int | None = None) -> list[Contest]:
    """Read CSV, JSON lines or a JSON list with the columns `prompt`, `target_true`, `target_new` (at most `most` rows).

    Raises DataError as `read_records`, and where a prompt does not hold its `target_new` or the two targets are one.
    """
    table = read_records(path, ("prompt", "target_true", "target_new"))
    rows = zip(*(texts_of(table, name) for name in ("prompt", "target_true", "target_new")), strict=True)
    found = []
    for row, (prompt, fact, counterfactual) in enumerate(rows):
        if most is not None and row == most:
            break
        if counterfactual.strip() not in prompt:
            raise table.error(
                row, f"the prompt does not hold its target_new {shown(counterfactual)}; write it where it is said"
            )
        if fact.strip() == counterfactual.strip():
            raise table.error(row, f"target_true and target_new are both {shown(fact)}; drop the row")
        found.append(contest(prompt, fact, counterfactual))
    return found
