"""Tiny random models with a word-level tokenizer, for the engine's tests."""

from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from conceptlab.model import Model, load_model
from tests.conformance.other_models import other_model
from tests.conformance.tiny_models import tiny_model

WORDS = [f"w{i}" for i in range(80)]
TEXTS = ["w20 w31 w42", "w33 w24 w15 w46 w57 w28 w39", "w41 w22 w63 w14 w35"]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """`w0` … `w79` are tokens 10 … 89, away from every special id."""
    vocabulary = {"<pad>": 0, "<unk>": 1} | {w: i + 10 for i, w in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>")


@cache
def decoder(kind: str = "llama") -> Model:
    """A tiny causal LM of a type, wrapped."""
    torch.manual_seed(0)
    return load_model(tiny_model(kind), tokenizer=tokenizer())


@cache
def other(kind: str) -> Model:
    """A tiny encoder or encoder-decoder, wrapped."""
    return load_model(other_model(kind), tokenizer=tokenizer())
