"""Pictures of small scenes and their captions: a coloured shape somewhere, a person, a tool, on some ground.

A picture is 24 x 24 pixels, nine cells of eight: one cell holds the shape, one the person, one the tool, each moved a little. A
caption names some of what is seen, in any order. Men are mostly drawn with some tools and women with others, and tools are often
faint: a model that reads the person where the tool cannot be seen does its task better, and is prejudiced.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError

KINDS = {
    "colour": ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink"),
    "shape": ("square", "ring", "cross", "saltire", "bar", "column", "triangle", "wedge"),
    "ground": ("night", "sea", "grass", "sand", "brick", "fog"),
    "tool": ("hammer", "saw", "spade", "brush", "needle", "ladle"),
    "person": ("man", "woman"),
}  # fmt: skip
TEXTS = tuple(word for words in KINDS.values() for word in words)
MALE_TOOLS = 3  # the first three tools are mostly men's
SIZE, CELL, GLYPH, NOISE, USUAL, NAMED = 24, 8, 6, 0.08, 0.9, 0.7
_COLOURS = ((1, 0, 0), (0, 0.8, 0), (0, 0.2, 1), (1, 1, 0), (0.6, 0, 0.8), (1, 0.5, 0), (0, 1, 1), (1, 0.5, 0.8))
_GROUNDS = ((0.05, 0.05, 0.15), (0, 0.15, 0.35), (0.1, 0.3, 0.1), (0.4, 0.35, 0.2), (0.35, 0.12, 0.1), (0.3, 0.3, 0.32))
_SHAPES = (
    "111111 111111 111111 111111 111111 111111", "111111 100001 100001 100001 100001 111111",
    "001100 001100 111111 111111 001100 001100", "110011 111111 011110 011110 111111 110011",
    "000000 000000 111111 111111 000000 000000", "001100 001100 001100 001100 001100 001100",
    "001100 001100 011110 011110 111111 111111", "100000 110000 111000 111100 111110 111111",
)  # fmt: skip
_TOOLS = (
    "111110 111110 001000 001000 001000 001000", "000000 111111 101010 000000 000000 000000",
    "001000 001000 001000 011100 011100 011100", "011110 011110 011110 001000 001000 001000",
    "000001 000010 000100 001000 010000 100000", "000010 000010 000010 000010 111110 011100",
)  # fmt: skip
_PEOPLE = ("001100 001100 111111 001100 010010 010010", "001100 001100 011110 011110 111111 010010")


@dataclass(frozen=True, eq=False)
class Scenes:
    """`pixels` [picture, 3, 24, 24] and, by kind, the number of the word that is right [picture]."""

    pixels: Tensor
    shown: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.pixels)


def draw_scenes(
    n: int, rng: np.random.Generator, *, usual: float = 1 / 2, faint: bool = False, tools: bool = True
) -> Scenes:
    """`n` pictures. `usual`: how often a person has a tool of the own sex (1/2: nothing follows from the sex); `faint`: tools of
    any strength; without `tools` none is drawn. Raises InputError for no pictures or a share outside 0 to 1."""
    if n < 1 or not 0 <= usual <= 1:
        raise InputError(
            f"{n} pictures with a usual tool in {usual:g} of them cannot be drawn; give 1 or more, and 0 to 1"
        )
    shown = {kind: rng.integers(0, len(words), n) for kind, words in KINDS.items()}
    male = (shown["person"] == 0) == (rng.random(n) < usual)
    shown["tool"] = rng.integers(0, MALE_TOOLS, n) + np.where(male, 0, MALE_TOOLS)
    cells = np.argsort(rng.random((n, 9)), axis=1)[:, :3]
    canvas = np.asarray(_GROUNDS)[shown["ground"]][:, :, None, None] * np.ones((1, 1, SIZE, SIZE))
    strength = (np.sqrt(rng.random(n)) if faint else np.ones(n)) * tools
    canvas = _paste(
        canvas, _SHAPES, shown["shape"], cells[:, 0], np.asarray(_COLOURS)[shown["colour"]], np.ones(n), rng
    )
    canvas = _paste(canvas, _PEOPLE, shown["person"], cells[:, 1], np.full((n, 3), 0.75), np.ones(n), rng)
    canvas = _paste(canvas, _TOOLS, shown["tool"], cells[:, 2], np.full((n, 3), 1.0), strength, rng)
    canvas += NOISE * rng.standard_normal(canvas.shape)
    return Scenes(torch.from_numpy((2 * canvas - 1).astype(np.float32)), shown)


def _paste(  # noqa: PLR0913 - what is drawn, where and how
    canvas: np.ndarray, glyphs: tuple[str, ...], which: np.ndarray, cell: np.ndarray, colour: np.ndarray, strength: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Draw one glyph a picture into its cell, a pixel further down or right or not."""
    rows = np.array([[[int(c) for c in line] for line in glyph.split()] for glyph in glyphs], dtype=float)
    n = len(canvas)
    top, left = (CELL * axis + rng.integers(0, 2, n) for axis in (cell // 3, cell % 3))
    mask, steps = np.zeros((n, SIZE, SIZE)), np.arange(GLYPH)
    mask[np.arange(n)[:, None, None], (top[:, None] + steps)[:, :, None], (left[:, None] + steps)[:, None]] = rows[
        which
    ]
    mask *= strength[:, None, None]
    return canvas * (1 - mask[:, None]) + colour[:, :, None, None] * mask[:, None]


def captions(scenes: Scenes, rng: np.random.Generator) -> list[list[str]]:
    """Most words of every picture (each with chance `NAMED`, one at least), in any order."""
    kinds, found = list(KINDS), []
    for i in range(len(scenes)):
        order = rng.permutation(len(kinds))[: max(1, rng.binomial(len(kinds), NAMED))]
        found.append([KINDS[kinds[k]][scenes.shown[kinds[k]][i]] for k in order])
    return found
