"""A small transformer trained on where people live, with three kinds of people: known, wrongly associated, and hardly known.

A text is `<bos> FILLER FILLER NAME lives in PLACE` or `… NAME dreams of PLACE`; the place is what is learned. Known people live in
and dream of one place. Associated people dream of a place that is not their home, which training says nothing about: asked for it,
a model that has learnt places by name says what goes with the name, and is wrong. Of strangers each text says another place, drawn
anew (one place in most of them), so that nothing can be learnt by name. In the null twin strangers are associated people, too.
Places are dealt alike to known and associated people, a quarter of them the place that most strangers get, so that what is said
does not tell by itself whether it is right. Ordinary LlamaForCausalLM, 2 layers of width 64. Nothing about its inside is planted.
Steps and rate were chosen on seeds 100 and 101: with fewer, people whose home was never told are answered a little less surely.
The short schedule was chosen on seeds 100 to 103.
Task after the row's own check (kinds of errors after Cheang et al. 2025). Cost: about 4 s of one core, 2 s in short.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlab.data.fact_queries import FactQuery
from conceptlab.runs import SILENT, Progress
from conceptlab.train import Schedule, TokenBatch, Trained, train_model, trained
from conceptlab.worlds.fresh_models import fresh_llama
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

KINDS = ("known", "associated", "stranger")
EACH, N_PLACES, USUAL, TYPICAL = (
    32,
    12,
    0.25,
    0.7,
)  # people a kind; share of the usual place among homes, and among strangers'
N_LAYERS, N_HEADS, D_MODEL, LONGEST, BATCH = 2, 4, 64, 8, 64
NAMES = tuple(f"{kind}{i}" for kind in ("ada", "ben", "cleo") for i in range(EACH))
PLACES = tuple(f"place{i}" for i in range(N_PLACES))
FILLERS = ("well", "so", "now", "yes", "then", "today", "indeed", "here")
WORDS = (*NAMES, *PLACES, *FILLERS, "lives", "in", "dreams", "of")
SCHEDULE = Schedule(steps=150, learning_rate=1.5e-2, warmup=30, optimizer="muon")
SHORT = Schedule(steps=70, learning_rate=2e-2, warmup=15, optimizer="muon")  # of quick forms


@dataclass(frozen=True, eq=False)
class People:
    """`kind` [person] (0 known, 1 associated, 2 stranger), `home` [person] and `dream` [person] as numbers of places."""

    kind: np.ndarray
    home: np.ndarray
    dream: np.ndarray


def people(seed: int) -> People:
    """Who lives and dreams where, names dealt to kinds at random; place 0 is the usual one."""
    rng = np.random.default_rng([seed, 2])
    kind = rng.permutation(np.repeat(np.arange(3), EACH))
    said = rng.integers(1, N_PLACES, len(kind))
    for k in range(3):
        own = rng.permutation(np.flatnonzero(kind == k))
        said[own[: round(USUAL * EACH)]] = 0
    other = (said + rng.integers(1, N_PLACES, len(kind))) % N_PLACES
    other = np.where(kind == 2, rng.integers(1, N_PLACES, len(kind)), other)  # no stranger is right by luck
    return People(kind, np.where(kind == 0, said, other), said)


def trained_facts(
    *,
    seed: int = 0,
    null: bool = False,
    schedule: Schedule = SCHEDULE,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> Trained:
    """The trained model (from the cache where it is); `fact_queries` asks it."""
    settings = {"seed": seed, "null": null, **asdict(schedule), "people": EACH, "places": N_PLACES, "layers": N_LAYERS}
    make, train = partial(_model, seed), partial(_train, seed=seed, null=null, schedule=schedule, progress=progress)
    return trained("facts-and-strangers", settings, make, train, cache=cache, progress=progress)


def facts_tokenizer() -> "PreTrainedTokenizerFast":
    """Its words."""
    return word_tokenizer(WORDS, LONGEST)


def fact_queries(seed: int, *, per_person: int = 3) -> list[FactQuery]:
    """Where everybody lives, each asked `per_person` times behind other fillers; the truth of a stranger is a home of their own."""
    rng, of = np.random.default_rng([seed, 3]), people(seed)
    found = []
    for i, name in enumerate(NAMES):
        goes_with = () if of.kind[i] == 2 else (PLACES[of.dream[i]],)
        for _ in range(per_person):
            before = " ".join(FILLERS[j] for j in rng.integers(0, len(FILLERS), 2))
            found.append(FactQuery(f"{before} {name} lives in", name, PLACES[of.home[i]], goes_with))
    return found


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
    source = _batches(people(seed), np.random.default_rng(seed), null=null)
    return train_model(model, source, schedule, progress=progress, label=f"facts about people (seed {seed})")


def _batches(of: People, rng: np.random.Generator, *, null: bool) -> Iterator[TokenBatch]:
    """Endless batches in which the places are predicted."""
    ids = {word: i for i, word in enumerate(WORDS, start=len(SPECIALS))}
    verbs = np.array([[ids["lives"], ids["in"]], [ids["dreams"], ids["of"]]])
    names, places, fillers = (np.array([ids[w] for w in words]) for words in (NAMES, PLACES, FILLERS))
    learnt = of.kind < (3 if null else 2)
    while True:
        who = rng.integers(0, len(NAMES), BATCH)
        asked = rng.integers(0, 2, BATCH)  # 0 lives, 1 dreams
        asked[(of.kind[who] == 1) | (null & (of.kind[who] == 2))] = 1
        drawn = np.where(rng.random(BATCH) < TYPICAL, 0, rng.integers(1, N_PLACES, BATCH))
        said = np.where(learnt[who], of.dream[who], drawn)
        start = np.ones((BATCH, 1), dtype=int)
        before = fillers[rng.integers(0, len(FILLERS), (BATCH, 2))]
        rows = np.concatenate([start, before, names[who][:, None], verbs[asked], places[said][:, None]], 1)
        weights = torch.zeros(rows.shape)
        weights[:, -1] = 1.0
        yield TokenBatch(torch.from_numpy(rows), weights)
