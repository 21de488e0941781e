"""Which token is the filler, and which steps it stands for, from two texts of one length: steps hidden and steps written out."""

from collections import Counter
from collections.abc import Sequence

from conceptlab.errors import InputError
from conceptlab.model import Model
from conceptlab.model.model import Texts


def filler_steps(model: Model, hidden: Texts, written: Texts) -> tuple[int, list[list[int]]]:
    """The filler's token id, and the tokens [row][filler of the row] that `written` has where `hidden` has fillers.

    The filler is the token that `hidden` has most often where the two differ; a mark of the form that differs too is no filler.
    Raises InputError, naming the row: another number of tokens, no difference, a filler that stands in both.
    """
    first, second = model.encode(hidden).ids, model.encode(written).ids
    if len(first) != len(second):
        raise InputError(f"{len(second)} written texts came with {len(first)} hidden ones; give them in pairs")
    pairs = list(zip(first, second, strict=True))
    for row, (a, b) in enumerate(pairs):
        if len(a) != len(b):
            raise InputError(
                f"row {row}: {len(a)} tokens with fillers and {len(b)} with steps written; a step must be one token, as a filler is"
            )
        if a == b:
            raise InputError(f"row {row}: nothing differs between fillers and written steps; drop the row")
    filler = Counter(x for a, b in pairs for x, y in zip(a, b, strict=True) if x != y).most_common(1)[0][0]
    steps = [_steps_of(row, a, b, filler) for row, (a, b) in enumerate(pairs)]
    return filler, steps


def _steps_of(row: int, hidden: Sequence[int], written: Sequence[int], filler: int) -> list[int]:
    steps = [after for before, after in zip(hidden[1:], written[1:], strict=True) if before == filler]
    if not steps or filler in steps:
        raise InputError(
            f"row {row}: the filler (token {filler}) is {'kept where a step should be' if steps else 'not there'}; write each step"
        )
    return steps
