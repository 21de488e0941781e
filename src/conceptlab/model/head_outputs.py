"""What each head adds to the stream: `z[h] @ W_O[h]`, after the sublayer's own norm and the residual multiplier, the bias apart."""

from dataclasses import dataclass

from torch import Tensor

from conceptlab.model.capture import Activations
from conceptlab.model.model import Model
from conceptlab.model.output_map import OutputMap, output_map


@dataclass(frozen=True, eq=False)
class HeadOutputs:
    """One block: `each` [token, head, d_model] and `bias` [token, d_model], float32, whose sum is what attention adds; `through`
    maps any other mix of values (part of a pattern) the same way."""

    each: Tensor
    bias: Tensor
    through: OutputMap


def head_outputs(model: Model, acts: Activations, layer: int) -> HeadOutputs:
    """Split one block's attention over its heads, from activations that hold `z` and `attn_out` of that layer.

    Their sum is checked against `attn_out` (1e-5 relative in single precision). Raises SiteError where the layer has no `z`, or
    more than a projection and a norm stands between the heads and the stream.
    """
    z, added = acts.at("z", layer), acts.at("attn_out", layer)
    through = output_map(model, "z", layer, z, added)
    return HeadOutputs(through.parts(z), through.constant(len(z)), through)
