"""Training batches: samples of every skill, tokenised, sorted by length so that little is padding."""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlab.train import TokenBatch
from conceptlab.worlds.default.sample import Sample, draw
from conceptlab.worlds.default.skills import SKILLS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

POOL = 16_384  # texts made at once
PAIRED = 0.2  # share of texts that are two samples in a row: skills must also work behind other text
UNKNOWN = 0.03  # share of texts whose first word is replaced by the unknown token
CONTEXT_WEIGHT = 0.05  # loss weight of tokens that are no answer: most of them cannot be known


def batches(tokenizer: "PreTrainedTokenizerFast", seed: int, tokens: int, pool: int = POOL) -> Iterator[TokenBatch]:
    """Endless batches of about `tokens` tokens each; the same seed (and `pool`, the texts made at once) gives the same batches."""
    rng = random.Random(seed)
    while True:
        texts = [_samples(rng) for _ in range(pool)]
        rows = _rows(tokenizer, texts, rng)
        rows.sort(key=lambda row: len(row[0]))
        cuts = _cuts([len(ids) for ids, _ in rows], tokens)
        rng.shuffle(cuts)
        for start, stop in cuts:
            yield _padded(rows[start:stop])


def _samples(rng: random.Random) -> list[Sample]:
    """One or two training samples, of different skills."""
    names, shares = list(SKILLS), [share for _, share in SKILLS.values()]
    chosen = rng.choices(names, shares, k=2 if rng.random() < PAIRED else 1)
    return [draw(SKILLS[name][0], rng) for name in dict.fromkeys(chosen)]


def _rows(
    tokenizer: "PreTrainedTokenizerFast", texts: list[list[Sample]], rng: random.Random
) -> list[tuple[list[int], list[float]]]:
    """Ids and weights of every text. Words never cross the parts of a sample, so the parts are tokenised apart."""
    parts = [[part for sample in samples for part in sample.parts] for samples in texts]
    words = [text for part in parts for text, _ in part]
    encoded = iter(tokenizer.backend_tokenizer.encode_batch(words, add_special_tokens=False))
    rows = []
    for part in parts:
        ids, weights = [tokenizer.bos_token_id], [0.0]
        for _, is_answer in part:
            tokens = next(encoded).ids
            ids += tokens
            weights += [1.0 if is_answer else CONTEXT_WEIGHT] * len(tokens)
        if rng.random() < UNKNOWN:
            ids[1], weights[1] = tokenizer.unk_token_id, 0.0
        rows.append(([*ids, tokenizer.eos_token_id], [*weights, CONTEXT_WEIGHT]))
    return rows


def _cuts(lengths: list[int], tokens: int) -> list[tuple[int, int]]:
    """Ranges of rows (sorted by length) that hold about `tokens` tokens each."""
    cuts, start = [], 0
    for stop in range(1, len(lengths) + 1):
        if stop == len(lengths) or (stop + 1 - start) * lengths[stop] > tokens:
            cuts.append((start, stop))
            start = stop
    return cuts


def _padded(rows: list[tuple[list[int], list[float]]]) -> TokenBatch:
    """Rows padded on the right: a causal model's real tokens never see the pads (id 0), whose weight is 0."""
    longest = max(len(ids) for ids, _ in rows)
    ids = np.zeros((len(rows), longest), dtype=np.int64)
    weights = np.zeros((len(rows), longest), dtype=np.float32)
    for index, (row, weight) in enumerate(rows):
        ids[index, : len(row)], weights[index, : len(row)] = row, weight
    return TokenBatch(torch.from_numpy(ids), torch.from_numpy(weights))
