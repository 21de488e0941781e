"""Inside a block's MLP: neurons before and after the nonlinearity, gated or not; router and experts of a mixture."""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.model.sums import Part, matches, region, tolerance
from conceptlab.model.tap import Tap
from conceptlab.model.trace import Event, first_tensor, is_linear


def add_mlp(
    taps: dict[str, Tap], missing: dict[str, str], roles: dict[str, Part], inner: list[Event], config: Any, d_model: int
) -> None:
    if "mlp_out" not in roles:
        reason = missing.get("mlp_out", "this block has no MLP")
        missing.update({s: reason for s in ("mlp_pre", "mlp_pre_linear", "mlp_post", "router", "expert_out")})
        return
    events = region(roles, "mlp_out", inner)
    experts = next((e for e in events if _holds_experts(e.module)), None)
    if experts is not None:
        _add_experts(taps, missing, experts, events, config, roles["mlp_out"].event.value)
        return
    missing.update({s: "this MLP has no experts" for s in ("router", "expert_out")})
    linears = [
        e for e in events if is_linear(e.module) and e.value is not None and e.first_input is not None and "." in e.name
    ]
    downs = [e for e in linears if e.value.shape[-1] == d_model and e.order <= roles["mlp_out"].event.order]  # type: ignore[union-attr]
    if not downs:
        missing.update({s: "no down projection was found" for s in ("mlp_pre", "mlp_pre_linear", "mlp_post")})
        return
    down = _outermost_reader(downs[-1], linears)
    post = down.first_input
    if post is None:
        return
    taps["mlp_post"] = Tap(down.module, "input", next(iter(down.args)), post.shape[-1])  # type: ignore[union-attr]
    _add_pre(
        taps,
        missing,
        [e for e in linears if e is not down and e.order < down.order],
        post,
        _nonlinearities(config, events),
    )  # type: ignore[arg-type]


def _outermost_reader(down: Event, linears: list[Event]) -> Event:
    """An adapter's wrapper reads the same input as the map inside it; the wrapper is the one to change."""
    wrappers = [e for e in linears if e.name and down.name.startswith(f"{e.name}.")]
    return min(wrappers, key=lambda e: e.started, default=down)


ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function", "ffn_act_fn", "mlp_hidden_act", "activation")


COMMON = ("silu", "gelu", "relu", "relu2", "sigmoid", "tanh")


def _nonlinearities(config: Any, events: list[Event]) -> list[Callable[[Tensor], Tensor | None]]:
    """Functions that may be this MLP's nonlinearity: the config's, and every parameterless module that ran inside it."""
    from transformers.activations import ACT2FN

    found: list[Callable[[Tensor], Tensor | None]] = []
    for owner in (config, getattr(config, "text_config", None)):
        for value in (getattr(owner, name, None) for name in ACTIVATIONS):
            name = value.get("name") if isinstance(value, dict) else value
            if isinstance(name, str) and name in ACT2FN:
                found.append(ACT2FN[name])
    common = [ACT2FN[name] for name in COMMON]  # for files that call one by hand
    modules = [e for e in events if not list(e.module.parameters()) and e.first_input is not None]
    return [*found, *(_recorded(e) for e in modules), *common]


def _recorded(event: Event) -> Callable[[Tensor], Tensor | None]:
    """What a module gave for exactly this input during the trace, None for another input."""

    def lookup(x: Tensor) -> Tensor | None:
        given = event.first_input
        same = given is not None and given.shape == x.shape and bool(torch.equal(given, x))
        return event.value if same else None

    return lookup


def _add_pre(
    taps: dict[str, Tap],
    missing: dict[str, str],
    ups: list[Event],
    post: Tensor,
    acts: list[Callable[[Tensor], Tensor | None]],
) -> None:
    """Find what enters the nonlinearity by trying: act(a) = post, or act(a) * b = post, on whole or halved projections."""
    width, tol = post.shape[-1], tolerance(post.dtype) * 10
    sources: list[tuple[Event, tuple[int, int, int] | None]] = [(e, None) for e in ups if _width(e) == width]
    for event in (e for e in ups if _width(e) == 2 * width):
        sources += [(event, s) for s in ((0, width, 1), (width, 2 * width, 1), (0, 2 * width, 2), (1, 2 * width, 2))]
    values = [_cut(e.value, s) for e, s in sources]  # type: ignore[arg-type]
    for (gate, a), act in product(enumerate(values), acts):
        active = act(a)
        if active is None or active.shape[-1] != width:
            continue
        if matches(active, post, tol):
            taps["mlp_pre"] = _output_tap(*sources[gate], width)
            missing["mlp_pre_linear"] = "this MLP is not gated"
            return
        up = next((i for i, b in enumerate(values) if i != gate and matches(active * b, post, tol)), None)
        if up is not None:
            taps["mlp_pre"], taps["mlp_pre_linear"] = (
                _output_tap(*sources[gate], width),
                _output_tap(*sources[up], width),
            )
            return
    missing.update({s: "what enters the nonlinearity could not be told apart" for s in ("mlp_pre", "mlp_pre_linear")})


def _width(event: Event) -> int:
    return 0 if event.value is None else event.value.shape[-1]


def _output_tap(event: Event, split: tuple[int, int, int] | None, width: int) -> Tap:
    return Tap(event.module, "output", first_tensor(event.output)[1], width, split=split)


def _cut(value: Tensor, split: tuple[int, int, int] | None) -> Tensor:
    return value if split is None else value[..., split[0] : split[1] : split[2]]


CHOSEN = "the router has chosen the experts when it gives its scores; change mlp_out, or expert_out where there is one"


def _holds_experts(module: nn.Module) -> bool:
    own = any(p.dim() == 3 and min(p.shape) > 1 for p in module.parameters(recurse=False))
    return own or (isinstance(module, nn.ModuleList) and "expert" in type(module).__name__.lower())


def _add_experts(  # noqa: PLR0913 - one block's findings
    taps: dict[str, Tap],
    missing: dict[str, str],
    experts: Event,
    events: list[Event],
    config: Any,
    whole: Tensor | None,
) -> None:
    reason = "the experts hold their neurons in fused weights; read expert_out"
    missing.update({s: reason for s in ("mlp_pre", "mlp_pre_linear", "mlp_post")})
    value, key = first_tensor(experts.output)
    d_model = 0 if whole is None else whole.shape[-1]
    if value is not None and whole is not None and value.shape[-1] == d_model and value.numel() == whole.numel():
        taps["expert_out"] = Tap(experts.module, "output", key, d_model)
    else:
        missing["expert_out"] = "the experts' module returns no tensor of the stream's width"
    numbers = [
        getattr(c, n, None)
        for c in (config, getattr(config, "text_config", None))
        for n in ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
    ]
    counts = {n for n in numbers if isinstance(n, int)}
    for event in events:
        found = _with_width(event.output, counts) if event.order < experts.order else None
        if found is not None:
            read_only = "" if found[0] is None else CHOSEN  # a tuple holds the choice beside the scores
            taps["router"] = Tap(event.module, "output", found[0], found[1], read_only=read_only)
            return
    missing["router"] = "no router scores over the experts were found"


def _with_width(output: Any, widths: set[int]) -> tuple[int | str | None, int] | None:
    items = (
        [(None, output)] if isinstance(output, Tensor) else list(enumerate(output)) if isinstance(output, tuple) else []
    )
    for key, item in items:
        if isinstance(item, Tensor) and item.is_floating_point() and item.shape[-1] in widths:
            return key, item.shape[-1]
    return None
