"""Answers as tokens: the token that an answer starts with where it follows its own prompt."""

from collections.abc import Sequence

from conceptlab.errors import InputError
from conceptlab.model.model import Model


def first_tokens(model: Model, texts: Sequence[str], answers: Sequence[str]) -> list[int]:
    """The first token id of each answer after its text; a space stands between where neither side brings one.

    Raises InputError, naming the row, where the counts differ, an answer is empty or unknown to the tokenizer, or its beginning
    melts into the text's last token.
    """
    if len(texts) != len(answers):
        raise InputError(f"{len(answers)} answers came with {len(texts)} texts; give one answer a text")
    apart = [
        " " if not text[-1:].isspace() and not answer[:1].isspace() else ""
        for text, answer in zip(texts, answers, strict=True)
    ]
    whole = [text + gap + answer for text, gap, answer in zip(texts, apart, answers, strict=True)]
    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    found = []
    for row, (before, after) in enumerate(zip(model.encode(texts).ids, model.encode(whole).ids, strict=True)):
        at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
        if at < len(before) and before[at] not in special:
            raise InputError(
                f"row {row}: the answer {answers[row]!r} melts into the last token of its text; end the text before a space"
            )
        if at >= len(after) or after[at] in special:
            raise InputError(
                f"row {row}: the answer {answers[row]!r} is empty, or no word that {model.name}'s tokenizer knows"
            )
        found.append(after[at])
    return found


def first_token_pairs(
    model: Model, texts: Sequence[str], answers: Sequence[str], distractors: Sequence[str]
) -> tuple[list[int], list[int]]:
    """First tokens of two answers to each text. Raises InputError, naming the row, also where they share their first token."""
    right, wrong = first_tokens(model, texts, answers), first_tokens(model, texts, distractors)
    same = [row for row, (a, b) in enumerate(zip(right, wrong, strict=True)) if a == b]
    if same:
        more = f" (and {len(same) - 1} other rows do so, too)" if len(same) > 1 else ""
        raise InputError(
            f"row {same[0]}: {answers[same[0]]!r} and {distractors[same[0]]!r} share their first token, so nothing can tell them "
            f"apart{more}; choose answers that differ in it, or drop the rows"
        )
    return right, wrong
