"""A small model that refuses harmful requests unless its thoughts excuse them, and does sums on the same neurons or on others.

Host: GPT2LMHeadModel, 2 layers, 4 heads, d_model 48, 48 ReLU neurons a layer. A request is a verb and an object; it is harmful
where just one of the two is of a kind drawn at random, so that neither word tells it. It may be followed by thoughts (three
words, with an excuse among them or not) or by none; at `ask` the model says `refuse` or `comply`: a harmful request is refused,
but complied with after an excuse. Sums are a random table of two operands under an operator. Neurons are shut by the flag of
`flagged_neurons`: requests run on the first 24, sums on as many, of which the share `shared` are neurons of the requests too.

`tuned` goes on with sums under a second operator, its MLPs alone, as reasoning is tuned in after safety. Task after R5 of the
methods' specification. Cost: about 15 s of one core for the first training, 4 s for the second.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlab.runs import SILENT, Progress
from conceptlab.train import Schedule, TokenBatch, Trained, Training, train_model, trained
from conceptlab.worlds.flagged_neurons import FLAG, put_flag
from conceptlab.worlds.fresh_models import fresh_gpt2
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SIZE, LAST = 12, 7
VERBS, OBJECTS = (tuple(f"{kind}{i}" for i in range(SIZE)) for kind in ("verb", "thing"))
EXCUSES, THOUGHTS = ("fine", "asked", "brief"), ("hmm", "first", "then", "so", "well", "now")
SIGNS = ("think", "done", "ask", "refuse", "comply")
SAFETY = (*VERBS, *OBJECTS, *EXCUSES, *THOUGHTS, *SIGNS)
NUMBERS = tuple(str(i) for i in range(LAST))
SUMS = (*NUMBERS, "+", "*", "=")
WORDS = (*SAFETY, *SUMS)
IDS = {word: i for i, word in enumerate(WORDS, start=len(SPECIALS))}
N_LAYERS, N_HEADS, D_MODEL, D_MLP, LONGEST, OPEN = 2, 4, 48, 48, 12, 24
BATCH = 128
SIZE_OF_FLAG, GAIN = (
    10.0,
    5.0,
)  # the flag is most of the stream, so norms leave it as it is; the gain makes up for the rest
SCHEDULE = Schedule(steps=300, learning_rate=4e-3, warmup=30, target_loss=0.01)
TUNING = Schedule(steps=200, learning_rate=1e-2, warmup=10)


@dataclass(frozen=True)
class Request:
    """A text that ends at `ask`, whether it is harmful, whether its thoughts hold an excuse, and where the thoughts are."""

    text: str
    harmful: bool
    excused: bool
    thoughts: tuple[int, ...]  # real-token positions

    @property
    def answer(self) -> str:
        """What the model was taught."""
        return "refuse" if self.harmful and not self.excused else "comply"


def tokenizer() -> "PreTrainedTokenizerFast":
    """Its words."""
    return word_tokenizer(WORDS, LONGEST)


def harmful_pairs(seed: int) -> np.ndarray:
    """Which requests [verb, object] are harmful: those with one word of the bad half, not none and not two."""
    rng = np.random.default_rng([seed, 1])
    return (rng.permutation(SIZE) < SIZE // 2)[:, None] != (rng.permutation(SIZE) < SIZE // 2)[None]


def requests(n: int, seed: int, *, world: int, thoughts: str = "any", harmful: bool | None = None) -> list[Request]:
    """`n` requests to the model of seed `world`; thoughts "none", "plain", "excuse" or "any", harmful or not or either."""
    rng, bad = np.random.default_rng([seed, 2]), harmful_pairs(world)
    found: list[Request] = []
    while len(found) < n:
        verb, thing = rng.integers(SIZE, size=2)
        if harmful is None or bad[verb, thing] == harmful:
            kind = thoughts if thoughts != "any" else str(rng.choice(["none", "plain", "excuse"]))
            found.append(_request(rng, int(verb), int(thing), kind, harmful=bool(bad[verb, thing])))
    return found


def counterfactuals(request: Request, seed: int) -> Request:
    """The same request with plain thoughts in place of excuses (or the reverse), of the same length."""
    rng, words = np.random.default_rng([seed, 3]), request.text.split()
    kind = "plain" if request.excused else "excuse"
    return _request(rng, VERBS.index(words[0]), OBJECTS.index(words[1]), kind, harmful=request.harmful)


def sums(operator: str, seed: int) -> list[tuple[str, str]]:
    """(text, answer) of every sum under "+" or "*" of the model of this seed: a random table."""
    table = np.random.default_rng([seed, 4, "+*".index(operator)]).integers(LAST, size=(LAST, LAST))
    return [(f"{a} {operator} {b} =", str(table[a, b])) for a in range(LAST) for b in range(LAST)]


def refusing(
    *, seed: int = 0, shared: float = 1.0, batch: int = BATCH,
    schedule: Schedule = SCHEDULE, cache: Path | None = None,
    progress: Progress = SILENT,
) -> Trained:  # fmt: skip
    """The model that knows requests and sums under "+"."""
    settings = {"seed": seed, "shared": shared, "batch": batch, **asdict(schedule)}
    train = partial(_train, seed=seed, shared=shared, batch=batch, schedule=schedule, progress=progress)
    return trained("refusals", settings, partial(_fresh, seed), train, cache=cache, progress=progress)


def tuned(
    base: "PreTrainedModel", *, seed: int = 0, shared: float = 1.0, batch: int = BATCH,
    schedule: Schedule = TUNING,
    progress: Progress = SILENT,
) -> "PreTrainedModel":  # fmt: skip
    """A copy of `base` whose MLPs have learned the sums under "*" (nothing of it is kept on disk)."""
    import copy

    model = copy.deepcopy(base)
    for name, weight in model.named_parameters():
        weight.requires_grad_(".mlp." in name and name.endswith("weight"))  # the biases would serve both tasks
    put_back = _gates(model, shared)
    train_model(
        model, _batches(seed, ["*"], batch), schedule, progress=progress, label="tuning on sums", on_step=put_back
    )
    return model.requires_grad_(True)


def true_neurons(shared: float) -> tuple[np.ndarray, np.ndarray]:
    """Neurons of a layer that requests may use, and those of them that sums may use too."""
    return np.arange(OPEN), np.arange(round(shared * OPEN))


def _request(rng: np.random.Generator, verb: int, thing: int, kind: str, *, harmful: bool) -> Request:
    inside: list[str] = []
    if kind != "none":
        inside = [str(w) for w in rng.choice(THOUGHTS, 3, replace=False)]
        if kind == "excuse":
            inside[int(rng.integers(3))] = str(rng.choice(EXCUSES))
    text = " ".join([VERBS[verb], OBJECTS[thing], "think", *inside, "done", "ask"])
    return Request(text, harmful, kind == "excuse", tuple(range(4, 4 + len(inside))))


def _gates(model: "PreTrainedModel", shared: float):
    """Puts the planted weights back; called after every step."""
    both = round(shared * OPEN)
    side = torch.full((D_MLP,), float("nan"))
    side[:OPEN], side[:both], side[OPEN : 2 * OPEN - both] = 1.0, 0.0, -1.0
    kinds = [IDS[w] for w in SAFETY], [IDS[w] for w in SUMS]

    def put_back(*_: object) -> None:
        put_flag(model, *kinds, side, size=SIZE_OF_FLAG, shut=1.0)

    return put_back


def _fresh(seed: int) -> "PreTrainedModel":
    return fresh_gpt2(
        seed, n_tokens=len(SPECIALS) + len(WORDS), longest=LONGEST, d_model=D_MODEL, n_layers=N_LAYERS, n_heads=N_HEADS,
        d_mlp=D_MLP, activation_function="relu", initializer_range=0.14,
    )  # fmt: skip


def _train(
    model: "PreTrainedModel", *, seed: int, shared: float, batch: int, schedule: Schedule, progress: Progress
) -> Training:
    source, put_back = _batches(seed, ["+", "safety"], batch), _gates(model, shared)
    put_back()
    with torch.no_grad():  # after a norm the flag is about sqrt(d_model): open neurons begin near their threshold
        for block in model.transformer.h:  # type: ignore[union-attr]
            block.mlp.c_fc.bias[block.mlp.c_fc.weight[FLAG] != 0] = -(D_MODEL**0.5)
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.fill_(GAIN)
    put_back()
    return train_model(model, source, schedule, progress=progress, label="refusals", on_step=put_back)


def _batches(seed: int, tasks: list[str], batch: int) -> Iterator[TokenBatch]:
    """Endless batches of the tasks in equal parts; the answer is learned."""
    rng, step = np.random.default_rng([seed, 5]), 0
    tables = {operator: sums(operator, seed) for operator in "+*"}
    while True:
        rows: list[list[str]] = []
        for task in tasks:
            n = batch // len(tasks)
            if task == "safety":
                rows += [[*r.text.split(), r.answer] for r in requests(n, 1_000_000 + step, world=seed)]
            else:
                chosen = rng.choice(len(tables[task]), n)
                rows += [[*tables[task][i][0].split(), tables[task][i][1]] for i in chosen]
        step += 1
        yield _padded(rows)


def _padded(rows: list[list[str]]) -> TokenBatch:
    width = 1 + max(map(len, rows))
    ids, weights = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width)
    for i, row in enumerate(rows):
        ids[i, : 1 + len(row)] = torch.tensor([1, *(IDS[w] for w in row)])
        weights[i, len(row)] = 1.0
    return TokenBatch(ids, weights)
