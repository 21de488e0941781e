"""Three continuations of one prompt, plain, steered and random, a token a step: what the push does beside what any push does.

A column is `model.continuation.Continuation`: its tokens are those of `model.edited` with `generate`. `readout` is what the stream
holds of the concept where the token is written, the push included. After the last token the model reads every text once more
without any edit: `read` is what the text itself says of the concept, `kl` how far what the edited model expected at that token
lies from what the plain one does on the same text (nats), `plain_log_prob` how likely the plain model finds the token.
Control: the random column, token by token with the same noise. One draw of one prompt: an illustration, not a measurement; the
atlas has the effect beside many random directions.
Cost: three forwards a token, and three of the whole texts.
"""

from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from conceptlab.model import Batch, Model
from conceptlab.model.continuation import Continuation, Token
from conceptlab.results import Subspace
from conceptlab.web.jobs import Event, Said
from conceptlab.web.live.steering import Push, Readout, Steering, push_of, readout_of

COLUMNS = ("plain", "steered", "random")


@dataclass
class Column:
    """One text as it grows; a cell a token."""

    name: str
    says: str
    writer: Continuation
    tokens: list[dict[str, Any]] = field(default_factory=list)

    def step(self, readout: Readout | None) -> dict[str, Any]:
        """Write a token; what the page shows of it."""
        token = self.writer.step()
        self.tokens.append(_cell(token, readout))
        return {"column": self.name, "n": len(self.tokens) - 1, **self.tokens[-1]}


def continuations(
    model: Model, asked: Steering, subspace: Subspace | None
) -> Generator[Said | Event | None, None, dict[str, Any]]:
    """The steps: events `plan`, `token` (one each), `read` (a column's later numbers); the result holds texts and numbers."""
    push = push_of(model, asked, subspace)
    readout = None if subspace is None or not subspace.exists else readout_of(subspace, asked.towards)
    plan = plan_card(asked, push, readout)
    yield Event("plan", plan)
    columns = _columns(model, asked, push, readout)
    for n in range(asked.n_new):
        for column in columns:
            if not column.writer.over:
                yield Event("token", column.step(readout))
        yield Said((n + 1) / (asked.n_new + 1), f"{n + 1} of {asked.n_new} tokens")
    done = []
    for column in columns:
        _read_again(model, column, readout)
        done.append(column_card(column))
        yield Event("read", done[-1])
    return {**plan, "columns": done}


def _columns(model: Model, asked: Steering, push: Push, readout: Readout | None) -> list[Column]:
    edits = {"plain": (), "steered": push.edits[:1], "random": push.edits[1:]}
    says = {"plain": "the model as it is", "steered": push.says[0], "random": push.says[1]}
    settings: dict[str, Any] = {
        "n_new": asked.n_new, "temperature": asked.temperature, "seed": asked.seed, "keep": True,
        "read": None if readout is None else readout.site,
    }  # fmt: skip
    return [Column(name, says[name], Continuation(model, asked.prompt, edits[name], **settings)) for name in COLUMNS]


def _cell(token: Token, readout: Readout | None) -> dict[str, Any]:
    held = None if readout is None or token.stream is None else float(readout.of(token.stream))
    return {"id": token.id, "text": token.text, "log_prob": token.log_prob, "readout": held}


def plan_card(asked: Steering, push: Push, readout: Readout | None) -> dict[str, Any]:
    """What is done, in words and numbers."""
    return {
        "settings": asdict(asked), "edits": [str(edit) for edit in push.edits], "unit": push.unit, "unit_says": push.unit_says,
        "applied": asked.strength * push.unit,
        "readout_site": None if readout is None else str(readout.site),
        "readout_unit": None if readout is None else readout.unit,
    }  # fmt: skip


@torch.no_grad()
def _read_again(model: Model, column: Column, readout: Readout | None) -> None:
    """Let the plain model read the text: adds `read`, `kl` and `plain_log_prob` to each of its tokens."""
    writer = column.writer
    begin, ids = len(writer.prompt) - 1, (*writer.prompt, *writer.new)
    at = list(range(begin, len(ids)))
    batch = Batch((ids,))
    expected = model.capture(batch, "logits", positions=at[:-1])["logits"].float().log_softmax(-1).cpu()
    read = None
    if readout is not None:
        layers = None if readout.site.layer is None else [readout.site.layer]
        acts = model.capture(batch, readout.site.name, layers=layers, positions=at[1:])
        stream = acts[readout.site.name] if layers is None else acts.at(readout.site.name, layers[0])
        read = readout.of(stream).tolist()
    edited = torch.stack(writer.log_probs)
    kl = (edited.exp() * (edited - expected)).nan_to_num(0.0).sum(-1).tolist()
    for n, cell in enumerate(column.tokens):
        cell |= {
            "read": None if read is None else read[n],
            "kl": kl[n],
            "plain_log_prob": float(expected[n, cell["id"]]),
        }
    writer.log_probs = []


def column_card(column: Column) -> dict[str, Any]:
    """A finished column: its text, its tokens and the means of their numbers."""
    ids = [cell["id"] for cell in column.tokens]
    means = {
        name: _mean([cell[name] for cell in column.tokens])
        for name in ("readout", "read", "kl", "log_prob", "plain_log_prob")
    }
    return {
        "name": column.name, "says": column.says, "text": column.writer.text, "n": len(ids), "repetition": repetition(ids),
        **means, "tokens": column.tokens,
    }  # fmt: skip


def repetition(ids: list[int]) -> float | None:
    """Share of pairs of neighbouring tokens that stood there before; None where there are fewer than two pairs."""
    pairs = list(zip(ids, ids[1:], strict=False))
    return None if len(pairs) < 2 else 1 - len(set(pairs)) / len(pairs)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
