"""What a head says of a token that it looks at and nothing else: through the first MLP, the head's values and output, the
unembedding.

The stream of a token is what leaves block 0 when its attention adds nothing: the embedding and what the first MLP makes of it.
Heads of later blocks read that, through their own norm; heads of block 0 read the embedding. Logits are those of the head's output
alone, through the final norm's gain (its scale, one factor a token, changes no order) and without biases. The model's own blocks do
it on rows of one token, where attention is 1 on that token whatever the architecture, so that nothing is told of how it stores its
weights. Source: Elhage et al. 2021 (OV circuit); Wang et al. 2023 and Gould et al. 2023 (first MLP). Cost: one block for two tokens
and one forward for one token, for each token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conceptlab.model.batch import Batch
from conceptlab.model.frozen_end import end_norm
from conceptlab.model.head_outputs import head_outputs
from conceptlab.model.model import Model
from conceptlab.results import Edit, Site


@dataclass(frozen=True, eq=False)
class TokenStreams:
    """`embedded` and `processed` [token, d_model]: what stands at a token before block 0, and after it without its attention."""

    embedded: Tensor
    processed: Tensor


@torch.no_grad()
def token_streams(model: Model, tokens: Sequence[int]) -> TokenStreams:
    """Streams of single tokens, at position 1 where positions are learned (position 0 is often odd).

    Raises SiteError where block 0 has no attention of which the rest can be told apart.
    """
    batch = Batch(tuple((int(t), int(t)) for t in tokens))
    with model.edited(Edit(Site("attn_out", 0), "zero")):
        acts = model.capture(batch, ["embed", "resid_post"], layers=[0])
    return TokenStreams(acts["embed"], acts.at("resid_post", 0))


@torch.no_grad()
def ov_outputs(model: Model, streams: TokenStreams) -> Iterator[tuple[int, Tensor]]:
    """Layer, and what every head adds to the stream [token, head, d_model] when it looks at each token alone.

    Raises SiteError where heads cannot be told apart.
    """
    batch = Batch(tuple((model.pad_id,) for _ in streams.embedded))
    read = [streams.embedded if layer == 0 else streams.processed for layer in range(model.n_layers)]
    edits = [Edit(Site("resid_pre", layer), "set", value=stream) for layer, stream in enumerate(read)]
    if not model.layers_with("z"):
        model.tap("z", 0)  # says why no layer has it
    with model.edited(*edits):
        acts = model.capture(batch, ["z", "attn_out"])
    for layer in model.layers_with("z"):
        yield layer, head_outputs(model, acts, layer).each


def ov_answers(model: Model, tokens: Sequence[int], families: Sequence[Sequence[int]]) -> Tensor:
    """Which member of its family each head says most of each token: places in the family [layer, head, token], -1 where a layer's
    heads cannot be told apart.

    `families` hold places in `tokens`; a token that is in none has -1. Raises SiteError as `ov_outputs`, or without a lens.
    """
    streams, ids = token_streams(model, tokens), torch.as_tensor(list(tokens), dtype=torch.long)
    found = torch.full((model.n_layers, model.n_heads, len(ids)), -1, dtype=torch.long)
    for layer, outputs in ov_outputs(model, streams):
        for family in families:
            here = list(family)
            logits = answer_logits(model, outputs[here], streams.processed[here], ids[here])
            found[layer][:, here] = logits.argmax(-1).T.cpu()
    return found


@torch.no_grad()
def answer_logits(model: Model, outputs: Tensor, streams: Tensor, tokens: Tensor) -> Tensor:
    """Logits [case, ..., token] that `outputs` [case, ..., d_model] give `tokens`, up to one factor a case: the final norm is held
    at `streams` [case, d_model]. Raises SiteError where there is no unembedding to read with."""
    model.lens(streams[:1])  # says why
    read = end_norm(model, streams).of(outputs.float())
    return read @ model.unembedding[tokens.to(model.unembedding.device)].detach().to(read).T
