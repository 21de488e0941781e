"""A small transformer trained on what concepts have, in two languages, one of which it reads far less of.

Six concepts in each of three categories; a category has four properties, and each of its concepts another two of them. Texts are
`<bos> the CONCEPT has PROPERTY ? right` and `<bos> ask the C1 has P or the C2 has P ? first`, in which the true sentence has to be
named; what is false is judged (`wrong`) and never said. Each language has words of its own for everything but the words of the
question. Negatives are `random` (a concept of another category) or, in one text of ten, `similar` (of the same category, without
that property). Every concept and every property is as often right as wrong, so that single words tell nothing. All facts have been
read, as a language model has read them; a property's sentences are probed by what others taught. In the null twin verdicts and
statements are drawn at random, so there is nothing to know. Ordinary LlamaForCausalLM of two layers; nothing inside is planted.
Shares and steps were chosen on seeds 100 and 101. Task after the row's own check. Cost: about 4 s of one core.
"""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlab.data.concept_pairs import ConceptPair
from conceptlab.runs import SILENT, Progress
from conceptlab.train import Schedule, TokenBatch, Trained, train_model, trained
from conceptlab.worlds.fresh_models import fresh_llama
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

N_CATEGORIES, N_PROPERTIES = 3, 4
OWNED = tuple(combinations(range(N_PROPERTIES), 2))  # the properties of the six concepts of a category
LANGUAGES = {"often": ("the", "has"), "seldom": ("das", "hat")}
SHARE = 0.05  # of the texts in the second language
LABELS, VERDICTS = ("first", "second"), ("right", "wrong")
HARD, ASKS = 0.1, 0.5  # shares of texts with a similar negative, and of questions
N_LAYERS, N_HEADS, D_MODEL, LONGEST, BATCH = 2, 4, 64, 32, 96
SCHEDULE = Schedule(steps=110, learning_rate=1.5e-2, warmup=30, optimizer="muon")
ASKED = "ask {first} or {second} ?"
KINDS = ("random", "similar")


def _concept(language: str, category: int, i: int) -> str:
    return f"{language[0]}c{category}{i}"


def _property(language: str, category: int, p: int) -> str:
    return f"{language[0]}p{category}{p}"


_N = len(OWNED)
CONCEPTS = {name: [_concept(name, k, i) for k in range(N_CATEGORIES) for i in range(_N)] for name in LANGUAGES}
PROPERTIES = {
    name: [_property(name, k, p) for k in range(N_CATEGORIES) for p in range(N_PROPERTIES)] for name in LANGUAGES
}
WORDS = (
    *(w for name, pair in LANGUAGES.items() for w in (*pair, *CONCEPTS[name], *PROPERTIES[name])), "ask", "or", "?", *LABELS,
    *VERDICTS,
)  # fmt: skip


def all_pairs() -> list[tuple[str, int, int, int]]:
    """Every pair (kind, property, acceptable concept, unacceptable concept), with the numbers that both languages share."""
    found = []
    for k in range(N_CATEGORIES):
        for p in range(N_PROPERTIES):
            has = [i for i, own in enumerate(OWNED) if p in own]
            lacks = [i for i in range(_N) if i not in has]
            for good in has:
                found += [("similar", k * N_PROPERTIES + p, k * _N + good, k * _N + bad) for bad in lacks]
                for step in range(1, N_CATEGORIES):  # two of every other category
                    other = (k + step) % N_CATEGORIES * _N
                    found += [("random", k * N_PROPERTIES + p, k * _N + good, other + (good + i) % _N) for i in (0, 3)]
    return found


def bilingual_pairs() -> list[ConceptPair]:
    """All pairs in both languages."""
    found = []
    for language, (the, has) in LANGUAGES.items():
        concepts, properties = CONCEPTS[language], PROPERTIES[language]
        for kind, p, good, bad in all_pairs():
            found.append(ConceptPair(
                language, properties[p], concepts[good], concepts[bad], f"{the} {concepts[good]}", f"{the} {concepts[bad]}",
                f"{has} {properties[p]}", kind,
            ))  # fmt: skip
    return found


def bilingual_tokenizer() -> "PreTrainedTokenizerFast":
    """Its words."""
    return word_tokenizer(WORDS, LONGEST)


def trained_bilingual(
    *,
    seed: int = 0,
    null: bool = False,
    schedule: Schedule = SCHEDULE,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> Trained:
    """The trained model (from the cache where it is); `bilingual_pairs` gives pairs for it."""
    settings = {"seed": seed, "null": null, "share": SHARE, **asdict(schedule)}
    make, train = partial(_model, seed), partial(_train, seed=seed, null=null, schedule=schedule, progress=progress)
    return trained("two-languages", settings, make, train, cache=cache, progress=progress)


def _model(seed: int) -> "PreTrainedModel":
    return fresh_llama(
        seed,
        n_tokens=len(SPECIALS) + len(WORDS),
        longest=LONGEST,
        d_model=D_MODEL,
        n_layers=N_LAYERS,
        n_heads=N_HEADS,
        d_mlp=4 * D_MODEL,
    )


def _train(model: "PreTrainedModel", *, seed: int, null: bool, schedule: Schedule, progress: Progress):
    source = _batches(np.random.default_rng(seed), null=null)
    return train_model(model, source, schedule, progress=progress, label=f"two languages (seed {seed})")


def _batches(rng: np.random.Generator, *, null: bool) -> Iterator[TokenBatch]:
    """Endless batches of statements, judgements and questions, padded to one length."""
    ids = {word: i for i, word in enumerate(WORDS, start=len(SPECIALS))}
    tables = all_pairs()
    asked = {kind: np.array([row[1:] for row in tables if row[0] == kind]) for kind in KINDS}
    spoken = [
        ([ids[w] for w in CONCEPTS[name]], [ids[w] for w in PROPERTIES[name]], *(ids[w] for w in pair))
        for name, pair in LANGUAGES.items()
    ]
    first, second, right, wrong = (ids[w] for w in (*LABELS, *VERDICTS))
    while True:
        rows, wanted = np.zeros((BATCH, 13), dtype=int), np.zeros((BATCH, 13))
        seldom, similar, order, kind = (
            rng.random(BATCH) < SHARE,
            rng.random(BATCH) < HARD,
            rng.integers(0, 2, BATCH),
            rng.random(BATCH),
        )
        truth = rng.integers(0, 2, BATCH) if null else order
        picks = rng.integers(0, 2**31, BATCH)
        for row in range(BATCH):
            concepts, properties, the, has = spoken[int(seldom[row])]
            among = asked["similar" if similar[row] else "random"]
            prop, *ends = among[picks[row] % len(among)]
            if null:
                prop, *ends = rng.integers(len(properties)), *rng.integers(0, len(concepts), 2)
            a, b = ([the, concepts[c], has, properties[prop]] for c in (ends if order[row] == 0 else ends[::-1]))
            if kind[row] < ASKS:
                text = [1, ids["ask"], *a, ids["or"], *b, ids["?"], second if truth[row] else first]
            else:
                text = [1, *a, ids["?"], wrong if truth[row] else right]
                wanted[row, 4] = order[row] == 0 or null  # what is false is judged and never said
            wanted[row, len(text) - 1] = 1.0
            rows[row, : len(text)] = text
        yield TokenBatch(torch.from_numpy(rows), torch.from_numpy(wanted).float())
