"""Does a model name the word that a description describes? Few demonstrations, then a description and an arrow.

The prompt is N lines `description ARROW word`, then `description ARROW`; one line is decoded greedily and compared with the word,
and with its synonyms. The stream at the arrow is the concept's vector. Several draws of demonstrations; words that are asked never
stand in one. Variants: `true`; `mismatched`, in which the demonstrations' words are dealt to wrong descriptions; `scrambled`, in
which the words of the descriptions that are asked are dealt anew among all of them (the demonstrations stay).
Source: Xu et al. 2024, On the Tip of the Tongue. Departures: all layers' vectors are kept; no token is put in front that the
tokenizer does not put there itself. Control: the scrambled variant, and answers dealt to other questions.
Cost: a draw runs its demonstrations once; then the tokens of the questions and of the answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from conceptlab.data.dictionary import Entry
from conceptlab.errors import InputError
from conceptlab.model import Model
from conceptlab.model.shared_prefix import continue_all

CARD = {
    "name": "reverse dictionary",
    "paper": "Xu et al. 2024, On the Tip of the Tongue",
    "tags": ["probing", "in-context", "concepts"],
    "takes": "a model, descriptions with words",
    "returns": "Scores",
    "cost": "a forward of the demonstrations a draw, then the questions' tokens",
}
Variant = Literal["true", "mismatched", "scrambled"]
ARROW, NEWLINE = "⇒", "\n"


@dataclass(frozen=True, eq=False)
class Named:
    """`answers` [draw][row], whether each is the word (`exact` [draw, row]) or also a synonym (`right`), how often an answer dealt
    to another question is (`control` [draw]), and the concepts' vectors `stream` [row, layer, d_model], mean over draws."""

    answers: list[list[str]]
    exact: np.ndarray
    right: np.ndarray
    control: np.ndarray
    stream: Tensor


def name_words(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    asked: Sequence[Entry],
    pool: Sequence[Entry],
    *,
    variant: Variant = "true",
    n_demos: int = 24,
    n_draws: int = 5,
    arrow: str = ARROW,
    newline: str = NEWLINE,
    seed: int = 0,
) -> Named:
    """Ask for the words of `asked` after `n_demos` lines drawn from `pool`, `n_draws` times.

    A question whose word stands in a draw's demonstrations is asked after other demonstrations. Raises InputError where the pool
    has no `n_demos` + 1 different words, and as `continue_all`.
    """
    by_word: dict[str, list[Entry]] = {}
    for entry in pool:
        by_word.setdefault(entry.word, []).append(entry)
    if not asked or len(by_word) < n_demos + 1:
        raise InputError(f"{n_demos} demonstrations need {n_demos + 1} different words to choose from, and {len(by_word)} came; "
                         "give more words or fewer demonstrations")  # fmt: skip
    rng = np.random.default_rng(seed)
    n_new = 1 + max(len(ids) for ids in _ids(model, [n for e in asked for n in (e.word, *e.synonyms)]))
    descriptions = [e.description for e in asked]
    if variant == "scrambled":
        descriptions = scrambled(descriptions, rng)
    answers: list[list[str]] = []
    streams = torch.zeros(len(asked), model.n_layers + 1, model.d_model)
    for _ in range(n_draws):
        said, stream = _one_draw(model, asked, descriptions, by_word, variant, n_demos, arrow, newline, n_new, rng)
        answers.append(said)
        streams += stream / n_draws
    exact = np.array([[e.names(a, synonyms=False) for e, a in zip(asked, d, strict=True)] for d in answers])
    right = np.array([[e.names(a) for e, a in zip(asked, d, strict=True)] for d in answers])
    dealt = [rng.permutation(len(asked)) for _ in answers]
    control = np.array(
        [np.mean([asked[j].names(a) for j, a in zip(o, d, strict=True)]) for o, d in zip(dealt, answers, strict=True)]
    )
    return Named(answers, exact, right, control, streams)


def scrambled(descriptions: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The same numbers of words, all words dealt anew among the descriptions."""
    words = [d.split() for d in descriptions]
    pooled = rng.permutation([w for own in words for w in own]).tolist()
    found, at = [], 0
    for own in words:
        found.append(" ".join(pooled[at : at + len(own)]))
        at += len(own)
    return found


def _ids(model: Model, texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    return model.encode([" " + text for text in texts]).ids


def _one_draw(  # noqa: PLR0913 - private half of the method
    model: Model,
    asked: Sequence[Entry],
    descriptions: Sequence[str],
    by_word: dict[str, list[Entry]],
    variant: Variant,
    n_demos: int,
    arrow: str,
    newline: str,
    n_new: int,
    rng: np.random.Generator,
) -> tuple[list[str], Tensor]:
    """Answers and vectors after one set of demonstrations; those words that stand in it are asked after other sets."""
    left, answers = list(range(len(asked))), [""] * len(asked)
    stream = torch.zeros(len(asked), model.n_layers + 1, model.d_model)
    words = sorted(by_word)
    while left:
        free = [words[i] for i in rng.permutation(len(words))]
        need = asked[left[0]].word  # at least one of those that are left is asked
        chosen = [w for w in free if w != need][:n_demos]
        beginning = _demonstrations(
            [by_word[w][rng.integers(len(by_word[w]))] for w in chosen], variant, arrow, newline, rng
        )
        now = [row for row in left if asked[row].word not in set(chosen)]
        found = continue_all(model, beginning, [f"{descriptions[row]} {arrow}" for row in now], n_new)
        for row, ids in zip(now, found.ids.tolist(), strict=True):
            text = model.tokenizer.decode(ids, skip_special_tokens=True)
            answers[row] = text.lstrip().split(newline.strip() or newline)[0].strip()
        stream[now] = found.stream
        left = [row for row in left if row not in set(now)]
    return answers, stream


def _demonstrations(demos: list[Entry], variant: Variant, arrow: str, newline: str, rng: np.random.Generator) -> str:
    words = [e.word for e in demos]
    if variant == "mismatched" and len(words) > 1:
        order = rng.permutation(len(words))
        words = [words[order[(i + 1) % len(order)]] for i in np.argsort(order)]  # a cycle: nobody keeps their own
    return "".join(f"{e.description} {arrow} {word}{newline}" for e, word in zip(demos, words, strict=True))
