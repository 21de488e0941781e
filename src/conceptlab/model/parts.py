"""Inside one block: the sublayers, the output projection that splits into heads, the down projection that splits into neurons."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from conceptlab.model.attention import AttentionCall, eager_function
from conceptlab.model.sums import Part, distinct, matches, solve_sum, tolerance
from conceptlab.model.trace import Event, first_tensor, is_linear

_ATTENTION = re.compile(r"attn|attention|self_?att", re.IGNORECASE)
_MLP = re.compile(
    r"mlp|ffn|feed_?forward|moe|expert|\bff|fc\d|\.ff|dense_(relu|4h)|output\.dense|(^|\.)(wo|w2|c_proj|lin2)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Tap:
    """Where a site is read and written: the `module`, its `input` or `output`, the key of the tensor there.

    `scale` multiplies what is read (residual multipliers); `split` cuts the last axis (fused projections): (start, stop, step);
    `heads` reshapes the last axis to [heads, d_head]; `width` is the size of the canonical last axis.
    """

    module: nn.Module
    side: Literal["input", "output", "attention", "mid"]
    key: int | str | None
    width: int
    scale: float = 1.0
    split: tuple[int, int, int] | None = None
    heads: int | None = None


def find_block_taps(event: Event, stream: Tensor, inner: list[Event], calls: list[AttentionCall], config: Any):
    """Taps and missing sites of one block. Returns (taps, missing, post_norm, parallel)."""
    taps: dict[str, Tap] = {}
    missing: dict[str, str] = {}
    value = event.value
    candidates = distinct(inner, stream)
    parts = solve_sum(value - stream, candidates) if value is not None else None
    post_norm, parallel = False, False
    if parts is None:
        parts, mids = _post_norm_parts(stream, value, inner, candidates)
        post_norm = parts is not None
        if parts is not None and mids is not None:
            taps["resid_mid"] = Tap(mids.module, "output", first_tensor(mids.output)[1], stream.shape[-1])
    if parts is None:
        reason = "no outputs inside the block add up to its update"
        missing.update({s: reason for s in ("attn_out", "mlp_out", "mixer_out", "resid_mid")})
        roles = _roles_by_name(inner, calls)
    else:
        ordered = sorted(parts, key=lambda p: p.event.order)
        roles = _roles(ordered, calls)
        for site, part in roles.items():
            taps[site] = _part_tap(part, stream.shape[-1])
        if not post_norm:
            parallel = _add_mid(taps, missing, roles, stream, inner)
    _add_attention(taps, missing, roles, inner, calls, config, stream.shape[-1])
    _add_mlp(taps, missing, roles, inner, config, stream.shape[-1])
    _explain(taps, missing)
    return taps, missing, post_norm, parallel


def _part_tap(part: Part, width: int) -> Tap:
    return Tap(part.event.module, "output", first_tensor(part.event.output)[1], width, scale=part.scale)


def _roles(parts: list[Part], calls: list[AttentionCall]) -> dict[str, Part]:
    """Name the summands: what ends an attention call is attention; the rest by place and, last, by the name it carries."""
    roles: dict[str, Part] = {}
    pending = sorted(calls, key=lambda c: c.order)
    for position, part in enumerate(parts):
        done = [c for c in pending if c.order < part.event.order]
        pending = [c for c in pending if c not in done]
        called = bool(done) or (not calls and _looks_like_attention(part))
        if called:
            site = "cross_attn_out" if "attn_out" in roles else "attn_out"
        else:
            site = "mlp_out" if _looks_like_mlp(part) or position == len(parts) - 1 and len(parts) > 1 else "mixer_out"
        if site in roles:
            site = next((s for s in ("mlp_out", "mixer_out", "cross_attn_out") if s not in roles), site)
        roles[site] = part
    return roles


def _looks_like_attention(part: Part) -> bool:
    path = part.event.name.split(".", 2)[-1]
    return bool(_ATTENTION.search(path) or _ATTENTION.search(type(part.event.module).__name__))


def _looks_like_mlp(part: Part) -> bool:
    path = part.event.name.split(".", 2)[-1]
    return bool(_MLP.search(path) or _MLP.search(type(part.event.module).__name__))


def _roles_by_name(inner: list[Event], calls: list[AttentionCall]) -> dict[str, Part]:
    """Without a sum, the region of attention still ends at the first linear map after its call."""
    roles: dict[str, Part] = {}
    for call in calls[:1]:
        after = [e for e in inner if e.order > call.order and is_linear(e.module)]
        if after:
            roles["attn_out"] = Part(after[0], 1.0)
    return roles


def _post_norm_parts(stream: Tensor, value: Tensor | None, inner: list[Event], candidates: list[Event]):
    """BERT's form: mid = norm(stream + attention), out = norm(mid + mlp). Returns the parts and the event that gives mid."""
    if value is None:
        return None, None
    first = _norm_of_sum(stream, inner, candidates)
    if first is None:
        return None, None
    attn, mid = first
    last = next(
        (e for e in inner if matches_value(e, value) and e.first_input is not None and e.order > mid.order), None
    )
    if last is None or mid.value is None:
        return None, None
    mlp = solve_sum(last.first_input - mid.value, [c for c in candidates if mid.order < c.order < last.order], (1,))  # type: ignore[operator]
    return ((attn, *mlp), mid) if mlp else (None, None)


