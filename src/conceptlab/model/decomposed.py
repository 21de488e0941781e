"""Run blocks on a split stream: every activation is relevant + irrelevant, and both go through the model's own code.

The two parts ride as rows of one batch through the unmodified block, which does all the wiring (projections, rotary, residual
sums and multipliers); hooks put right what is not linear (`split_rules.py`): biases are dealt out by size, norms keep the scale
of the sum, attention follows a stated rule, and at the neurons the irrelevant part is what the MLP makes of it alone while the
relevant one is the rest of the clean activation. Nothing here knows an architecture: norms are recognised by what they compute,
linear maps as `trace.is_linear` does. After every block the parts must add up to the clean stream; a piece that cannot be followed
(a router, a gate between heads and output projection) breaks that sum and is a SiteError which names the block.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.errors import SiteError
from conceptlab.model.attention import AttentionCall, handle_attention
from conceptlab.model.batch import Batch
from conceptlab.model.blocks import CleanRun, record_run
from conceptlab.model.instrument import Placed
from conceptlab.model.model import Model
from conceptlab.model.split_rules import (
    NormForm,
    Rule,
    attention_rule,
    halves,
    linear_rule,
    norm_form,
    norm_rule,
    outermost,
    with_bias,
)
from conceptlab.model.trace import is_linear

# layer, site ("q", "k" or "v") and the stacked tensor [2k, pos, head, d_head] that enters attention
OnAttention = Callable[[int, str, Tensor], None]
NO_MLP = "this block has no MLP"


@dataclass(eq=False)
class Decomposer:
    """Decomposition of one clean run. Make one with `decompose`.

    `run` holds the clean streams, `neurons` [layer] the clean `mlp_post` [row, pos, d_mlp] (None without an MLP); `forwards` counts
    forward-equivalents (a block on one stacked row is two of its L blocks); `sum_error` is the largest relative error of the sum.
    """

    run: CleanRun
    neurons: list[Tensor | None]
    rule: Rule
    forwards: float = 0.0
    sum_error: float = 0.0
    _norms: dict[int, NormForm | None] = field(default_factory=dict)
    _biases: dict[int, Tensor | None] = field(default_factory=dict)
    _rows: Tensor | None = None
    _alive: Tensor | None = None

    @property
    def model(self) -> Model:
        """The model whose run this is."""
        return self.run.model

    @property
    def tolerance(self) -> float:
        """Largest relative error of the sum that counts as rounding."""
        return 1e-4 if self.run.streams.dtype in (torch.float32, torch.float64) else 3e-2

    def block(
        self, layer: int, stacked: Tensor, rows: Tensor, visits: Sequence[Placed] = (), watch: OnAttention | None = None
    ) -> Tensor:
        """Block `layer` on the stacked stream [2k, pos, d_model] of clean rows `rows` [k]; gives the stacked stream after it.

        `visits` read or rewrite sites, which they see stacked (`z` to place a source there, for example); `watch` is shown
        q, k and v. Raises SiteError where the block lacks a site that the rules need or holds a piece that they do not cover.
        """
        self._check(layer)
        self._rows, self._alive = rows, None
        with torch.no_grad(), self._hooked(layer, watch), self.model.instrument.visiting(visits):
            out = self.run.block(layer, stacked, torch.cat([rows, rows]))
        self.forwards += 2 * len(rows) / self.model.n_layers
        self.model.forwards += 2 * len(rows) / self.model.n_layers
        self._verify(layer, out, rows)
        return out

    @torch.no_grad()
    def apart(self, stacked: Tensor) -> float:
        """Relative miss of the sum after all blocks when the parts [2 row, pos, d_model] run each alone, without any rule."""
        rows = torch.arange(self.run.n_rows, device=stacked.device)
        for layer in range(self.model.n_layers):
            stacked = self.run.block(layer, stacked, torch.cat([rows, rows]))
        self.model.forwards += len(stacked)
        return float((sum(halves(stacked)) - self.run.streams[-1]).norm() / self.run.streams[-1].norm())

    @torch.no_grad()
    def logits(self, stacked: Tensor, tokens: Tensor) -> Tensor:
        """Parts of chosen logits [2k, t] (before any soft cap) from the stacked stream [2k, d_model]; `tokens` [k, t] are ids."""
        stack = self.model.stack
        if "lens" in stack.missing or "logits" in stack.missing:
            raise SiteError(f"{self.model.name} has no lens: {stack.missing.get('lens') or stack.missing['logits']}")
        normed = stacked
        if stack.final_norm is not None:
            normed = self._normed(stack.final_norm.module, stacked[:, None])[:, 0]
        weight = self.model.unembedding[tokens.to(normed.device)]
        relevant, irrelevant = (torch.einsum("kd,ktd->kt", part, weight) for part in halves(normed))
        bias = getattr(stack.unembed, "bias", None)
        parts = (
            torch.cat([relevant, irrelevant])
            if bias is None
            else with_bias(relevant, irrelevant, bias[tokens], self.rule)
        )
        return parts * stack.logit_scale

    def _check(self, layer: int) -> None:
        block = self.model.stack.blocks[layer]
        if block.missing.get("mlp_out") != NO_MLP:
            self.model.tap("mlp_post", layer)
        if "attn_out" in block.taps:
            self.model.tap("pattern", layer)

    def _verify(self, layer: int, out: Tensor, rows: Tensor) -> None:
        clean = self.run.streams[layer + 1][rows]
        off = (sum(halves(out)) - clean).flatten(1).norm(dim=1)
        worst = float((off / clean.flatten(1).norm(dim=1)).max())
        self.sum_error = max(self.sum_error, worst) if worst == worst else float("nan")
        if not worst <= self.tolerance:
            raise SiteError(
                f"{self.model.name}: in block {layer} relevant + irrelevant miss the clean stream by {worst:.1e} of its size, "
                "so the block holds a piece that contextual decomposition has no rule for (a gate, a router, a convolution); "
                "use activation patching there"
            )

    @contextmanager
    def _hooked(self, layer: int, watch: OnAttention | None) -> Iterator[None]:
        block, handles = self.model.stack.blocks[layer], []
        try:
            for module in outermost(block.module, is_linear):
                handles.append(module.register_forward_hook(self._after_linear, with_kwargs=True))
            for module in outermost(block.module, lambda m: not is_linear(m) and not list(m.children())):
                handles.append(module.register_forward_hook(self._after_leaf, with_kwargs=True))
            if "mlp_post" in block.taps:
                handles.append(self._before_down(layer))
            with handle_attention(self.model.runner, self._on_attention(layer, watch)):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _after_linear(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        given = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        if id(module) not in self._biases:
            bias = module.forward(given.new_zeros(1, given.shape[-1]))[0]
            self._biases[id(module)] = bias if bool(bias.any()) else None
        alive = (halves(given)[0] != 0).any(-1).flatten()
        self._alive = alive if self._alive is None else self._alive | alive
        return linear_rule(output, self._biases[id(module)], self.rule)

    def _after_leaf(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        given = args[0] if len(args) == 1 and not kwargs else None
        if not isinstance(given, Tensor) or not isinstance(output, Tensor) or output.shape != given.shape:
            return None
        return None if self._form(module, given) is None else self._normed(module, given)

    def _form(self, module: nn.Module, stacked: Tensor) -> NormForm | None:
        if id(module) not in self._norms:
            self._norms[id(module)] = norm_form(module.forward, sum(halves(stacked)), self.tolerance)  # type: ignore[arg-type]
        return self._norms[id(module)]

    def _normed(self, module: nn.Module, stacked: Tensor) -> Tensor:
        form = self._form(module, stacked)
        if form is None:
            raise SiteError(f"{self.model.name}: {type(module).__name__} is no norm whose scale can be held")
        return norm_rule(form, stacked, module.forward, self.rule)

    def _before_down(self, layer: int) -> Any:
        """The neurons: the irrelevant part is what the MLP made of it alone, the relevant part the rest of the clean activation."""
        tap, clean = self.model.tap("mlp_post", layer), self.neurons[layer]

        def before(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            raw = args[tap.key] if isinstance(tap.key, int) else kwargs[tap.key]
            irrelevant, rows, alive = halves(raw)[1], self._rows, self._alive
            if clean is None or rows is None or alive is None:
                raise SiteError(f"{self.model.name}: the neurons of block {layer} were not recorded")
            rest = clean[rows].reshape(irrelevant.shape) - irrelevant
            # a token whose relevant part is exactly 0 keeps it exactly 0
            new = torch.cat([torch.where(alive.reshape(*rest.shape[:-1], 1), rest, 0.0), irrelevant])
            if isinstance(tap.key, int):
                return (*args[: tap.key], new, *args[tap.key + 1 :]), kwargs
            return args, {**kwargs, str(tap.key): new}

        return tap.module.register_forward_pre_hook(before, with_kwargs=True)

    def _on_attention(self, layer: int, watch: OnAttention | None) -> Any:
        def handler(_module: nn.Module, call: AttentionCall, _delegate: Callable[..., Any]) -> Any:
            if watch is not None:
                for site in ("q", "k", "v"):
                    watch(layer, site, getattr(call, site).transpose(1, 2))
            return attention_rule(call, self.rule), None

        return handler


def decompose(model: Model, batch: Batch, *, rule: Rule = "fixed", extra: Sequence[Placed] = ()) -> Decomposer:
    """Record the clean run of rows of one length, ready to be decomposed; `extra` visits see the same forward.

    Cost: one forward; memory: streams and neurons of every layer. Raises as `record_run` does.
    """
    neurons: list[Tensor | None] = [None] * model.n_layers

    def keep(layer: int) -> Callable[[Tensor], None]:
        def visit(view: Tensor) -> None:
            neurons[layer] = view.detach().clone()

        return visit

    visits: list[Placed] = [(model.tap("mlp_post", i), i, False, keep(i)) for i in model.layers_with("mlp_post")]
    run = record_run(model, batch, extra=(*visits, *extra))
    return Decomposer(run, neurons, rule)
