"""How what the heads (or neurons) of one block hold becomes what its sublayer adds to the stream, as a linear map.

From `z` to `attn_out`, or from `mlp_post` to `mlp_out`: the output projection, its bias apart, then a norm (Gemma-2, OLMo-2) held
at its real input, then the residual multiplier. Every map is tried on the tokens it was made from: the parts of all units and the
constant must give back what was added, or there is a named error.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from conceptlab.errors import SiteError
from conceptlab.model.frozen_norm import FrozenNorm, allowed_error, freeze_norm
from conceptlab.model.model import Model
from conceptlab.model.sums import matches

ENDS_IN = {"z": "attn_out", "mlp_post": "mlp_out"}
EXACT = 1e-5  # of the parts' sum in single precision


@dataclass(frozen=True, eq=False)
class OutputMap:
    """`matrix` [in, d_model] (units one after the other), `bias` [d_model], the sublayer's own `norm` or None, the multiplier."""

    matrix: Tensor
    bias: Tensor
    norm: FrozenNorm | None
    scale: float

    def parts(self, inputs: Tensor) -> Tensor:
        """What each unit adds, [token, unit, d_model] float32, of `inputs` [token, unit, width]."""
        split = self.matrix.unflatten(0, (inputs.shape[1], -1)).to(torch.float32)
        return self.after(torch.einsum("tuw,uwd->tud", inputs.float(), split))

    def after(self, written: Tensor) -> Tensor:
        """What the stream gets of `written` [token, ..., d_model], a share of the projection's output."""
        kept = written if self.norm is None else self.norm.of(written)
        return kept * self.scale

    def constant(self, n_tokens: int) -> Tensor:
        """What is added whatever the units hold, [token, d_model] float32: the biases of the projection and of the norm."""
        made = self.after(self.bias.float().expand(n_tokens, -1))
        return made if self.norm is None else made + self.norm.bias.to(made) * self.scale

    def pull(self, directions: Tensor) -> Tensor:
        """Directions [token, k, in] (float64) whose product with the units' inputs is that of `parts` with `directions`
        [token, k, d_model]."""
        kept = directions.double() if self.norm is None else self.norm.pull(directions.double())
        return (kept * self.scale) @ self.matrix.double().T


def projection(module: nn.Module, width: int) -> tuple[Tensor, Tensor]:
    """A linear module as matrix [width, out] and bias [out]: its own tensors where it is plain, else what it answers to unit
    vectors (quantised and adapted ones)."""
    from transformers.pytorch_utils import Conv1D

    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    plain = type(module) in (nn.Linear, Conv1D) and isinstance(weight, Tensor) and weight.is_floating_point()
    if plain and weight is not None and weight.device.type != "meta":
        matrix = weight.detach().T if type(module) is nn.Linear else weight.detach()
        return matrix, matrix.new_zeros(matrix.shape[1]) if bias is None else bias.detach()
    like = next(p for p in module.parameters() if p.is_floating_point())
    with torch.no_grad():
        bias = module(like.new_zeros(1, 1, width))[0, 0]
        rows = [
            module(torch.eye(width, device=like.device, dtype=like.dtype)[None, at : at + 1024])[0] - bias
            for at in range(0, width, 1024)
        ]
    return torch.cat(rows), bias


def output_map(model: Model, site: str, layer: int, inputs: Tensor, added: Tensor) -> OutputMap:
    """The map of block `layer` from `site` ("z" or "mlp_post") to what its sublayer adds.

    `inputs` [token, unit, width] (neurons: [token, d_mlp]) and `added` [token, d_model] are captured values of the same tokens; a
    norm in between is held at them. Raises SiteError where the site is missing, or something stands between that does not add up.
    """
    read, out = model.tap(site, layer), model.tap(ENDS_IN[site], layer)
    if read.side != "input":
        raise SiteError(
            f"{model.name}: at L{layer} no projection reads {site} alone, so it cannot be split over heads or neurons"
        )
    flat = inputs.flatten(1)
    matrix, bias = projection(read.module, flat.shape[-1])
    written = flat.float() @ matrix.float() + bias.float()
    exact = torch.float32 if added.dtype == torch.float64 else added.dtype
    limit = EXACT if exact == torch.float32 else allowed_error(exact)
    if matches(written * out.scale, added.float(), limit):
        return OutputMap(matrix, bias, None, out.scale)
    where = f"{model.name}: between L{layer}.{site} and {ENDS_IN[site]}"
    if list(out.module.children()) or out.module is read.module:
        raise SiteError(f"{where} stands more than a projection and a norm (a gate?), so parts do not add up")
    norm = freeze_norm(out.module, written.to(added.dtype), added / out.scale, name=where)
    made = OutputMap(matrix, bias, norm, out.scale)
    if not matches(made.after(written) + norm.bias.to(written) * out.scale, added.float(), limit):
        raise SiteError(f"{where} stands more than a projection and a norm, so parts do not add up")
    return made
