"""Sample: one text of a skill with the words that answer it, and the split that keeps some of them for testing."""

import random
from collections.abc import Callable
from typing import NamedTuple
from zlib import crc32

HELD_OUT_SHARE = 8  # one key in so many is never trained on


class Sample(NamedTuple):
    """A prompt, its answer (words that a model can know from the prompt and the world), and what ends the text.

    `key` names what has to be unseen for a held-out sample to be a test: two samples with one key share a split.
    `more` are further questions with their answers about the same story: training reads them, tests do not.
    """

    prompt: str
    answer: str
    key: str
    tail: str = "."
    more: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The whole text."""
        return " ".join((f"{self.prompt} {self.answer}{self.tail}", *(f"{p} {a}." for p, a in self.more)))

    @property
    def parts(self) -> list[tuple[str, bool]]:
        """The text cut at its answers, each part with whether it is one."""
        told = [(self.prompt, False), (self.answer, True), (self.tail, False)]
        for prompt, answer in self.more:
            told += [(prompt, False), (answer, True), (".", False)]
        return told

    @property
    def is_held_out(self) -> bool:
        """Whether this sample is kept from training."""
        return crc32(self.key.encode()) % HELD_OUT_SHARE == 0


Generator = Callable[[random.Random], Sample]


def draw(generator: Generator, rng: random.Random, held_out: bool = False) -> Sample:
    """The first sample from `generator` that lies in the asked split."""
    while True:
        sample = generator(rng)
        if sample.is_held_out == held_out:
            return sample
