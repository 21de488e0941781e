"""A store so small that a trial costs well under a second: 5 shards of one site at two layers and the embedding, by a model of
2 layers and 16 dimensions over 30 short texts."""

import hashlib
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from conceptlab.data.corpus import TextList
from conceptlab.model import Model, load_model
from conceptlab.runs.job import work
from conceptlab.runs.place import Place
from conceptlab.runs.threads import threads
from conceptlab.store import Wish, open_harvest, shard_files
from tests.model.tiny import WORDS, tokenizer

N_SHARDS = 5
shard_files.WRITERS = 3  # several writing threads also on a machine with few cores
WISH = Wish(("resid_post", "embed"), context=16, batch_tokens=32, shard_tokens=48, threads=1)


@cache
def model() -> Model:
    """A seeded random GPT-2 of 2 layers and 16 dimensions."""
    torch.set_num_threads(1)
    return load_model(fresh_module(), tokenizer=tokenizer())


def fresh_module() -> GPT2LMHeadModel:
    """Its module, made anew: the same weights every time."""
    size = {
        "n_layer": 2,
        "n_embd": 16,
        "n_head": 2,
        "n_positions": 32,
        "vocab_size": 96,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**size)).eval()


@cache
def corpus(n_texts: int = 30) -> TextList:
    """Texts of 4 to 12 words."""
    rng = random.Random(0)
    return TextList(tuple(" ".join(rng.choices(WORDS, k=rng.randint(4, 12))) for _ in range(n_texts)))


def warm() -> None:
    """Do once what every harvest does for the first time: late imports, caches."""
    with tempfile.TemporaryDirectory() as folder:
        harvest(folder)


def harvest(url: str | Path, wish: Wish = WISH, texts: TextList | None = None, **options: Any) -> list[int]:
    """Plan and harvest, or go on; the shards that this call computed."""
    opened = open_harvest(model(), texts or corpus(), url, wish, **options)
    with threads(1):
        return sorted(int(report["shard"]) for report in work(opened.worker))


def hashes(place: Place) -> dict[str, str]:
    """Name -> sha256 of every file (locks and drafts are left out)."""
    return {name: hashlib.sha256(place.read(name) or b"").hexdigest() for name in place.names()}
