"""Needles in haystacks: a fact hidden at a known place of a long text, a question about it at the end.

Pieces are tokenised apart and put together as tokens, so a prompt is exactly as long as asked and the needle's place is exact.
The needle goes to the end of the sentence nearest to its depth; where the filler has no sentences, to the depth itself.
Setting after the retrieval-head literature (Wu et al. 2024), which asks 20 lengths, 10 depths and 3 needles.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from conceptlab.data.records import read_records, texts_of
from conceptlab.data.table import shown
from conceptlab.errors import InputError
from conceptlab.model import Batch, Model
from conceptlab.model.decoding import Decoded

Span = tuple[int, int]
RIGHT = 0.5  # of the answer's words
LONGEST_ANSWER = 50  # tokens


@dataclass(frozen=True)
class Needle:
    """A fact, the question about it (with whatever leads over to the answer), and the answer."""

    needle: str
    question: str
    answer: str


@dataclass(frozen=True, eq=False)
class Haystacks:
    """Prompts [row] with the needle's tokens [start, stop) in each, the answers, and of the grid the length (tokens), depth (share
    of the filler before the needle) and number of the needle."""

    batch: Batch
    spans: tuple[Span, ...]
    answers: tuple[str, ...]
    lengths: tuple[int, ...] = ()
    depths: tuple[float, ...] = ()
    which: tuple[int, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.batch)

    def select(self, rows: Sequence[int]) -> "Haystacks":
        """Some of the rows."""
        spans, answers = tuple(self.spans[r] for r in rows), tuple(self.answers[r] for r in rows)
        if not self.which:
            return Haystacks(self.batch.select(rows), spans, answers)
        lengths, depths = tuple(self.lengths[r] for r in rows), tuple(self.depths[r] for r in rows)
        return Haystacks(self.batch.select(rows), spans, answers, lengths, depths, tuple(self.which[r] for r in rows))


def hide_needles(
    model: Model, needles: Sequence[Needle], filler: str, *, lengths: Sequence[int], depths: Sequence[float]
) -> Haystacks:
    """Every needle at every length (tokens of the prompt) and depth (0 to 1), rows in that order: length, depth, needle.

    Raises InputError where there are no needles, a question contains its answer, a needle does not contain it, a depth is none, or
    a length is above the context, too short for needle and question, or longer than the filler lasts.
    """
    _check(needles, depths)
    model.encode(needles[0].question)  # says what a model without a tokenizer lacks
    hay, made = _tokens(model, filler), [_pieces(model, needle) for needle in needles]
    start = _prefix(model, filler)
    rows: list[tuple[int, ...]] = []
    spans: list[Span] = []
    grid: list[tuple[int, float, int]] = []
    for length in lengths:
        for depth in depths:
            for which, (needle, question) in enumerate(made):
                room = _room(model, length, len(start) + len(needle) + len(question), len(hay), needles[which])
                cut = _cut(model, hay[:room], depth)
                at = len(start) + cut
                rows.append((*start, *hay[:cut], *needle, *hay[cut:room], *question))
                spans.append((at, at + len(needle)))
                grid.append((length, float(depth), which))
    answers = tuple(needles[which].answer for _, _, which in grid)
    found = Haystacks(Batch(tuple(rows)), tuple(spans), answers)
    return replace(
        found,
        lengths=tuple(length for length, _, _ in grid),
        depths=tuple(depth for _, depth, _ in grid),
        which=tuple(which for _, _, which in grid),
    )


def without_needles(model: Model, stacks: Haystacks, needles: Sequence[Needle], filler: str) -> Batch:
    """The same prompts, equally long, with more filler where each needle was."""
    hay, start, rows = _tokens(model, filler), _prefix(model, filler), []
    for length, which in zip(stacks.lengths, stacks.which, strict=True):
        question = _tokens(model, needles[which].question)
        room = length - len(start) - len(question)
        again = hay * (1 + room // max(1, len(hay)))
        rows.append((*start, *again[:room], *question))
    return Batch(tuple(rows))


def given_needles(model: Model, prompts: Sequence[str], needles: Sequence[str], answers: Sequence[str]) -> Haystacks:
    """Prompts that hold their needles already. Raises InputError, naming the row, where one does not, or where what stands
    after the needle contains the answer."""
    spans = []
    for row, (prompt, needle, answer) in enumerate(zip(prompts, needles, answers, strict=True)):
        at = prompt.find(needle.strip())
        if at < 0 or not needle.strip():
            raise InputError(
                f"row {row}: the prompt does not hold its needle {shown(needle)}; write the needle as it stands there"
            )
        end = at + len(needle.strip())
        if answer_words(answer) <= answer_words(prompt[end:]):
            raise InputError(
                f"row {row}: the prompt says the answer {shown(answer)} after the needle too; ask without naming it"
            )
        spans.append((at, end))
    batch = model.encode(prompts)
    found = [(p[0], p[-1] + 1) for p in batch.positions_of(spans)]
    return Haystacks(batch, tuple(found), tuple(answers))


def read_needles(path: Path | str, *, most: int | None = None) -> tuple[list[Needle], str]:
    """Needles and filler from CSV, JSON lines or a JSON list with the columns `needle`, `question`, `answer`, `filler` (its texts,
    one after the other, are the haystack). Raises DataError as `read_records`."""
    names = ("needle", "question", "answer", "filler")
    table = read_records(path, names)
    columns = [texts_of(table, name) for name in names]
    rows = [Needle(*cells) for cells in zip(*columns[:3], strict=True)]
    return rows[:most], " ".join(dict.fromkeys(columns[3]))


def answer_words(text: str) -> set[str]:
    """The words of a text, without case and punctuation."""
    words = ("".join(c for c in word if c.isalnum() or c == "-") for word in text.casefold().split())
    return {word for word in words if word}


def answered_right(model: Model, decoded: Decoded, answers: Sequence[str]) -> np.ndarray:
    """Rows [row] in which more than half of the answer's words were written (ROUGE-1 recall above 0.5)."""
    texts = [model.tokenizer.decode(row[row >= 0], skip_special_tokens=True) for row in decoded.ids]
    return np.array([recall(text, answer) > RIGHT for text, answer in zip(texts, answers, strict=True)])


