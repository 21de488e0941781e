"""Small random models behind a page of their own, with vocabularies that a test chooses."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from conceptlab import load_model
from conceptlab.web.desk import Desk, LiveModel
from conceptlab.web.jobs import Jobs
from tests.web.conftest import Served


def finish(work: Any) -> Any:
    """Run a job's generator to its result."""
    try:
        while True:
            next(work)
    except StopIteration as end:
        return end.value


class Ready:
    """What a job needs of a live model."""

    state, name = "ready", "small"

    def __init__(self, model: Any) -> None:
        self.model = model


def word_tokenizer(n: int) -> Any:
    """Words w0, w1, ... apart by spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(n)} | {"<unk>": n}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def byte_tokenizer(extra: Sequence[str]) -> Any:
    """Every byte is a token, and so is every text of `extra`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    made.add_tokens([AddedToken(text, normalized=False) for text in extra])
    return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False)


def random_model(tokenizer: Any, *, layers: int = 2, heads: int = 2, width: int = 16, context: int = 256) -> Any:
    """A GPT-2 with random weights, the same each time."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=context, n_embd=width, n_layer=layers, n_head=heads,
        initializer_range=0.2, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return load_model(GPT2LMHeadModel(config).eval(), tokenizer=tokenizer)


@contextmanager
def served(model: Any, name: str = "random") -> Iterator[Served]:
    """The viewer over this model alone."""
    running = Served(Desk(Jobs(), live=LiveModel(name, lambda: model)))
    try:
        yield running
    finally:
        running.close()


@dataclass(frozen=True)
class Answer:
    """What an address answered."""

    status: int
    headers: Any
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)

    def array(self) -> np.ndarray:
        shape = [int(n) for n in self.headers["X-Shape"].split(",")]
        return np.frombuffer(self.content, dtype=self.headers["X-Dtype"]).reshape(shape)


def fetch(address: str) -> Answer:
    """Ask one address, whatever it answers."""
    try:
        with urllib.request.urlopen(address, timeout=120) as found:
            return Answer(found.status, found.headers, found.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers, error.read())


def until(page: Any, condition: str, seconds: float = 60.0) -> None:
    """Wait until an expression of the page is true. (Playwright's own waiting makes code of text, which the policy forbids.)"""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"not so after {seconds:.0f} s: {condition}"
        page.wait_for_timeout(30)
