"""A small sweep that other processes can make, too, and a worker of it that dies where a test asks for it."""

from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from conceptlab.model import Batch, load_model
from conceptlab.model.metric import logit
from conceptlab.model.sweep import Request
from conceptlab.model.sweep.sharded import Sweeper, make_sweeper
from conceptlab.results import Edit, Site
from tests.runs.toy_job import die_if_asked

MAKE = "tests.model.sweep_request:request"


def request(seed: int = 0, n_parts: int | None = 4, budget_bytes: int | None = None, nan: bool = False) -> Request:
    """25 edits of heads, neurons and the stream on 5 rows of two lengths, by a random GPT-2 of 2 layers."""
    torch.manual_seed(0)
    size = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 32, "vocab_size": 96}
    model = load_model(GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0)).eval())
    generator = torch.Generator().manual_seed(seed)
    rows = Batch(tuple(tuple(torch.randint(10, 90, (n,), generator=generator).tolist()) for n in (6, 9, 6, 9, 9)))
    edits = [Edit(Site("z", layer, (head,)), "zero") for layer in (0, 1) for head in (0, 1)]
    for position in range(5):
        value = torch.randn(16, generator=generator)
        edits += [Edit(Site("resid_post", layer), "set", value, positions=(position,)) for layer in (0, 1)]
        edits += [Edit(Site("mlp_out", layer), "scale", strength=-0.5, positions=(position,)) for layer in (0, 1)]
    if nan:
        edits[6] = Edit(Site("resid_post", 0), "set", torch.full((16,), float("nan")))
    return Request(model, rows, [*edits, (edits[0], edits[9])], logit([3, 4, 5, 6, 7]), budget_bytes, n_parts=n_parts)


def make_dying(die_at: int, deaths: str, **arguments: Any) -> Sweeper:
    """A worker that is killed between the values of part `die_at` and its commit, while a token is left."""
    sweeper = make_sweeper(**arguments)
    commit = sweeper.ledger.commit

    def dying(shard: int, files: Any, record: Any) -> bool:
        if shard == die_at:
            die_if_asked(Path(deaths))
        return commit(shard, files, record)

    sweeper.ledger.commit = dying  # type: ignore[method-assign]
    return sweeper
