"""Two abilities as data: prompts matched in form, their corrupted twins, and the answers of both, as tokens of one model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conceptlab.data.answer_pairs import AnswerPairs
from conceptlab.errors import InputError
from conceptlab.model import Batch, Model
from conceptlab.model.answers import first_token_pairs
from conceptlab.model.metric import Metric, logit_diff


@dataclass(frozen=True, eq=False)
class PairedTask:
    """`clean` and `corrupted` rows, with the token ids of what is right after each clean row (`answers`) and after its twin."""

    clean: Batch
    corrupted: Batch
    answers: tuple[int, ...]
    distractors: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def metric(self) -> Metric:
        """logit(answer) - logit(distractor) of every row."""
        return logit_diff(self.answers, self.distractors)

    def take(self, rows: Sequence[int]) -> "PairedTask":
        """Some of the rows."""
        picked = (tuple(ids[i] for i in rows) for ids in (self.answers, self.distractors))
        return PairedTask(self.clean.select(rows), self.corrupted.select(rows), *picked)


def paired_task(model: Model, pairs: AnswerPairs) -> PairedTask:
    """The pairs as tokens. Raises InputError where clean and corrupted differ in length, or answers share their first token."""
    clean, corrupted = model.encode(pairs.clean), model.encode(pairs.corrupted)
    ids = first_token_pairs(model, pairs.clean, pairs.answer, pairs.distractor)
    for row, (a, b) in enumerate(zip(clean.lengths, corrupted.lengths, strict=True)):
        if a != b:
            raise InputError(
                f"{pairs.name}, row {row}: the clean text has {a} tokens and the corrupted one {b}; swap words that are as many "
                "tokens"
            )
    return PairedTask(clean, corrupted, *(tuple(i) for i in ids))


def two_tasks(tasks: Mapping[str, PairedTask], *, fewest: int = 8) -> tuple[str, str]:
    """The names of two tasks of enough rows. Raises InputError where there are not two, or one has fewer than `fewest` rows."""
    if len(tasks) != 2:
        raise InputError(f"{len(tasks)} tasks came ({', '.join(tasks) or 'none'}); give two that are to be told apart")
    for name, task in tasks.items():
        if len(task) < fewest:
            raise InputError(f"the task {name!r} has {len(task)} rows, and {fewest} are needed; give more prompts")
    first, second = tasks
    return first, second
