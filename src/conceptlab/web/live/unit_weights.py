"""What a unit's weights say through the unembedding: the tokens that a neuron promotes, the pairs that a head copies and looks for.

A neuron's output vector meets the unembedding (the final norm's gain folded in), as in `find.neurons.vocabulary_neurons`. A head's
OV circuit takes what stands at a single token after the first MLP and says what the head writes of it (`model.ov_circuit`); its QK
circuit takes the same as query and key at one place, so that only what the tokens are counts, not where (Elhage et al. 2021).
Pairs are taken over at most `MOST_TOKENS` words. Control: another unit of the same layer, and for a neuron the largest cosine that
a random direction has with any token. Cost: one forward of single tokens.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError, SiteError
from conceptlab.evidence.isotropic import largest_cosine_at, largest_cosine_p
from conceptlab.find.neurons.survey import NeuronSurvey
from conceptlab.find.neurons.vocabulary_neurons import pointers
from conceptlab.measure.lenses.targets import exact_token_texts
from conceptlab.model import Batch, Model
from conceptlab.model.head_outputs import head_outputs
from conceptlab.model.ov_circuit import TokenStreams, answer_logits, token_streams
from conceptlab.model.vocabulary import learned_vocabulary
from conceptlab.results import Edit, Site
from conceptlab.web.jobs import Said

TOP = 10
MOST_TOKENS = 512


@dataclass(frozen=True)
class Unit:
    """A head or neuron."""

    kind: Literal["head", "neuron"]
    layer: int
    index: int

    @property
    def name(self) -> str:
        """As it is written."""
        return f"L{self.layer}.{'H' if self.kind == 'head' else 'N'}{self.index}"

    @property
    def site(self) -> str:
        """The site whose units these are."""
        return "z" if self.kind == "head" else "mlp_post"

    def size(self, model: Model) -> int:
        """How many there are in the layer. Raises SiteError for a layer without them, InputError for one too many."""
        tap = model.tap(self.site, self.layer)
        size = (tap.heads if self.kind == "head" else tap.width) or 0
        if not 0 <= self.index < size:
            raise InputError(
                f"layer {self.layer} of {model.name} has {self.kind}s 0 to {size - 1}; {self.index} was asked"
            )
        return size


def other_unit(unit: Unit, size: int, seed: int = 0) -> int | None:
    """Another unit of the layer, drawn; None where there is none."""
    others = [i for i in range(size) if i != unit.index]
    return int(np.random.default_rng((seed, unit.layer, unit.index)).choice(others)) if others else None


def unit_weights(model: Model, unit: Unit, seed: int = 0) -> Generator[Said | None, None, dict[str, Any]]:
    """Tokens or pairs of the unit and of another one of its layer. Raises SiteError where weights cannot be told apart."""
    other = other_unit(unit, unit.size(model), seed)
    yield Said(0.1, "reading the weights")
    if unit.kind == "neuron":
        return _neuron(model, unit, other)
    return (yield from _head(model, unit, other))


# -- neurons -----------------------------------------------------------------------------------------------------------
@torch.no_grad()
def _neuron(model: Model, unit: Unit, other: int | None) -> dict[str, Any]:
    survey = NeuronSurvey(model)
    pointing = next(one for one in pointers(survey, "out") if one.layer == unit.layer)
    named = {"unit": unit.index} | ({} if other is None else {"other": other})
    found = {name: _tokens(model, survey, pointing, index) for name, index in named.items()}
    n_tokens = len(survey.vocabulary.ids)
    cosine = found["unit"]["cosine"]
    return {
        "kind": "neuron", **found, "other_index": other, "n_tokens": n_tokens,
        "random_cosine": float(largest_cosine_at(np.array(0.5), n_tokens, model.d_model)),
        "p": float(largest_cosine_p(np.array([cosine]), n_tokens, model.d_model)[0]),
        "warnings": list(survey.warnings),
    }  # fmt: skip


def _tokens(model: Model, survey: NeuronSurvey, pointing: Any, index: int) -> dict[str, Any]:
    """Both ends of one neuron's logits, and the largest cosine with any token in either direction."""
    raw, folded = pointing.raw[index], pointing.folded[index]
    logits = survey.unembedding.float() @ folded.float()
    k = min(TOP, len(logits))
    up, down = logits.topk(k), (-logits).topk(k)
    ends = torch.stack([up.indices[0], down.indices[0]])
    lengths = pointing.lengths(survey.unembedding[ends].float())
    cosine = logits[ends].abs() / (raw.float().norm() * lengths).clamp_min(1e-30)
    return {
        "promoted": _listed(model, survey.vocabulary.ids[up.indices.cpu()], up.values),
        "suppressed": _listed(model, survey.vocabulary.ids[down.indices.cpu()], -down.values),
        "cosine": float(cosine.max()),
    }


