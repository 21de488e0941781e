"""The final stream as the sum of what each component added: the embedding, heads (or whole sublayers), MLPs, biases."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from conceptlab.errors import SiteError
from conceptlab.model.capture import Activations
from conceptlab.model.head_outputs import head_outputs
from conceptlab.model.model import Model

By = Literal["head", "sublayer"]
SUBLAYERS = {
    "attn_out": "attn",
    "cross_attn_out": "cross_attn",
    "mixer_out": "mixer",
    "mlp_out": "mlp",
    "extra_out": "extra",
}


def component_sites(model: Model, by: By) -> list[str]:
    """Sites to capture (all layers) before `components` can split. Raises SiteError where blocks do not add to one stream."""
    for layer, block in enumerate(model.stack.blocks):
        if block.post_norm:
            raise SiteError(
                f"{model.name}: block {layer} norms the stream itself (a post-norm block), so its stream is no sum of components"
            )
        if not any(site in block.taps for site in SUBLAYERS):
            model.tap("mlp_out", layer)  # raises with the reason
    present = [site for site in SUBLAYERS if model.layers_with(site)]
    if by == "head":
        for layer in model.layers_with("attn_out"):
            model.tap("z", layer)
        if model.layers_with("z"):
            present.append("z")
    return ["embed", *present, "resid_post"]


def components(model: Model, acts: Activations, by: By) -> Iterator[tuple[list[str], Tensor]]:
    """Names and parts [token, component, d_model] (float32) of the stream, block after block, from a capture of `component_sites`.

    Names are `embed`, `L0.H1`, `L0.attn.bias`, `L0.mlp`, with `by="sublayer"` `L0.attn` in place of heads.
    """
    yield ["embed"], acts["embed"][:, None].float()
    for layer, block in enumerate(model.stack.blocks):
        for site, short in SUBLAYERS.items():
            if site not in block.taps:
                continue
            if site == "attn_out" and by == "head":
                heads = head_outputs(model, acts, layer)
                names = [f"L{layer}.H{head}" for head in range(heads.each.shape[1])]
                yield [*names, f"L{layer}.attn.bias"], torch.cat([heads.each, heads.bias[:, None]], 1)
            else:
                yield [f"L{layer}.{short}"], acts.at(site, layer)[:, None].float()


def final_stream(model: Model, acts: Activations) -> Tensor:
    """What leaves the last block [token, d_model]."""
    return acts.at("resid_post", model.n_layers - 1)
