"""Inside a block's attention: `q k v pattern` at transformers' attention interface, `z` where the output projection reads it."""

from typing import Any

import torch

from conceptlab.model.attention import AttentionCall, eager_function, form_pattern, mix_values
from conceptlab.model.sums import Part, matches, region, tolerance
from conceptlab.model.tap import Tap
from conceptlab.model.trace import Event, is_linear

HEAD_COUNTS = ("num_attention_heads", "n_head", "num_heads", "decoder_attention_heads", "encoder_attention_heads")


def add_attention(
    taps: dict[str, Tap],
    missing: dict[str, str],
    roles: dict[str, Part],
    inner: list[Event],
    calls: list[AttentionCall],
    config: Any,
) -> None:
    """Fill in `q k v pattern z`, or say why they are missing. With cross-attention the first call is the self-attention."""
    call = min(calls, key=lambda c: c.order) if calls else None
    if call is not None and sum(c.module is call.module for c in calls) == 1:
        _add_from_call(taps, missing, call, inner)
        return
    if "attn_out" not in roles:
        reason = missing.get("attn_out", "this block has no attention")
        missing.update({s: reason for s in ("q", "k", "v", "pattern", "z")})
        return
    several = "this attention makes several calls a block and mixes them afterwards"
    reason = several if call else "this attention bypasses transformers' attention interface"
    missing.update({s: reason for s in ("q", "k", "v", "pattern")})
    _add_z_from_projection(taps, missing, region(roles, "attn_out", inner), roles["attn_out"], config)


def _add_from_call(taps: dict[str, Tap], missing: dict[str, str], call: AttentionCall, inner: list[Event]) -> None:
    for key, value in (("q", call.q), ("k", call.k), ("v", call.v)):
        taps[key] = Tap(call.module, "attention", key, value.shape[-1], heads=value.shape[1])
    if call.z is None:
        return
    projection, (heads, width) = _projection_after(call, inner), call.z.shape[-2:]
    if projection is not None:
        taps["z"] = Tap(projection.module, "input", next(iter(projection.args)), width, heads=heads)
    else:
        taps["z"] = Tap(call.module, "attention", "z", width, heads=heads)
    reason = _why_no_pattern(call)
    if reason is None:
        taps["pattern"] = Tap(call.module, "attention", "pattern", 0, heads=call.q.shape[1])
    else:
        missing["pattern"] = reason


def _why_no_pattern(call: AttentionCall) -> str | None:
    """None where `pattern @ v = z` holds on the recorded call itself; otherwise what stands in the way."""
    if eager_function(call.module) is None:
        return "this file has no explicit attention function to form the pattern with"
    try:
        pattern = form_pattern(call)
        mixed = mix_values(pattern, call.v)
    except (LookupError, TypeError, ValueError, RuntimeError, IndexError) as error:
        return f"the explicit attention could not be run: {' '.join(str(error).split())[:100]}"
    if call.z is None or not matches(mixed, call.z, 10 * tolerance(call.z.dtype)):
        return "pattern @ v is not z here (sinks or a gate rescale what the heads mix), so a pattern would mislead"
    return None


def _add_z_from_projection(
    taps: dict[str, Tap], missing: dict[str, str], events: list[Event], part: Part, config: Any
) -> None:
    d_model = part.event.value.shape[-1]  # type: ignore[union-attr]
    linears = [e for e in events if is_linear(e.module) and e.value is not None and e.value.shape[-1] == d_model]
    counts = [getattr(config, name, None) for name in HEAD_COUNTS]
    n_heads = next((n for n in counts if isinstance(n, int) and n > 0), 0)
    given = linears[-1].first_input if linears else None
    if given is None or not n_heads or given.shape[-1] % n_heads:
        missing["z"] = "no output projection whose input splits into heads was found"
        return
    key, width = next(iter(linears[-1].args)), given.shape[-1] // n_heads
    taps["z"] = Tap(linears[-1].module, "input", key, width, heads=n_heads)


def _projection_after(call: AttentionCall, inner: list[Event]) -> Event | None:
    """The linear map that is fed exactly the heads' mixed values, outermost wrapper first."""
    for event in sorted(inner, key=lambda e: e.started):
        given = event.first_input
        if event.started > call.order and is_linear(event.module) and given is not None and call.z is not None:
            same = given.numel() == call.z.numel() and torch.equal(given.reshape(-1), call.z.reshape(-1))
            return event if same else None
    return None
