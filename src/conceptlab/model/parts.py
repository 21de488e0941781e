"""Inside one block: which recorded tensors are the sublayers as added to the stream, and which of them is which."""

import re
from os.path import commonprefix
from typing import Any

import torch
from torch import Tensor

from conceptlab.model.attention import AttentionCall
from conceptlab.model.attention_parts import add_attention
from conceptlab.model.mlp_parts import add_mlp
from conceptlab.model.sums import Part, distinct, matches, solve_sum, tolerance
from conceptlab.model.tap import Tap
from conceptlab.model.trace import Event, first_tensor, is_linear

_ATTENTION = re.compile(r"attn|attention|self_?att", re.IGNORECASE)
_MLP = re.compile(
    r"mlp|ffn|feed_?forward|moe|expert|\bff|fc\d|\.ff|dense_(relu|4h)|output\.dense|(^|\.)(wo|w2|c_proj|lin2)$",
    re.IGNORECASE,
)


MOST_PARTS = 4  # attention, cross-attention, MLP, and one more


def find_block_taps(
    event: Event, stream: Tensor, inner: list[Event], calls: list[AttentionCall], config: Any, *, seen: bool
):
    """Taps and missing sites of one block. Returns (taps, missing, post_norm, parallel).

    `seen`: other blocks call transformers' attention interface, so what calls none here is no softmax attention.
    """
    taps: dict[str, Tap] = {}
    missing: dict[str, str] = {}
    value = event.value
    n_pos = stream[0, ..., 0].numel()
    calls = [
        c for c in calls if c.q.shape[2] == n_pos or c.q.shape[0] != stream.shape[0]
    ]  # others read over layers, not tokens
    whole = [c for c in calls if c.q.shape[0] == stream.shape[0]]  # attention in windows has other rows than the texts
    windowed, calls = len(whole) < len(calls), whole
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
        missing.update({s: reason for s in ("attn_out", "mlp_out", "mixer_out", "extra_out", "resid_mid")})
        roles = _roles_by_name(event, inner, calls)
    else:
        ordered = sorted(parts, key=lambda p: p.event.order)
        roles = _roles(ordered, calls, event, seen=seen)
        for site, part in roles.items():
            taps[site] = _part_tap(part, stream.shape[-1])
        if not post_norm:
            parallel = _add_mid(taps, missing, roles, stream, inner)
    add_attention(taps, missing, roles, inner, calls, config)
    if windowed:
        for site in ("q", "k", "v", "pattern", "z"):
            taps.pop(site, None)
            missing[site] = "attention runs in windows of the image, whose rows are not the rows of the input"
    add_mlp(taps, missing, roles, inner, config, stream.shape[-1])
    _explain(taps, missing)
    return taps, missing, post_norm, parallel


def _part_tap(part: Part, width: int) -> Tap:
    return Tap(part.event.module, "output", first_tensor(part.event.output)[1], width, scale=part.scale)


def _roles(parts: list[Part], calls: list[AttentionCall], block: Event, *, seen: bool) -> dict[str, Part]:
    """Name the summands: what ends an attention call is attention; the rest by the name it carries and, last, by place.

    Linear attention beside softmax attention is a mixer. A second attention is cross-attention; any further sublayer of a
    kind that is taken is `extra_out`.
    """
    roles: dict[str, Part] = {}
    pending = sorted(calls, key=lambda c: c.order)
    named_mlp = any(_looks_like(_MLP, part, block) for part in parts)
    for position, part in enumerate(parts):
        done = [c for c in pending if c.order < part.event.order]
        pending = [c for c in pending if c not in done]
        last = position == len(parts) - 1 and len(parts) > 1 and not named_mlp
        if done or (not calls and not seen and _looks_like(_ATTENTION, part, block)):
            site = "cross_attn_out" if "attn_out" in roles else "attn_out"
        else:
            other = "extra_out" if "mlp_out" in roles else "mixer_out"
            site = "mlp_out" if last or _looks_like(_MLP, part, block) else other
        if site in roles:
            site = next((s for s in ("extra_out", "mixer_out", "cross_attn_out") if s not in roles), site)
        roles[site] = part
    return roles


def _looks_like(pattern: re.Pattern[str], part: Part, block: Event) -> bool:
    """By the path inside the block, and by the class without the model's own prefix (`GraniteMoe` is no mixture of experts)."""
    event, kind = part.event, type(part.event.module).__name__
    prefix = commonprefix([kind, type(block.module).__name__])
    path = event.name.removeprefix(f"{block.name}.")
    return bool(pattern.search(path) or pattern.search(kind.removeprefix(prefix)))


def _roles_by_name(block: Event, inner: list[Event], calls: list[AttentionCall]) -> dict[str, Part]:
    """Without a sum: attention still ends at the first linear map after its call, and a child that is called an MLP is one.

    These say where to look for heads and neurons; they are not what is added to the stream.
    """
    roles: dict[str, Part] = {}
    for call in calls[:1]:
        after = [e for e in inner if e.order > call.order and is_linear(e.module)]
        if after:
            roles["attn_out"] = Part(after[0], 1.0)
    children = [Part(e, 1.0) for e in inner if "." not in e.name.removeprefix(f"{block.name}.")]
    mlps = [p for p in children if list(p.event.module.children()) and _looks_like(_MLP, p, block)]
    if len(mlps) == 1:
        roles["mlp_out"] = mlps[0]
    return roles


def _post_norm_parts(stream: Tensor, value: Tensor | None, inner: list[Event], candidates: list[Event]):
    """BERT's form, x = norm(x + sublayer(x)) two or more times. Returns the parts and the event that gives `resid_mid`."""
    parts: list[Part] = []
    norms: list[Event] = []
    current, after = stream, 0
    while value is not None and len(parts) < MOST_PARTS:
        found = _norm_of_sum(
            current, [e for e in inner if e.started > after], [c for c in candidates if c.order > after]
        )
        if found is None or found[1].value is None:
            break
        parts.append(found[0])
        norms.append(found[1])
        if matches_value(found[1], value):
            return (tuple(parts), norms[0]) if len(parts) > 1 else (None, None)
        current, after = found[1].value, found[1].order
    return None, None


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
    if "mixer_out" in roles and roles["mixer_out"] is not first:
        missing["resid_mid"] = "two sublayers add to the stream before the MLP reads it; add their outputs to resid_pre"
        return False
    missing["resid_mid"] = "attention and MLP run in parallel, so no stream lies between them"
    return True


def _explain(taps: dict[str, Tap], missing: dict[str, str]) -> None:
    """Every site of a block is either there or explained."""
    fallback = {
        "attn_out": "this block has no attention",
        "cross_attn_out": "this block has no cross-attention",
        "mixer_out": "this block has no recurrent or convolutional mixer",
        "extra_out": "this block adds nothing beside its attention, mixer and MLP",
        "mlp_out": "this block has no MLP",
    }
    for site, reason in fallback.items():
        if site not in taps:
            missing.setdefault(site, reason)
    for site in taps:
        missing.pop(site, None)