def _listed(model: Model, ids: Tensor, logits: Tensor) -> list[dict[str, Any]]:
    texts = exact_token_texts(model, ids.cpu().numpy()).tolist()
    return [
        {"id": int(i), "text": t, "logit": float(v)}
        for i, t, v in zip(ids.tolist(), texts, logits.tolist(), strict=True)
    ]


# -- heads -------------------------------------------------------------------------------------------------------------
def _head(model: Model, unit: Unit, other: int | None) -> Generator[Said | None, None, dict[str, Any]]:
    ids = learned_vocabulary(model).ids.cpu()
    special = set(model.tokenizer.all_special_ids)
    words = [i for i in ids.tolist() if i not in special]
    tokens = words if len(words) <= MOST_TOKENS else words[:: -(-len(words) // MOST_TOKENS)]
    streams = token_streams(model, tokens)
    yield Said(0.4, f"{len(tokens)} tokens through the layer")
    read = _read(model, unit.layer, streams)
    yield Said(0.7, "pairs")
    named = {"unit": unit.index} | ({} if other is None else {"other": other})
    return {
        "kind": "head", "other_index": other, "n_tokens": len(tokens), "all_tokens": len(words), "no_qk": read.no_qk,
        **{name: _pairs(model, read, streams, tokens, index) for name, index in named.items()},
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Read:
    """One layer on single tokens: what heads write `each` [token, head, d_model], `q` [token, head, d], `k` [token, kv head, d]."""

    each: Tensor
    q: Tensor | None
    k: Tensor | None
    no_qk: str


@torch.no_grad()
def _read(model: Model, layer: int, streams: TokenStreams) -> _Read:
    """The layer alone: its stream set to that of each token, at the first place, where no position has been turned yet."""
    stream = streams.embedded if layer == 0 else streams.processed
    batch = Batch(tuple((model.pad_id,) for _ in stream))
    with model.edited(Edit(Site("resid_pre", layer), "set", value=stream)):
        acts = model.capture(batch, ["z", "attn_out"], layers=[layer])
        try:
            seen = model.capture(batch, ["q", "k"], layers=[layer])
            q, k, no_qk = seen.at("q", layer).float(), seen.at("k", layer).float(), ""
        except SiteError as error:
            q, k, no_qk = None, None, str(error)
    return _Read(head_outputs(model, acts, layer).each, q, k, no_qk)


@torch.no_grad()
def _pairs(model: Model, read: _Read, streams: TokenStreams, tokens: list[int], head: int) -> dict[str, Any]:
    """The strongest pairs of one head, and in what share of the tokens it says the token itself first among them."""
    index = torch.tensor(tokens)
    ov = answer_logits(model, read.each[:, head], streams.processed, index).float().cpu()
    ov = ov - ov.mean(1, keepdim=True)  # what is said of every token alike changes no probability
    found: dict[str, Any] = {
        "ov": _top_pairs(model, ov, tokens), "ov_against": _top_pairs(model, -ov, tokens, sign=-1.0),
        "copying": float((ov.argmax(1) == torch.arange(len(tokens))).float().mean()),
    }  # fmt: skip
    if read.q is not None and read.k is not None:
        shared = head * read.k.shape[1] // read.q.shape[1]
        qk = (read.q[:, head] @ read.k[:, shared].T / read.q.shape[-1] ** 0.5).cpu()
        qk = qk - qk.mean(1, keepdim=True)  # softmax does not see what all keys have in common
        found |= {
            "qk": _top_pairs(model, qk, tokens),
            "same": float((qk.argmax(1) == torch.arange(len(tokens))).float().mean()),
        }
    return found


def _top_pairs(model: Model, scores: Tensor, tokens: list[int], sign: float = 1.0) -> list[dict[str, Any]]:
    """The `TOP` largest entries [from, to], at most one for each token on the left."""
    best = scores.max(1)
    rows = best.values.topk(min(TOP, len(best.values))).indices
    left, right = np.array(tokens)[rows.numpy()], np.array(tokens)[best.indices[rows].numpy()]
    texts = [exact_token_texts(model, side).tolist() for side in (left, right)]
    values = (sign * best.values[rows]).tolist()
    return [{"from": a, "to": b, "score": v} for a, b, v in zip(*texts, values, strict=True)]