def matches_value(event: Event, value: Tensor) -> bool:
    """The event gave exactly this tensor."""
    return event.value is not None and event.value.shape == value.shape and bool(torch.equal(event.value, value))


def _norm_of_sum(stream: Tensor, inner: list[Event], candidates: list[Event]) -> tuple[Part, Event] | None:
    for event in inner:
        given = event.first_input
        if given is None or given.shape != stream.shape or event.value is None or event.value.shape != stream.shape:
            continue
        if list(event.module.children()) or is_linear(event.module) or torch.equal(given, stream):
            continue
        parts = solve_sum(given - stream, [c for c in candidates if c.order < event.started], (1,))
        if parts:
            return parts[0], event
    return None


def _add_mid(
    taps: dict[str, Tap], missing: dict[str, str], roles: dict[str, Part], stream: Tensor, inner: list[Event]
) -> bool:
    """`resid_mid` exists when something reads stream + first part; otherwise the sublayers run in parallel."""
    first = roles.get("attn_out") or roles.get("mixer_out")
    if first is None or len(roles) < 2:
        missing["resid_mid"] = "this block has one sublayer, so there is nothing between"
        return False
    mid = stream + first.scale * first.event.value.reshape(stream.shape)  # type: ignore[union-attr]
    tol = tolerance(stream.dtype)
    for event in inner:
        given = event.first_input
        if (
            event.started > first.event.order
            and given is not None
            and given.numel() == mid.numel()
            and matches(given, mid, tol)
        ):
            taps["resid_mid"] = Tap(
                first.event.module, "mid", first_tensor(first.event.output)[1], stream.shape[-1], first.scale
            )
            return False
    missing["resid_mid"] = "attention and MLP run in parallel, so no stream lies between them"
    return True


def _region(roles: dict[str, Part], site: str, inner: list[Event]) -> list[Event]:
    """Events that end between the part before `site` and `site` itself."""
    part = roles[site]
    earlier = [p.event.order for s, p in roles.items() if s != site and p.event.order < part.event.order]
    return [e for e in inner if max(earlier, default=0) < e.order <= part.event.order]