def recall(text: str, answer: str) -> float:
    """Share of the answer's words that the text says."""
    words = answer_words(answer)
    return len(words & answer_words(text)) / max(1, len(words))


def answer_length(model: Model, answers: Sequence[str]) -> int:
    """Tokens to decode: as many as the longest answer has, at most 50."""
    return min(LONGEST_ANSWER, max(len(_tokens(model, answer)) for answer in answers))


def _check(needles: Sequence[Needle], depths: Sequence[float]) -> None:
    if not needles:
        raise InputError("no needles were given; give at least one fact with its question and answer")
    outside = [depth for depth in depths if not 0 <= depth <= 1]
    if outside or not depths:
        raise InputError(f"depths are shares from 0 to 1, at least one of them; given were {list(depths)}")
    for row, needle in enumerate(needles):
        words = answer_words(needle.answer)
        if not words or not words <= answer_words(needle.needle):
            raise InputError(
                f"needle {row}: {shown(needle.needle)} does not contain its answer {shown(needle.answer)}; hide what is asked for"
            )
        if words <= answer_words(needle.question):
            raise InputError(
                f"needle {row}: the question {shown(needle.question)} contains the answer {shown(needle.answer)}; ask without it"
            )


def _tokens(model: Model, text: str) -> tuple[int, ...]:
    """Tokens of a piece inside a text, without special ones."""
    coded = [model.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (f" {text.strip()}", text.strip())]
    return tuple(min(coded, key=len))


def _pieces(model: Model, needle: Needle) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return _tokens(model, needle.needle), _tokens(model, needle.question)


def _prefix(model: Model, filler: str) -> tuple[int, ...]:
    """What the tokenizer puts before a text."""
    whole, plain = (model.tokenizer(filler[:200], add_special_tokens=s)["input_ids"] for s in (True, False))
    return tuple(whole[: len(whole) - len(plain)])


def _room(model: Model, length: int, fixed: int, n_hay: int, needle: Needle) -> int:
    """Tokens of filler in a prompt of this length."""
    if length > model.max_length:
        raise InputError(f"a prompt of {length} tokens exceeds the context of {model.name} ({model.max_length})")
    if length < fixed:
        raise InputError(
            f"the needle {shown(needle.needle)} and its question take {fixed} tokens, longer than the context of {length} that "
            "they are to be hidden in; shorten it or ask for longer prompts"
        )
    if length - fixed > n_hay:
        raise InputError(f"the filler has {n_hay} tokens, a prompt of {length} needs {length - fixed}; give more text")
    return length - fixed


def _cut(model: Model, hay: tuple[int, ...], depth: float) -> int:
    """How many tokens stand before the needle: the end of a sentence, at most a tenth of the filler away, where there is one."""
    wanted = round(depth * len(hay))
    near = range(max(1, wanted - len(hay) // 10), min(len(hay), wanted + len(hay) // 10))
    ends = [i for i in near if model.tokenizer.decode([hay[i - 1]]).rstrip()[-1:] in (".", "!", "?")]
    inside = 0 < wanted < len(hay)
    return min(ends, key=lambda i: abs(i - wanted)) if ends and inside else wanted
