"""What detectors of heads look at, each thing made once however many of them ask: random words said twice and said once.

Random words carry no meaning, so what attention does on them it does by position and by identity alone (Elhage et al. 2021; Olsson
et al. 2022). Rows are `<bos>`, where the tokenizer gives one, and 2n words: all different (`said_once`), or n words and the same
again (`said_twice`). What is kept is the attention by lag, mean over the queries of the second half: never a pattern.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from conceptlab.data.indirect_objects import IndirectObjects
from conceptlab.data.ordinals import Ordinals, ordinals_in
from conceptlab.errors import InputError
from conceptlab.find.detector import DRAWS, Behaviour
from conceptlab.find.heads.naming import Naming, common_naming, naming_of
from conceptlab.model import Batch, Model
from conceptlab.model.metric import log_prob, logit_diff

AT_ONCE = 1 << 26  # numbers of attention held at a time
LEAST_WORDS = 3
LITTLE = 0.1  # of a head's attention, or of the words asked: a score that lies no more above its null is of no interest
LENGTHS = 4  # of the rows of the repetition task


@dataclass(eq=False)
class HeadSurvey:
    """`n_rows` rows of 2 x `n_words` words; fewer words where vocabulary or context allow no more.

    `names` are prompts of the indirect-object task for the detectors that need them (default: common first names), `families`
    words in the order of a series (default: numbers, days, months, letters and others)."""

    model: Model
    seed: int = 0
    n_rows: int = 32
    n_words: int = 50
    task_rows: int = 16  # of each task that heads are taken away from, where the survey makes it
    n_draws: int = 50  # of the nulls that cost no forward
    names: IndirectObjects | None = None
    families: Mapping[str, Sequence[str]] | None = None
    _lags: dict[tuple, np.ndarray] = field(default_factory=dict, init=False)

    @cached_property
    def words(self) -> np.ndarray:
        """Token ids that may be drawn: no special tokens, none without a text of its own. Raises InputError without any."""
        tokenizer = self.model.tokenizer
        size = min(self.model.unembedding.shape[0] if self.model.has_logits else len(tokenizer), len(tokenizer))
        special = set(tokenizer.all_special_ids)
        found = [i for i in range(size) if i not in special and tokenizer.decode([i]).strip()]
        if not found:
            raise InputError(f"the tokenizer of {self.model.name} has no words; is tokenizer.json complete?")
        return np.array(found)

    @cached_property
    def prefix(self) -> tuple[int, ...]:
        """What the tokenizer puts before a text."""
        word = self.model.tokenizer.decode([int(self.words[0])])
        first = self.model.encode([word]).ids[0]
        special = set(self.model.tokenizer.all_special_ids)
        return first[:1] if first and first[0] in special else ()

    @cached_property
    def n(self) -> int:
        """Words a half. Raises InputError where there is no room for three."""
        room = (self.model.max_length - len(self.prefix)) // 2
        found = min(self.n_words, len(self.words) // 2, room)
        if found < LEAST_WORDS:
            raise InputError(
                f"{self.model.name} has {len(self.words)} words and a context of {self.model.max_length}; random sequences need "
                f"{2 * LEAST_WORDS} words and as much room"
            )
        return found

    @cached_property
    def said_twice(self) -> Batch:
        """n words, and the same again."""
        return self._rows(self.n_rows, seed=self.seed, twice=True)

    @cached_property
    def said_once(self) -> list[Batch]:
        """2n different words a row: as many sets of rows as it takes for `DRAWS` draws of a null from the lags of each."""
        sets = max(1, -(-DRAWS // len(self.idle_lags(self.n))))
        return [self._rows(self.n_rows, seed=self.seed + 1 + i, twice=False) for i in range(sets)]

    def _rows(self, n_rows: int, *, seed: int, twice: bool) -> Batch:
        rng = np.random.default_rng(seed)
        drawn = [rng.choice(self.words, self.n if twice else 2 * self.n, replace=False).tolist() for _ in range(n_rows)]
        return Batch(tuple((*self.prefix, *row, *row) if twice else (*self.prefix, *row) for row in drawn))

    def idle_lags(self, lag: int) -> np.ndarray:
        """Lags around `lag` that stand for nothing: not the same token, not the one before."""
        low, high = max(2, lag - DRAWS // 2), min(2 * self.n - 1, max(lag + DRAWS // 2, DRAWS + 2))
        return np.array([at for at in range(low, high) if at != lag])

    def at_lag(self, lag: int, *, twice: bool) -> np.ndarray:
        """Mean attention [layer, head] from the second half to the token `lag` before."""
        return self.by_lag(self.said_twice if twice else self.said_once[0])[..., lag]

    def idle(self, lag: int) -> np.ndarray:
        """The same [draw, layer, head] at lags around it, among words that are said once: there is nothing to look for."""
        lags = self.idle_lags(lag)
        return np.concatenate([np.moveaxis(self.by_lag(batch)[..., lags], -1, 0) for batch in self.said_once])

    def by_lag(self, batch: Batch) -> np.ndarray:
        """Mean attention [layer, head, lag] of second-half queries, lags 0 to 2n - 1, without what goes to the prefix.

        NaN for layers whose attention cannot be seen; raises SiteError where that is every layer.
        """
        if batch.ids not in self._lags:
            self._lags[batch.ids] = self._measured(batch)
        return self._lags[batch.ids]

    def _measured(self, batch: Batch) -> np.ndarray:
        model, n, length = self.model, self.n, len(batch.ids[0])
        layers = model.layers_with("pattern")
        if not layers:
            model.tap("pattern", 0)  # says why no layer has it
        total = np.full((model.n_layers, model.n_heads, 2 * n), np.nan)
        total[list(layers)] = 0.0
        queries = list(range(length - n, length))
        each = len(layers) * model.n_heads * n * length
        for begin in range(0, len(batch), step := max(1, AT_ONCE // each)):
            rows = list(range(begin, min(begin + step, len(batch))))
            found = model.capture(batch.select(rows), "pattern", positions=queries)["pattern"]
            found = found.unflatten(0, (len(rows), n)).float()  # [row, query, layer, head, key]
            for lag in range(2 * n):
                keys = torch.arange(length - n, length) - lag
                seen = keys >= len(self.prefix)
                picked = found[:, seen].gather(-1, _index(keys[seen], found, int(seen.sum())))[..., 0]
                total[list(layers), :, lag] += picked.sum((0, 1)).double().numpy() / (n * len(batch))
        return total

    @cached_property
    def naming(self) -> Naming:
        """Prompts with names. Raises InputError where the tokenizer has too few names or the user's prompts do not fit."""
        if self.names is not None:
            return naming_of(self.model, self.names)
        return common_naming(self.model, 2 * self.n_rows, self.seed)

    @cached_property
    def ordinals(self) -> Ordinals:
        """Words that have a next one. Raises InputError where the tokenizer keeps none as single tokens."""
        vocabulary = self.model.tokenizer.get_vocab()
        return ordinals_in(vocabulary, families=self.families, name=f"the tokenizer of {self.model.name}")

    # -- what such heads are for ------------------------------------------------------------------------------------
    def repetition(self) -> Behaviour:
        """The next word of a row that is said again, nats."""
        rng, rows, answers = np.random.default_rng(self.seed), [], []
        ends = (
            len(self.prefix) + self.n + rng.integers(1, self.n, LENGTHS)
        )  # few lengths: rows of one length are swept together
        for row, ids in enumerate(self.said_twice.ids[: self.task_rows]):
            end = int(ends[row % LENGTHS])
            rows.append(ids[:end])
            answers.append(ids[end])
        return Behaviour("a repeated word is foreseen", Batch(tuple(rows)), log_prob(answers))

    def naming_task(self) -> Behaviour:
        """The logit of the name that is said once over the repeated one."""
        batch, answer, repeated = self._names_asked()
        return Behaviour("the right name is said", batch, logit_diff(answer, repeated))

    def holding_back(self) -> Behaviour:
        """The same turned round: what holds the name back."""
        batch, answer, repeated = self._names_asked()
        return Behaviour("the right name is held back", batch, logit_diff(repeated, answer), against=True)

    def _names_asked(self) -> tuple[Batch, list[int], list[int]]:
        naming, rows = self.naming, slice(self.task_rows)
        return Batch(naming.batch.ids[rows]), naming.answer[rows].tolist(), naming.repeated[rows].tolist()


def _index(keys: torch.Tensor, found: torch.Tensor, n: int) -> torch.Tensor:
    shape = (found.shape[0], n, *found.shape[2:4], 1)
    return keys[None, :, None, None, None].expand(shape)