def _add_attention(  # noqa: PLR0913 - one block's findings
    taps: dict[str, Tap],
    missing: dict[str, str],
    roles: dict[str, Part],
    inner: list[Event],
    calls: list[AttentionCall],
    config: Any,
    d_model: int,
) -> None:
    call = min(calls, key=lambda c: c.order) if calls else None
    if call is not None and call.z is not None:
        taps["q"] = Tap(call.module, "attention", "q", call.q.shape[-1], heads=call.q.shape[1])
        taps["k"] = Tap(call.module, "attention", "k", call.k.shape[-1], heads=call.k.shape[1])
        taps["v"] = Tap(call.module, "attention", "v", call.v.shape[-1], heads=call.v.shape[1])
        projection = _projection_after(call, inner)
        heads, width = call.z.shape[-2], call.z.shape[-1]
        if projection is not None:
            taps["z"] = Tap(projection.module, "input", next(iter(projection.args)), width, heads=heads)
        else:
            taps["z"] = Tap(call.module, "attention", "z", width, heads=heads)
        if eager_function(call.module) is None:
            missing["pattern"] = "this file has no explicit attention function to form the pattern with"
        else:
            taps["pattern"] = Tap(call.module, "attention", "pattern", 0, heads=call.q.shape[1])
        return
    reason = (
        "this attention bypasses transformers' attention interface"
        if "attn_out" in roles
        else "this block has no attention"
    )
    missing.update({s: reason for s in ("q", "k", "v", "pattern")})
    if "attn_out" not in roles:
        missing["z"] = reason
        return
    linears = [
        e
        for e in _region(roles, "attn_out", inner)
        if is_linear(e.module) and e.value is not None and e.value.shape[-1] == d_model
    ]
    n_heads = next(
        (
            n
            for n in (getattr(config, a, None) for a in ("num_attention_heads", "n_head", "num_heads"))
            if isinstance(n, int)
        ),
        0,
    )
    given = linears[-1].first_input if linears else None
    if given is None or not n_heads or given.shape[-1] % n_heads:
        missing["z"] = "no output projection whose input splits into heads was found"
        return
    taps["z"] = Tap(
        linears[-1].module, "input", next(iter(linears[-1].args)), given.shape[-1] // n_heads, heads=n_heads
    )


def _projection_after(call: AttentionCall, inner: list[Event]) -> Event | None:
    """The linear map that is fed exactly the heads' mixed values, outermost wrapper first."""
    for event in sorted(inner, key=lambda e: e.started):
        given = event.first_input
        if event.started > call.order and is_linear(event.module) and given is not None and call.z is not None:
            same = given.numel() == call.z.numel() and torch.equal(given.reshape(-1), call.z.reshape(-1))
            return event if same else None
    return None


def _add_mlp(
    taps: dict[str, Tap], missing: dict[str, str], roles: dict[str, Part], inner: list[Event], config: Any, d_model: int
) -> None:
    if "mlp_out" not in roles:
        missing.update(
            {s: "this block has no MLP" for s in ("mlp_pre", "mlp_pre_linear", "mlp_post", "router", "expert_out")}
        )
        return
    region = _region(roles, "mlp_out", inner)
    experts = next((e for e in region if _holds_experts(e.module)), None)
    if experts is not None:
        _add_experts(taps, missing, experts, region, config, d_model)
        return
    missing.update({s: "this MLP has no experts" for s in ("router", "expert_out")})
    linears = [
        e for e in region if is_linear(e.module) and e.value is not None and e.first_input is not None and "." in e.name
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
    taps: dict[str, Tap], missing: dict[str, str], experts: Event, region: list[Event], config: Any, d_model: int
) -> None:
    reason = "the experts hold their neurons in fused weights; read expert_out"
    missing.update({s: reason for s in ("mlp_pre", "mlp_pre_linear", "mlp_post")})
    value, key = first_tensor(experts.output)
    if value is not None and value.shape[-1] == d_model:
        taps["expert_out"] = Tap(experts.module, "output", key, d_model)
    else:
        missing["expert_out"] = "the experts' module returns no tensor of the stream's width"
    numbers = [
        getattr(c, n, None)
        for c in (config, getattr(config, "text_config", None))
        for n in ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
    ]
    counts = {n for n in numbers if isinstance(n, int)}
    for event in region:
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


def _explain(taps: dict[str, Tap], missing: dict[str, str]) -> None:
    """Every site of a block is either there or explained."""
    fallback = {
        "attn_out": "this block has no attention",
        "cross_attn_out": "this block has no cross-attention",
        "mixer_out": "this block has no recurrent or convolutional mixer",
        "mlp_out": "this block has no MLP",
    }
    for site, reason in fallback.items():
        if site not in taps:
            missing.setdefault(site, reason)
    for site in taps:
        missing.pop(site, None)
