"""A norm as a fixed linear map: its scale held at what one stream gave, so that the parts of that stream add up through it.

A norm of the field is y = gain * (x - mean) / s(x) + bias, with or without the mean, the bias, and a gain written as g or 1 + g.
Which of these it is, is asked of the module itself by a few calls, not told by its class; s is solved from the real input and
output; and a module that is no such norm (a tanh, a norm over groups) is told by a named error.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from conceptlab.errors import SiteError


def allowed_error(dtype: torch.dtype) -> float:
    """Relative error that rounding explains: of a module that computes in `dtype`."""
    return 1e-4 if dtype in (torch.float32, torch.float64) else 3e-2


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """y = gain * centred(x) * inverse[token] + bias: `gain`, `bias` [d_model], `inverse` [token]; `gain` holds the norm's own
    gain up to a factor that `inverse` takes back."""

    gain: Tensor
    bias: Tensor
    inverse: Tensor
    centred: bool

    def of(self, parts: Tensor) -> Tensor:
        """The share of each part [token, ..., d_model] in the norm's output, without the bias; shares of a sum add up."""
        return self.gain.to(parts) * _centred(parts, self.centred) * self._factor(parts)

    def pull(self, directions: Tensor) -> Tensor:
        """Directions d' [token, ..., d_model] with <part, d'> = <of(part), d>: the same map read backwards."""
        return _centred(directions * self.gain.to(directions), self.centred) * self._factor(directions)

    def select(self, tokens: Tensor) -> "FrozenNorm":
        """The same for some of the tokens."""
        return FrozenNorm(self.gain, self.bias, self.inverse[tokens.to(self.inverse.device)], self.centred)

    def _factor(self, like: Tensor) -> Tensor:
        return self.inverse.to(like).reshape(-1, *[1] * (like.dim() - 1))


def _centred(x: Tensor, centred: bool) -> Tensor:
    return x - x.mean(-1, keepdim=True) if centred else x


def no_norm(stream: Tensor) -> FrozenNorm:
    """The map of a model that norms nothing: y = x."""
    d_model = stream.shape[-1]
    one = torch.ones(d_model, dtype=torch.float32, device=stream.device)
    return FrozenNorm(one, torch.zeros_like(one), one.new_ones(len(stream)), centred=False)


@torch.no_grad()
def freeze_norm(module: nn.Module, given: Tensor, made: Tensor, *, name: str = "the norm") -> FrozenNorm:
    """Freeze `module` at the streams `given` [token, d_model] that it turned into `made` [token, d_model].

    Raises SiteError where it is no scaled copy of its (centred) input, checked on these very streams.
    """
    gain, bias, centred = _form(module, given)
    x, y = _centred(given.float(), centred) * gain, made.float() - bias
    inverse = (x * y).sum(-1) / (x * x).sum(-1).clamp_min(1e-30)
    error = (x * inverse[:, None] - y).norm(dim=-1) / made.float().norm(dim=-1).clamp_min(1e-30)
    if not bool((error <= allowed_error(given.dtype)).all()):
        raise SiteError(
            f"{name} ({type(module).__name__}) is no gain on a scaled stream (off by {float(error.max()):.1e}), "
            "so it cannot be held fixed and parts do not add up through it"
        )
    return FrozenNorm(gain, bias, inverse, centred)


@torch.no_grad()
def norm_gain(module: nn.Module, like: Tensor) -> tuple[Tensor, bool]:
    """The gain [d_model] that `module` gives a stream of mean square 1, and whether it takes the mean out. Raises nothing: whether
    the module is such a norm is for `freeze_norm` to say."""
    gain, _, centred = _form(module, like)
    return gain * _centred(_probe(like), centred).square().mean().sqrt(), centred


def _probe(like: Tensor) -> Tensor:
    t = torch.ones(like.shape[-1], dtype=torch.float32, device=like.device)
    t[1::2] = -1.0
    t[::3] *= 1.5  # so that the mean is not 0 and centring can be seen
    return t / t.square().mean().sqrt()


def _form(module: nn.Module, like: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Gain up to a factor, bias, and whether the mean is taken out, from four calls on made-up vectors.

    Norms are odd but for their bias, f(x) + f(-x) = 2 bias, and one that centres does not see a constant that is added.
    """
    t = _probe(like)
    probes = torch.stack([t, -t, t + 0.5]).to(like.dtype)
    plus, minus, moved = (module(p.reshape(1, 1, -1))[0, 0].float() for p in probes)
    bias = (plus + minus) / 2
    centred = bool((moved - plus).norm() <= allowed_error(like.dtype) * (plus - bias).norm())
    seen = _centred(probes[0].float(), centred)
    return (plus - bias) / seen, bias, centred
