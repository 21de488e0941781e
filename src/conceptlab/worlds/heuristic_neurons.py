"""Sums answered by a bag of heuristics, by rote, or by an algorithm: three models with the same answers and another inside.

Host: GPT2LMHeadModel, 2 layers, 4 heads, d_model 192 (d_head 48), 8 learned positions, ReLU MLPs of 160 neurons, neutral norms
(see `weights_by_hand`). A prompt is `<bos> a + b =` with a and b from 0 to 9, its answer a word. Weights at `=`:

    L0.H0, L0.H1   read the words at the places of a and b (by position, beta 30) into blocks `a` and `b`; in the algorithm they add
                   both numbers, as a share of 18, on one coordinate `sum`
    L0.mlp         neuron 10 a + b fires for that pair and writes its coordinate of block `pair` (not in the algorithm)
    L1.mlp         bag: `PLANTED` heuristics, one neuron each, read their cells of `pair` and write every result that occurs there
                   rote: 120 neurons, each of five cells drawn at random so that every cell is in six, write those cells' results
                   all three: `DECOYS` read their cells and write where nothing reads, 16 noise neurons read and write at random
    other heads    uniform attention, random values of scale 0.03

The unembedding reads block `out` x 5. In the bag every right result is promoted by each of its heuristics, and residues modulo 4
and 5 leave no other result with all of them. In the algorithm logit(r) = 1500 (2 r s - r^2) / 18^2 + 150 of the sum s: a number
line, no neuron. The bag's null twin (`null`) is the rote model. After the check of C11 of the methods' specification.
"""

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from conceptlab.data.arithmetic import operand_grid
from conceptlab.data.heuristics import Heuristics, heuristic_library
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.weights_by_hand import (
    Head,
    Layout,
    Neuron,
    balance_writes,
    empty_gpt2,
    set_head,
    set_neuron,
    set_vocabulary,
    uniform_head,
)
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Solution = Literal["bag", "rote", "algorithm"]
N = 10
RESULTS = 2 * N - 1
WORDS = (*(str(i) for i in range(RESULTS)), "+", "=")
N_HEADS, D_HEAD, D_MLP, N_POSITIONS = 4, 48, 160, 8
BETA, GAIN, LINE = 30.0, 5.0, 1500.0
CELLS_EACH, NEURONS_A_CELL, N_NOISE = 5, 6, 16
HOST = "GPT2LMHeadModel, 2 layers, 4 heads, d_model 192, neutral LayerNorm, ReLU MLPs of 160"
PLANTED = {
    **{f"result mod 5 = {r}": 1.0 for r in range(5)},
    **{f"result mod 4 = {r}": 1.0 for r in range(4)},
    **{f"result in {low}..{low + 3}": 0.8 for low in (2, 6, 10)},
    "result >= 14": 0.8,
    **{f"{side} in {low}..{low + 2}": 0.6 for side in ("left", "right") for low in (2, 6)},
    "left <= 2": 0.6,
    "right >= 7": 0.6,
    **{f"left mod 2 = {i} and right mod 2 = {j}": 0.6 for i in (0, 1) for j in (0, 1)},
    "identical operands": 0.6,
}
PAIRS = ((3, 4), (8, 1), (6, 9))  # cells with a neuron of their own
DECOYS = ("left mod 3 = 1", "right mod 3 = 2", "left in 4..5", "right in 4..5", "left mod 4 = 3", "right mod 5 = 0")

STREAM = Layout.of(N_HEADS * D_HEAD, tok=len(WORDS), pos=6, a=N, b=N, pair=N * N, out=RESULTS, sum=1, one=1, idle=len(DECOYS),
                   bos=1, balance=1)  # fmt: skip


