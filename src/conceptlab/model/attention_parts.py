"""Inside a block's attention: `q k v pattern` at transformers' attention interface, `z` at the output projection that splits into heads."""

from typing import Any

import torch

from conceptlab.model.attention import AttentionCall, eager_function
from conceptlab.model.sums import Part, region
from conceptlab.model.tap import Tap
from conceptlab.model.trace import Event, is_linear


def add_attention(  # noqa: PLR0913 - one block's findings
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
        for e in region(roles, "attn_out", inner)
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
