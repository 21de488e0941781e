"""Inside a block's MLP: neurons before and after the nonlinearity, gated or not; router and experts of a mixture."""

from typing import Any

from torch import Tensor, nn

from conceptlab.model.sums import Part, matches, region, tolerance
from conceptlab.model.tap import Tap
from conceptlab.model.trace import Event, first_tensor, is_linear


def add_mlp(
    taps: dict[str, Tap], missing: dict[str, str], roles: dict[str, Part], inner: list[Event], config: Any, d_model: int
) -> None:
    if "mlp_out" not in roles:
        missing.update(
            {s: "this block has no MLP" for s in ("mlp_pre", "mlp_pre_linear", "mlp_post", "router", "expert_out")}
        )
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
    taps["mlp_post"] = Tap(down.module, "input", next(iter(down.args)), post.shape[-1])  # type: ignore[union-attr]
    _add_pre(taps, missing, [e for e in linears if e is not down and e.order < down.order], post, config)  # type: ignore[arg-type]


def _outermost_reader(down: Event, linears: list[Event]) -> Event:
    """An adapter's wrapper reads the same input as the map inside it; the wrapper is the one to change."""
    wrappers = [e for e in linears if e.name and down.name.startswith(f"{e.name}.")]
    return min(wrappers, key=lambda e: e.started, default=down)


def _activation(config: Any):
    from transformers.activations import ACT2FN

    for name in (
        "hidden_activation",
        "hidden_act",
        "activation_function",
        "hidden_action",
        "ffn_act_fn",
        "mlp_hidden_act",
        "activation",
    ):
        value = getattr(config, name, None)
        if isinstance(value, dict):
            value = value.get("name")
        if isinstance(value, str) and value in ACT2FN:
            return ACT2FN[value]
    return None


def _add_pre(taps: dict[str, Tap], missing: dict[str, str], ups: list[Event], post: Tensor, config: Any) -> None:
    """Find what enters the nonlinearity by trying: act(a) = post, or act(a) * b = post, on whole or halved projections."""
    act, width, tol = _activation(config), post.shape[-1], tolerance(post.dtype) * 10
    sources = [(e, None) for e in ups if e.value.shape[-1] == width]  # type: ignore[union-attr]
    for event in (e for e in ups if e.value.shape[-1] == 2 * width):  # type: ignore[union-attr]
        sources += [(event, s) for s in ((0, width, 1), (width, 2 * width, 1), (0, 2 * width, 2), (1, 2 * width, 2))]
    values = [_cut(e.value, s) for e, s in sources]  # type: ignore[arg-type]
    if act is not None:
        for (gate, cut), a in zip(sources, values, strict=True):
            active = act(a)
            if matches(active, post, tol):
                taps["mlp_pre"] = Tap(gate.module, "output", first_tensor(gate.output)[1], width, split=cut)
                missing["mlp_pre_linear"] = "this MLP is not gated"
                return
            for (up, other), b in zip(sources, values, strict=True):
                if matches(active * b, post, tol):
                    taps["mlp_pre"] = Tap(gate.module, "output", first_tensor(gate.output)[1], width, split=cut)
                    taps["mlp_pre_linear"] = Tap(up.module, "output", first_tensor(up.output)[1], width, split=other)
                    return
    missing.update({s: "what enters the nonlinearity could not be told apart" for s in ("mlp_pre", "mlp_pre_linear")})


def _cut(value: Tensor, split: tuple[int, int, int] | None) -> Tensor:
    return value if split is None else value[..., split[0] : split[1] : split[2]]


def _holds_experts(module: nn.Module) -> bool:
    own = any(p.dim() == 3 for p in module.parameters(recurse=False))
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
            taps["router"] = Tap(event.module, "output", found[0], found[1])
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
