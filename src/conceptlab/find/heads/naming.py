"""What the detectors of the indirect-object heads look at, each thing made once: prompts of names, and what heads write of names.

Names are single tokens, so that a prompt is known by three places: the name that is said once (the answer), and the first and the
second saying of the other. Everything is read at the last token. Cost: two forwards of the prompts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from conceptlab.data.indirect_objects import IndirectObjects, indirect_objects
from conceptlab.errors import InputError
from conceptlab.model import Batch, Model
from conceptlab.model.answers import first_token_pairs
from conceptlab.model.frozen_end import FrozenEnd, freeze_end
from conceptlab.model.head_outputs import head_outputs
from conceptlab.model.metric import logit_diff
from conceptlab.model.sweep.plain import plain_values

AT_ONCE = 1 << 26  # numbers held at a time
LEAST_NAMES = 4


@dataclass(eq=False)
class Naming:
    """`batch` of prompts; token ids of the `answer` and the `repeated` name [row]; `places` [row, 3] of the answer, the repeated
    name's first and its second saying; `names`, the token ids of all names."""

    model: Model
    batch: Batch
    answer: np.ndarray
    repeated: np.ndarray
    places: np.ndarray
    names: np.ndarray

    @cached_property
    def writes(self) -> np.ndarray:
        """What each head's output at the last token adds to the logit of each name [row, layer, head, name], norms held.

        NaN for layers whose heads cannot be told apart. Raises SiteError where that is every layer.
        """
        model, layers = self.model, self.model.layers_with("z")
        if not layers:
            model.tap("z", 0)  # says why no layer has it
        found = np.full((len(self.batch), model.n_layers, model.n_heads, len(self.names)), np.nan)
        for rows, layer, outputs, end in self.outputs():
            asked = end.directions(torch.from_numpy(self.names).expand(len(rows), -1)).float()
            found[rows, layer] = torch.einsum("rhd,rnd->rhn", outputs, asked.to(outputs)).double().cpu().numpy()
        return found

    @cached_property
    def logit_difference(self) -> float:
        """The model's own logit of the answer over the repeated name, mean over prompts."""
        metric = logit_diff(self.answer.tolist(), self.repeated.tolist())
        return float(plain_values(self.model, self.batch, (), metric).mean())

    @torch.no_grad()
    def outputs(self) -> Iterator[tuple[list[int], int, Tensor, FrozenEnd]]:
        """Rows, layer, what every head adds at the last token [row, head, d_model], and the end of the model frozen there."""
        model, layers = self.model, self.model.layers_with("z")
        step = max(1, AT_ONCE // (len(layers) * model.n_heads * model.d_model))
        for begin in range(0, len(self.batch), step):
            rows = list(range(begin, min(begin + step, len(self.batch))))
            acts = model.capture(self.batch.select(rows), ["z", "attn_out", "resid_post"])
            end = freeze_end(model, acts.at("resid_post", model.n_layers - 1))
            for layer in layers:
                yield rows, layer, head_outputs(model, acts, layer).each, end

    def for_answer(self, mapping: np.ndarray | None = None) -> np.ndarray:
        """Logit of the answer over the repeated name, as written by each head [layer, head], mean over prompts.

        `mapping` [name] puts another name in the place of every name, the same in all prompts.
        """
        places = np.arange(len(self.names)) if mapping is None else mapping
        at = np.searchsorted(self.names, np.stack([self.answer, self.repeated]))
        right, wrong = places[at]
        row = np.arange(len(self.batch))
        return (self.writes[row, :, :, right] - self.writes[row, :, :, wrong]).mean(0)

    def mappings(self, n: int, seed: int) -> np.ndarray:
        """`n` mappings [draw, name] of which none leaves any name where it is: what is written of the wrong names."""
        rng = np.random.default_rng(seed)
        return np.stack([derangement(len(self.names), rng) for _ in range(n)])


def derangement(n: int, rng: np.random.Generator) -> np.ndarray:
    """A random permutation of n >= 2 things that leaves none in its place."""
    while True:
        drawn = rng.permutation(n)
        if not (drawn == np.arange(n)).any():
            return drawn


def naming_of(model: Model, prompts: IndirectObjects) -> Naming:
    """Find the names in the prompts. Raises InputError, naming the row, where a name is no single token or stands elsewhere."""
    batch = model.encode(prompts.texts)
    answer, repeated = map(np.array, first_token_pairs(model, prompts.texts, prompts.answers, prompts.repeated))
    places = []
    for row, ids in enumerate(batch.ids):
        once, twice = (np.flatnonzero(np.array(ids) == name[row]).tolist() for name in (answer, repeated))
        if len(once) != 1 or len(twice) != 2:
            raise InputError(
                f"row {row}: {prompts.answers[row]!r} must stand in the text once and {prompts.repeated[row]!r} twice, each as "
                f"one token after a space; they stand there {len(once)} and {len(twice)} times"
            )
        places.append([*once, *twice])
    names = np.unique(np.concatenate([answer, repeated]))
    if len(names) < LEAST_NAMES:
        raise InputError(
            f"the prompts have {len(names)} names; at least {LEAST_NAMES} are needed to tell one from another"
        )
    return Naming(model, batch, answer, repeated, np.array(places), names)


def common_naming(model: Model, n: int, seed: int) -> Naming:
    """`n` prompts of common first names for this model's tokenizer.

    Raises InputError as `indirect_objects`, or where names melt into their neighbours there.
    """
    unknown, alone = model.tokenizer.unk_token_id, len(model.encode("and").ids[0])

    def knows(text: str) -> bool:
        ids = model.encode(text).ids[0]
        return unknown is None or unknown not in ids

    def one_token(word: str) -> bool:
        return knows(f"and {word}") and len(model.encode(f"and {word}").ids[0]) == alone + 1

    prompts = indirect_objects(n, one_token=one_token, knows=knows, seed=seed)
    try:
        return naming_of(model, prompts)
    except InputError as error:
        raise InputError(
            f"common first names do not stand alone in this tokenizer ({error}); give prompts of your own with "
            "HeadSurvey(names=IndirectObjects(texts, answers, repeated))"
        ) from error
