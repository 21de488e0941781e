"""What the neurons of an MLP read and write, as vectors of the stream, straight from the weights.

A neuron writes its row of the down projection, through the sublayer's own norm and multiplier where there are any. It reads what
the MLP's norm makes of the stream, so the norm's gain belongs to what it reads (and the mean is taken out where the norm does
that). Norms are asked what they do, not told by their class; a norm's scale is no constant of the weights, so vectors are true up
to a positive factor of each layer.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from conceptlab.errors import SiteError
from conceptlab.model.batch import Batch
from conceptlab.model.frozen_norm import norm_gain
from conceptlab.model.model import Model
from conceptlab.model.output_map import output_map, projection
from conceptlab.model.tap import Tap

GATES = "this method reads gates: use a model with a gated MLP (SwiGLU, GEGLU), or methods that read the output side"


@dataclass(frozen=True, eq=False)
class Gain:
    """A norm without its scale: `gain` [d_model], and whether the mean is taken out; None gains are 1."""

    gain: Tensor | None = None
    centred: bool = False

    def of(self, rows: Tensor) -> Tensor:
        """What comes out where the stream holds `rows` [..., d_model]."""
        rows = rows - rows.mean(-1, keepdim=True) if self.centred else rows
        return rows if self.gain is None else rows * self.gain.to(rows)

    def back(self, rows: Tensor) -> Tensor:
        """Stream vectors whose product with a stream is that of `rows` with what comes out."""
        rows = rows if self.gain is None else rows * self.gain.to(rows)
        return rows - rows.mean(-1, keepdim=True) if self.centred else rows


@dataclass(frozen=True, eq=False)
class NeuronWeights:
    """Float32 vectors [neuron, d_model]: `out` is written; `up` and `gate` are rows of the projections (`gate` None: this MLP has
    none, and `up` enters the nonlinearity), and `norm` stands before them."""

    layer: int
    out: Tensor
    up: Tensor
    gate: Tensor | None
    norm: Gain

    def reads(self, name: Literal["up", "gate"]) -> Tensor:
        """What a neuron reads from the stream, [neuron, d_model], the norm's gain folded in. Raises SiteError without gates."""
        rows = self.up if name == "up" else self.gate
        if rows is None:
            raise SiteError(f"the MLP of layer {self.layer} has no gates; {GATES}")
        return self.norm.back(rows)


def neuron_weights(model: Model, layers: Sequence[int] | None = None, *, fold: bool = True) -> list[NeuronWeights]:
    """The weights of every layer that has neurons, or of `layers`; without `fold` norms count as none. Cost: one forward of a few
    tokens.

    Raises SiteError where a layer has no neurons, or its projections are no matrices of the stream, and with `fold` where what
    the MLP reads is no norm of the stream.
    """
    chosen = tuple(model.layers_with("mlp_post") if layers is None else layers)
    for layer in chosen or (0,):
        model.tap("mlp_post", layer)
        model.tap("mlp_pre", layer)
    heard = _Heard(model, chosen)
    return [_layer(model, layer, heard, fold=fold) for layer in chosen]


def end_gain(model: Model, *, fold: bool = True) -> Gain:
    """The final norm as a gain. Raises SiteError where it gives more than a stream."""
    tap = model.stack.final_norm
    if tap is None or not fold:
        return Gain()
    if tap.key is not None:
        raise SiteError(f"{model.name}: the final norm gives more than a stream; use fold=False")
    return Gain(*norm_gain(tap.module, next(tap.module.parameters(), model.unembedding).detach().reshape(1, -1)))


def need_gates(model: Model) -> None:
    """Raises SiteError for a model without a gated MLP in any layer."""
    if not model.layers_with("mlp_pre_linear"):
        model.tap("mlp_post", 0)  # says why, where there are no neurons at all
        raise SiteError(f"{model.name} has no gated MLP; {GATES}")


class _Heard:
    """One short forward: sublayers before and after their output map, and which module gave each MLP what it reads."""

    def __init__(self, model: Model, layers: Sequence[int]) -> None:
        ids = torch.arange(1, 1 + min(6, model.max_length, model.unembedding.shape[0] - 1 if model.has_logits else 6))
        self.norms: dict[int, nn.Module | None] = {}
        with ExitStack() as hooks:
            for layer in layers:
                self._listen(model, layer, hooks)
            self.acts = model.capture(
                Batch((tuple(ids.tolist()),)), ["mlp_post", "mlp_out", "resid_pre"], positions="all"
            )

    def _listen(self, model: Model, layer: int, hooks: ExitStack) -> None:
        made: list[tuple[nn.Module, Tensor]] = []
        first = model.tap("mlp_pre", layer).module

        def keep(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            given = args[0] if args else None
            if isinstance(out, Tensor) and isinstance(given, Tensor) and not _same(out, given):  # dropout hands on
                made.append((module, out))

        def match(_: nn.Module, args: tuple[Any, ...]) -> None:
            given = args[0] if args else None
            self.norms[layer] = next((m for m, out in reversed(made) if given is not None and _same(out, given)), None)

        for module in model.stack.blocks[layer].module.modules():
            if not list(module.children()):
                hooks.callback(module.register_forward_hook(keep).remove)
        hooks.callback(first.register_forward_pre_hook(match).remove)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and bool(torch.equal(one.reshape(-1), other.reshape(-1)))


@torch.no_grad()
def _layer(model: Model, layer: int, heard: _Heard, *, fold: bool) -> NeuronWeights:
    acts = heard.acts
    through = output_map(model, "mlp_post", layer, acts.at("mlp_post", layer), acts.at("mlp_out", layer))
    out = through.matrix.float() * through.scale
    if through.norm is not None:
        out = out - out.mean(1, keepdim=True) if through.norm.centred else out
        out = out * through.norm.gain.to(out)
    gated = layer in model.layers_with("mlp_pre_linear")
    first = _read(model, model.tap("mlp_pre", layer))
    up = _read(model, model.tap("mlp_pre_linear", layer)) if gated else first
    return NeuronWeights(layer, out, up, first if gated else None, _norm(model, layer, heard) if fold else Gain())


def _read(model: Model, tap: Tap) -> Tensor:
    """Rows [neuron, d_model] of the projection whose output is this site."""
    matrix, _ = projection(tap.module, model.d_model)
    rows = matrix.T.float()
    return rows if tap.split is None else rows[tap.split[0] : tap.split[1] : tap.split[2]]


def _norm(model: Model, layer: int, heard: _Heard) -> Gain:
    norm = heard.norms.get(layer)
    if norm is not None:
        return Gain(*norm_gain(norm, heard.acts.at("resid_pre", layer)))
    if model.stack.blocks[layer].post_norm:
        return Gain()  # the stream itself is normed
    raise SiteError(f"{model.name}: what the MLP of layer {layer} reads is no norm of the stream; use fold=False")
