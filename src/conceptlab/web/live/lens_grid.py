"""The logit lens over a whole prompt: what every layer would say at every token, read from the kept pass.

The smallest arithmetic that gives it: one forward without unembedding, then one unembedding of (layers + 1) x tokens rows, 2
d_model d_vocab operations each, in blocks of rows of all layers together, every block into the same memory; its logits are read
(`numerics.row_readout`) before the next one comes, so memory is one block (`BLOCK_BYTES`) however long the prompt is. The lens is
the model's own (`Model.lens`), and equals `measure.lenses.logit_lens`, which the tests hold it against. Control: for the target,
random tokens in its place, as in `logit_lens`; for the first choice, `RANDOM_STREAMS` random streams a layer with the norm of one
of its tokens.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence.random_tokens import token_pool
from conceptlab.measure.lenses.targets import token_text
from conceptlab.numerics.large_pages import roomy
from conceptlab.numerics.row_readout import read_chosen, read_rows
from conceptlab.web.jobs import Said
from conceptlab.web.live.one_pass import Prompt, loaded, one_pass, read_prompt, shown_token, token_id

if TYPE_CHECKING:
    from conceptlab.model import Model

TOP = 5
BLOCK_BYTES = (
    1 << 26
)  # of logits: enough rows for the product to be fast, few enough for another job's step to come soon
RANDOM_STREAMS = 8
SPARE = 1 << 26  # multiplications a layer that random streams may cost beside a sixteenth of the prompt's own
RANDOM_TOKENS = 32
OPEN = -1  # a target that is what the model says first


@dataclass(frozen=True, eq=False)
class LensGrid:
    """Read-outs with leading axes [layer, token]; layers `embed`, 0, ...; `target` [token] ids; `names` the text of every id used.

    `control` [layer]: of random streams the probability of the first choice and the entropy, of random tokens in the target's place
    probability and rank.
    """

    prompt: Prompt
    layers: tuple[str, ...]
    top_id: np.ndarray
    top_prob: np.ndarray
    entropy: np.ndarray
    target: np.ndarray
    target_prob: np.ndarray
    target_rank: np.ndarray
    control: dict[str, np.ndarray]
    names: dict[int, str]
    asked: bool
    d_vocab: int


def lens_grid(live: Any, text: str, target: str = "") -> Generator[Said, None, LensGrid]:
    """The grid of a prompt; `target` is a token (text or #id), or the next token of the prompt where it is empty.

    Raises InputError for a prompt or token that does not fit, SiteError where the model has no lens.
    """
    model = yield from loaded(live)
    prompt = read_prompt(model, text)
    model.lens(model.unembedding.new_zeros(0, model.d_model))  # raises with the reason where there is none
    asked = None if not target else token_id(model, target, "target")
    yield Said(0.02, f"one pass of {len(prompt)} tokens")
    streams = one_pass(model, prompt).streams[:, 0]
    targets = torch.tensor([*prompt.ids[1:], OPEN]) if asked is None else torch.full((len(prompt),), asked)
    rows, ids, drawn = rows_to_read(streams, targets, model.unembedding.shape[0])
    found: list[tuple[np.ndarray, ...]] = []
    d_vocab = model.unembedding.shape[0]
    size = min(len(rows), max(1, BLOCK_BYTES // (4 * d_vocab)))
    space = roomy(size, d_vocab, device=rows.device)
    for chunk in (slice(at, min(at + size, len(rows))) for at in range(0, len(rows), size)):
        found.append(read_block(model, rows[chunk], ids, drawn[chunk], chunk, space))
        yield Said(0.1 + 0.9 * chunk.stop / len(rows), f"{chunk.stop} of {len(rows)} streams read")
    targets = ids[: len(prompt)].flip(0)
    return made_grid(model, prompt, targets, found, asked is not None)


@torch.no_grad()
def read_block(
    model: "Model", rows: Tensor, ids: Tensor, drawn: Tensor, chunk: slice, space: Tensor
) -> tuple[np.ndarray, ...]:
    """Probabilities and ids of the first choices, entropy, probability and rank of the targets, of streams [row, d_model]; the same
    two of the random tokens `drawn` [row, n], NaN where a row has none (-1).

    `ids` are the targets of all rows. Where one is `OPEN`, it becomes the first choice of the very first row: what the model says.
    `space` [row, d_vocab] is where the logits go.
    """
    logits = model.lens(rows, out=space)
    if chunk.start == 0:
        ids.masked_fill_(ids == OPEN, int(logits[0].argmax()))
    read = read_rows(logits, ids[chunk, None], min(TOP, logits.shape[1]))
    beside = torch.full((2, *drawn.shape), torch.nan)
    has = drawn[:, 0] >= 0
    if bool(has.any()):
        on = has.to(logits.device)
        beside[:, has] = torch.stack(read_chosen(logits[on], drawn[has], read.log_sum[on])).cpu()
    kept = (read.top.exp(), read.top_ids, read.entropy, read.log_prob[:, 0].exp(), read.rank[:, 0])
    return tuple(part.cpu().numpy() for part in (*kept, beside[0].exp(), beside[1]))


def rows_to_read(streams: Tensor, targets: Tensor, d_vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """Streams [row, d_model] of all layers and tokens, backwards from the end, then of the random ones; target ids [row]; random
    tokens [row, n] at a quarter of the rows, at most `RANDOM_TOKENS` a layer (-1: a row without)."""
    n_layers, n_tokens, width = streams.shape
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    pool = token_pool(targets[targets != OPEN].numpy(), d_vocab)
    each = max(1, min(8, RANDOM_TOKENS // n_tokens))
    asked = max(4, min(RANDOM_TOKENS, n_tokens // 4))
    drawn = pool[rng.integers(0, len(pool), (n_layers, n_tokens, each))]
    some = rng.permuted(np.tile(np.arange(n_tokens), (n_layers, 1)), axis=1) < asked
    drawn = torch.from_numpy(np.where(some[..., None], drawn, -1)).flatten(0, 1)
    n_random = max(1, min(RANDOM_STREAMS, max(n_tokens // 16, SPARE // (width * d_vocab))))
    like = torch.from_numpy(rng.integers(0, n_tokens, (n_layers, n_random)))
    norms = streams.float().norm(dim=2).cpu().gather(1, like)[..., None]
    noise = torch.randn(n_layers, n_random, width, generator=generator)
    noise = (noise / noise.norm(dim=2, keepdim=True) * norms).flatten(0, 1)
    ids = torch.cat([targets.flip(0).repeat(n_layers), targets.new_zeros(len(noise))])
    rows = torch.cat([streams.flip(0, 1).flatten(0, 1), noise.to(streams)])
    return rows, ids, torch.cat([drawn, drawn.new_full((len(noise), each), -1)])


def made_grid(
    model: "Model", prompt: Prompt, targets: Tensor, found: list[tuple[np.ndarray, ...]], asked: bool
) -> LensGrid:
    """Put blocks of rows together and cut off the controls."""
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    n_layers, n = model.n_layers + 1, len(prompt)
    real = [c[: n_layers * n].reshape(n_layers, n, *c.shape[1:])[::-1, ::-1] for c in columns]
    random = [c[n_layers * n :].reshape(n_layers, -1, *c.shape[1:]) for c in columns]
    control = {
        "top_prob": random[0][..., 0].mean(1),
        "entropy": random[2].mean(1),
        "target_prob": np.nanmean(real[5], (1, 2)),
        "target_rank": np.nanmean(real[6], (1, 2)),
    }
    used = np.unique(np.concatenate([real[1].ravel(), targets.numpy()]))
    names = dict(zip(used.tolist(), names_of(model, used), strict=True))
    return LensGrid(
        prompt, ("embed", *map(str, range(model.n_layers))), real[1].astype(np.int32), real[0], real[2], targets.numpy(),
        real[3], real[4], control, names, asked, model.unembedding.shape[0],
    )  # fmt: skip


def names_of(model: "Model", ids: np.ndarray) -> list[str]:
    """The text of each id."""
    return [token_text(model, int(i)) for i in ids]


def cell(grid: LensGrid, layer: int, token: int) -> dict[str, Any]:
    """Everything about one cell, as plain values. Raises InputError outside the grid."""
    if not (0 <= layer < len(grid.layers) and 0 <= token < len(grid.prompt)):
        raise InputError(
            f"the grid has {len(grid.layers)} layers and {len(grid.prompt)} tokens; {layer}, {token} is outside"
        )
    top = zip(grid.top_id[layer, token].tolist(), grid.top_prob[layer, token].tolist(), strict=True)
    return {
        "layer": grid.layers[layer],
        "token": token,
        "top": [{"id": i, "text": grid.names[i], "shown": shown_token(grid.names[i]), "prob": p} for i, p in top],
        "entropy": float(grid.entropy[layer, token]),
        "target_prob": float(grid.target_prob[layer, token]),
        "target_rank": float(grid.target_rank[layer, token]),
    }
