"""Clean and corrupted prompts: the pair that somebody typed, or a task of several pairs of one length that this model can read.

Facts of the embedded world, common first names and a few capitals are offered where the tokenizer knows their words; rows of one
token length are kept, so that a position means the same in each.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from conceptlab.data.answer_pairs import AnswerPairs
from conceptlab.data.indirect_objects import LEAST_NAMES, NAMES, TEMPLATES
from conceptlab.errors import ConceptlabError, InputError
from conceptlab.model import Model
from conceptlab.model.answers import first_token_pairs
from conceptlab.model.metric import Metric, logit_diff

MOST_ROWS = 16
FEWEST_ROWS = 4
CAPITALS = (
    ("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid"), ("Germany", "Berlin"), ("Japan", "Tokyo"), ("China", "Beijing"),
    ("Russia", "Moscow"), ("Egypt", "Cairo"), ("England", "London"), ("Greece", "Athens"), ("Poland", "Warsaw"), ("Iran", "Tehran"),
)  # fmt: skip

Row = tuple[str, str, str, str]  # clean, corrupted, answer, distractor
_known: "WeakKeyDictionary[Model, dict[str, AnswerPairs]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class PairAsked:
    """What is patched: the pair as typed, or all rows of the task that is named."""

    clean: str = ""
    corrupted: str = ""
    answer: str = ""
    distractor: str = ""
    task: str = ""

    @property
    def complete(self) -> bool:
        """Whether there is something to run."""
        return bool(self.task) or all((self.clean, self.corrupted, self.answer.strip(), self.distractor.strip()))

    def pairs(self, model: Model) -> AnswerPairs:
        """The rows. Raises InputError where something is missing or the same on both sides, or the task is not known."""
        if self.task:
            found = pair_tasks(model)
            if self.task not in found:
                raise InputError(f"no task {self.task[:40]!r} for {model.name}; there are {', '.join(found) or 'none'}")
            return found[self.task]
        if not self.complete:
            raise InputError(
                "give a clean and a corrupted prompt, the answer to the clean one, and the answer to the corrupted one"
            )
        if self.clean == self.corrupted:
            raise InputError("clean and corrupted are the same text; change what the answer depends on")
        if self.answer.strip() == self.distractor.strip():
            raise InputError(f"answer and distractor are both {self.answer.strip()[:40]!r}; give two different words")
        return AnswerPairs("typed", (self.clean,), (self.corrupted,), (self.answer,), (self.distractor,))


def pair_metric(model: Model, pairs: AnswerPairs) -> Metric:
    """logit(answer) - logit(distractor). Raises InputError where they share their first token, or the tokenizer knows neither."""
    return logit_diff(*first_token_pairs(model, pairs.clean, pairs.answer, pairs.distractor))


def pair_tasks(model: Model) -> dict[str, AnswerPairs]:
    """The tasks whose words this model's tokenizer knows, by name."""
    if model not in _known:
        made = {name: _fitting(model, name, rows) for name, rows in _tasks(model)}
        _known[model] = {name: pairs for name, pairs in made.items() if pairs is not None}
    return _known[model]


def _tasks(model: Model) -> Iterator[tuple[str, list[Row]]]:
    yield "capitals of the embedded world", _facts("The capital of {} is", "capital")
    yield "languages of the embedded world", _facts("The language of {} is", "language")
    yield "to whom it is given", _giving(model)
    yield "capitals", _turned([("The capital of {} is", *fact) for fact in CAPITALS])


def _facts(wording: str, relation: str) -> list[Row]:
    """One fact of every country of the embedded world against the next country's."""
    from conceptlab.worlds.default.world import world

    return _turned([(wording, c.name, getattr(c, relation)) for c in world().countries.values()])


def _turned(facts: Sequence[tuple[str, str, str]]) -> list[Row]:
    """Each subject beside the next one."""
    pairs = zip(facts, [*facts[1:], *facts[:1]], strict=True)
    return [(wording.format(a), wording.format(b), x, y) for (wording, a, x), (_, b, y) in pairs if x != y]


def _giving(model: Model) -> list[Row]:
    """Who is given something: the name that is said once (Wang et al. 2023); corrupted, the other one is said twice."""
    names = [name for name in NAMES if len(_ids(model, f" {name}")) == 1 and _reads(model, f" {name}")]
    if len(names) < LEAST_NAMES:
        return []
    pairs = list(zip(names, [*names[1:], names[0]], strict=True))
    return [
        (template.format(a=a, b=b, s=a), template.format(a=a, b=b, s=b), b, a)
        for a, b in pairs[:MOST_ROWS]
        for template in TEMPLATES[:1]
    ]


def _ids(model: Model, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def _reads(model: Model, text: str) -> bool:
    """Whether no word is unknown to the tokenizer."""
    unknown = model.tokenizer.unk_token_id
    return unknown is None or unknown not in _ids(model, text)


def _fitting(model: Model, name: str, rows: Sequence[Row]) -> AnswerPairs | None:
    """The rows that the model can read and score, of the most frequent length; None for too few."""
    by_length: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if all(_reads(model, text) for text in (*row[:2], f"{row[0]} {row[2]}", f"{row[0]} {row[3]}")):
            clean, corrupted = model.encode(row[:2]).lengths
            if clean == corrupted and _scored(model, row):
                by_length[clean].append(row)
    kept = max(by_length.values(), key=len, default=[])[:MOST_ROWS]
    return AnswerPairs(name, *map(tuple, zip(*kept, strict=True))) if len(kept) >= FEWEST_ROWS else None  # type: ignore[arg-type]


def _scored(model: Model, row: Row) -> bool:
    try:
        first_token_pairs(model, row[:1], row[2:3], row[3:])
    except ConceptlabError:
        return False
    return True
