"""A norm read backwards at given streams: how a gradient at its output becomes one at its input, for many gradients at once.

The derivative of y = gain * (x - mean) / s(x) + bias is, per token, a scaling and one product: with x the centred stream,
J^T g = a * centred(gain * g) - b * x <x, gain * g>. The two numbers a and b of each token are read off one backward through the
module itself, which has d_model equations for them; where those do not hold, the module is no such norm and nothing is returned.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from conceptlab.errors import SiteError
from conceptlab.model.frozen_norm import allowed_error, freeze_norm


@dataclass(frozen=True, eq=False)
class NormPullback:
    """`gain`, `bias` [d_model], `a`, `b` [token], `x` [token, d_model]: the (centred) streams. `is_identity`: nothing is
    normed."""

    gain: Tensor
    bias: Tensor
    centred: bool
    a: Tensor
    b: Tensor
    x: Tensor
    is_identity: bool = False

    def of(self, grads: Tensor) -> Tensor:
        """Gradients at the stream of `grads` [..., token, d_model] at the norm's output."""
        if self.is_identity:
            return grads
        scaled = grads * self.gain
        along = (scaled * self.x).sum(-1, keepdim=True)
        scaled = scaled - scaled.mean(-1, keepdim=True) if self.centred else scaled
        return scaled * self.a[:, None] - self.x * (self.b[:, None] * along)


def no_pullback(given: Tensor) -> NormPullback:
    """The map of a block that norms nothing before it reads."""
    one, zero = torch.ones_like(given[0]), torch.zeros_like(given[0])
    return NormPullback(one, zero, False, one.new_ones(len(given)), one.new_zeros(len(given)), given, is_identity=True)


def norm_pullback(module: nn.Module, given: Tensor, made: Tensor) -> NormPullback | None:
    """The map of `module` at the streams `given` [token, d_model] that it turned into `made`, float32; None where it has no such
    form."""
    try:
        frozen = freeze_norm(module, given, made)
    except (SiteError, RuntimeError):  # another form, or not made for one token
        return None
    gain, bias = frozen.gain.float(), frozen.bias.float()
    x = given.float()
    x = x - x.mean(-1, keepdim=True) if frozen.centred else x
    tried = _cotangent(made.float() - bias)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = given.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(module(leaf[None])[0], leaf, tried.to(given.dtype))
    a, b = _solved(x, tried * gain, found.float(), centred=frozen.centred)
    map_ = NormPullback(gain, bias, frozen.centred, a, b, x)
    error = (map_.of(tried) - found).norm(dim=-1)
    fits = error <= 10 * allowed_error(given.dtype) * found.float().norm(dim=-1) + 1e-30
    return map_ if bool(fits.all()) else None


def _cotangent(y: Tensor) -> Tensor:
    """Along the output, which is what the product sees, and aside of it, which is what it does not."""
    aside = torch.randn(y.shape[-1], generator=torch.Generator().manual_seed(0)).to(y)
    return y / y.norm(dim=-1, keepdim=True).clamp_min(1e-30) + aside / aside.norm()


def _solved(x: Tensor, g: Tensor, found: Tensor, *, centred: bool) -> tuple[Tensor, Tensor]:
    """a and b [token] from found = a * centred(g) - b * x <x, g>."""
    energy, along = x.square().sum(-1), (x * g).sum(-1)
    g = g - g.mean(-1, keepdim=True) if centred else g
    share = (x * g).sum(-1) / energy.clamp_min(1e-30)
    aside = g - share[:, None] * x
    a = (found * aside).sum(-1) / (g * aside).sum(-1).clamp_min(1e-30)
    left = ((a[:, None] * g - found) * x).sum(-1)
    product = energy * along
    b = torch.where(product.abs() > 1e-30, left / torch.where(product == 0, 1.0, product), 0.0)
    return a, b