def heuristic_neurons(*, solution: Solution = "bag", seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world; its null twin is the rote model, whatever `solution` says.

    Prompts `clean` are all 100 sums, cell 10 a + b. `truth`: `heuristics` by neuron (`L1.N3`: the library's name), `pairs` by
    neuron (the cell), `decoys` by neuron, `important` neurons (those without which answers change), `accuracy`."""
    solution = "rote" if null else solution
    generator = torch.Generator().manual_seed(seed)
    grid = operand_grid(N)
    library = heuristic_library(grid)
    place = torch.randperm(D_MLP, generator=generator).tolist()
    model = _empty(generator, solution)
    written, truth = _neurons(solution, library, grid.result.tolist(), place, generator)
    for index, neuron in written.items():
        set_neuron(model, 1, index, neuron)
    balance_writes(model, STREAM.at("balance"))
    return PlantedWorld(
        name=f"heuristic_neurons_{solution}",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts={"clean": grid.prompts},
        answers={"clean": grid.answers},
        truth={**truth, "accuracy": 1.0},
        null=null,
    )


def _neurons(solution: Solution, library: Heuristics, result: list[int], place: list[int], generator: torch.Generator):
    """Weights of L1's neurons by index, and the truth about them."""
    found: dict[int, Neuron] = {}
    truth: dict[str, Any] = {"heuristics": {}, "pairs": {}, "decoys": {}, "important": []}

    def add(kind: str, name: Any, cells: Tensor, writes: Tensor) -> None:
        index = place[len(found)]
        found[index] = Neuron(w_in=_reads(cells), w_out=writes)
        if kind in truth and kind != "important":
            truth[kind][f"L1.N{index}"] = name
        if kind != "decoys":
            truth["important"].append(f"L1.N{index}")

    if solution == "bag":
        for name, weight in PLANTED.items():
            mask = torch.from_numpy(library.mask(name))
            add("heuristics", name, mask, weight * _results(mask, result))
        for a, b in PAIRS:
            mask = torch.arange(N * N) == N * a + b
            add("pairs", [a, b], mask, _results(mask, result))
    if solution == "rote":
        for cells in _drawn(generator, result):
            mask = torch.zeros(N * N, dtype=torch.bool)
            mask[cells] = True
            add("rote", None, mask, _results(mask, result))
    for i, name in enumerate(DECOYS):
        add("decoys", name, torch.from_numpy(library.mask(name)), STREAM.unit("idle", i))
    found.update({place[len(found) + i]: _noise(generator) for i in range(N_NOISE)})
    return found, truth


def _noise(generator: torch.Generator) -> Neuron:
    """A neuron that fires for random cells and writes next to nothing."""
    reads, writes = torch.zeros(2, STREAM.width)
    reads[STREAM.blocks["pair"]] = 0.5 * torch.randn(N * N, generator=generator)
    writes[STREAM.blocks["out"]] = 0.01 * torch.randn(RESULTS, generator=generator)
    return Neuron(w_in=reads, w_out=writes)


def _reads(cells: Tensor) -> Tensor:
    read = torch.zeros(STREAM.width)
    read[STREAM.blocks["pair"]] = cells.float()
    return read


def _results(cells: Tensor, result: list[int]) -> Tensor:
    """The results that occur in the cells, 1 each, in block `out`."""
    written = torch.zeros(STREAM.width)
    for r in {r for r, inside in zip(result, cells.tolist(), strict=True) if inside}:
        written[STREAM.at("out", r)] = 1.0
    return written


def _drawn(generator: torch.Generator, result: list[int]) -> list[list[int]]:
    """Random cells by fives, every cell in as many groups; drawn again until every cell's result leads all others by two."""
    while True:
        groups = [
            part
            for _ in range(NEURONS_A_CELL)
            for part in torch.randperm(N * N, generator=generator).view(-1, CELLS_EACH).tolist()
        ]
        votes = torch.zeros(N * N, RESULTS)
        for group in groups:
            for cell in group:
                votes[cell, list({result[other] for other in group})] += 1
        right = torch.tensor(result)[:, None]
        others = votes.scatter(1, right, -1.0).max(1).values
        if bool((votes.gather(1, right)[:, 0] - others >= 1).all()):
            return groups


def _empty(generator: torch.Generator, solution: Solution) -> "PreTrainedModel":
    """Everything below L1's neurons, and the unembedding."""
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(
        n_layers=2, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=D_MLP, d_vocab=d_vocab, n_positions=N_POSITIONS
    )
    for layer in range(2):
        for head in range(N_HEADS):
            noise = uniform_head(STREAM, D_HEAD, generator)
            set_head(model, layer, head, _mover(head, solution) if layer == 0 and head < 2 else noise)
    embed, unembed = torch.zeros(2, d_vocab, STREAM.width)
    embed[1] = STREAM.unit("bos")
    for i in range(len(WORDS)):
        embed[len(SPECIALS) + i] = STREAM.unit("tok", i)
    embed[len(SPECIALS) + WORDS.index("=")] += STREAM.unit("one")
    for r in range(RESULTS):
        line = LINE * (2 * r * STREAM.unit("sum") / 18 + (0.1 - (r / 18) ** 2) * STREAM.unit("one"))
        unembed[len(SPECIALS) + r] = line if solution == "algorithm" else GAIN * STREAM.unit("out", r)
    positions = torch.zeros(N_POSITIONS, STREAM.width)
    for i in range(6):
        positions[i] = STREAM.unit("pos", i)
    set_vocabulary(model, embed=embed, unembed=unembed, positions=positions)
    if solution != "algorithm":
        for cell in range(N * N):
            reads = STREAM.unit("a", cell // N) + STREAM.unit("b", cell % N)
            set_neuron(model, 0, cell, Neuron(w_in=reads, w_out=STREAM.unit("pair", cell), bias=-1.0))
    return model


def _mover(head: int, solution: Solution) -> Head:
    """`=` (position 4) looks at operand `head`, at position 1 or 3."""
    query, key, value = torch.zeros(3, STREAM.width, D_HEAD)
    out = torch.zeros(D_HEAD, STREAM.width)
    query[STREAM.at("pos", 4), 0] = BETA
    key[STREAM.at("pos", 1 + 2 * head), 0] = 1.0
    for i in range(N):
        value[STREAM.at("tok", i), 1 + i] = 1.0
        out[1 + i, STREAM.at("ab"[head], i)] = 1.0
        if solution == "algorithm":
            out[1 + i, STREAM.at("sum")] = i / 18
    return Head(q=query, k=key, v=value, o=out)
