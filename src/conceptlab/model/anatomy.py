"""What a model is made of, found by structure: blocks, sublayers as added to the stream, heads, neurons, norm, unembedding.

Nothing here knows an architecture by name. A short disturbed forward is recorded (`trace.py`) and searched; what cannot be
found gets a sentence in `missing`, and asking for it raises SiteError with that sentence.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.errors import ModelError
from conceptlab.model.attention_parts import HEAD_COUNTS
from conceptlab.model.parts import find_block_taps
from conceptlab.model.tap import Tap
from conceptlab.model.trace import Event, Trace, first_tensor, is_linear, trace_forward


@dataclass(frozen=True)
class Block:
    """One block: the module, where its stream comes in and goes out, and a tap per site it has (`missing`: why not)."""

    module: nn.Module
    name: str
    taps: dict[str, Tap]
    missing: dict[str, str]
    post_norm: bool = False
    parallel: bool = False


@dataclass(frozen=True)
class Stack:
    """A chain of blocks with its ends. `scale`/`softcap` turn the unembedding's output into the model's logits."""

    name: str
    blocks: tuple[Block, ...]
    d_model: int
    final_norm: Tap | None
    unembed: nn.Module | None
    logit_scale: float
    softcap: float | None
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)


def _chains(trace: Trace, root: nn.Module) -> list[tuple[str, list[Event]]]:
    """Module lists whose children ran once each, one after the other, on a stream of one shape."""
    by_name: dict[str, list[Event]] = {}
    for event in trace.events:
        by_name.setdefault(event.name, []).append(event)
    found = []
    for name, module in root.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) == 0:
            continue
        calls = [by_name.get(f"{name}.{i}" if name else str(i), []) for i in range(len(module))]
        if all(len(c) == 1 for c in calls) and _flows([c[0] for c in calls]):
            found.append((name, [c[0] for c in calls]))
    return found


def _flows(events: list[Event]) -> bool:
    """Each block takes a [row, col, d] stream and gives one of the same shape, and the next block reads just that."""
    for before, event in zip([None, *events], events, strict=False):
        value, key = event.value, stream_key(event)
        if value is None or key is None or value.dim() != 3:
            return False
        if before is not None and before.value is not None:
            given = event.args[key].to(before.value.device)  # a sharded model may move its stream between blocks
            if not _same(given, before.value):
                return False
    return True


def _laid_out_as_rows(events: list[Event], inputs: dict[str, Tensor]) -> bool:
    """The stream has a row per row and, where tokens came in, a column per token of one of the inputs."""
    value = events[0].value
    if value is None:
        return False
    tokens = {tuple(t.shape) for n, t in inputs.items() if isinstance(t, Tensor) and n.endswith("input_ids")}
    return value.shape[0] == 2 and (tuple(value.shape[:2]) in tokens or "pixel_values" in inputs)


def _holds_most(chains: list[tuple[str, list[Event]]], trace: Trace) -> bool:
    """Most linear maps that ran lie in the blocks; otherwise the model's main part is elsewhere (patches, several streams)."""
    linear = [e for e in trace.events if is_linear(e.module)]
    inside = [e for e in linear if any(e.name.startswith(f"{name}.") for name, _ in chains)]
    return bool(chains) and 2 * len(inside) >= len(linear)


def stream_key(event: Event) -> int | str | None:
    """Which argument of a block carries the stream: the first tensor shaped like what goes out."""
    value = event.value
    if value is None:
        return None
    for key, tensor in event.args.items():
        if tensor.shape == value.shape and tensor.is_floating_point():
            return key
    return None


def _outermost(chains: list[tuple[str, list[Event]]]) -> list[tuple[str, list[Event]]]:
    """Drop chains that live inside a block of another chain (experts, inner mixers)."""
    return [c for c in chains if not any(c is not o and c[0].startswith(f"{o[0]}.") for o in chains)]


def find_stacks(module: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Stack]:
    """Every stack of blocks of `module`, by its path, found from one disturbed forward on `inputs`.

    Raises ModelError when the model runs no list of blocks one after the other.
    """
    trace = trace_forward(module, inputs)
    chains = [c for c in _outermost(_chains(trace, module)) if _laid_out_as_rows(c[1], inputs)]
    if not _holds_most(chains, trace):
        raise ModelError(
            f"{type(module).__name__} runs no list of blocks one after the other on one stream [row, token, d_model] "
            "(shared or hand-wired layers, several parallel streams, or extra columns); its stream cannot be read"
        )
    return {name: _stack(name, events, trace, module) for name, events in chains}


def _stack(name: str, events: list[Event], trace: Trace, module: nn.Module) -> Stack:
    heads = [c for c in trace.attention if any(_inside(c, e) for e in events)]
    blocks = [_block(event, trace, module, seen=bool(heads)) for event in events]
    value = events[-1].value
    d_model = value.shape[-1] if value is not None else 0
    norm, unembed, scale, cap, missing = _ends(events[-1], trace, module)
    config = getattr(module, "config", None)
    n_heads = heads[0].q.shape[1] if heads else _config_number(config, *HEAD_COUNTS)
    neurons = [b.taps["mlp_post"].width for b in blocks if "mlp_post" in b.taps]
    return Stack(
        name=name,
        blocks=tuple(blocks),
        d_model=d_model,
        final_norm=norm,
        unembed=unembed,
        logit_scale=scale,
        softcap=cap,
        n_heads=n_heads,
        n_kv_heads=heads[0].k.shape[1] if heads else n_heads,
        d_head=heads[0].v.shape[-1] if heads else (d_model // n_heads if n_heads else 0),
        d_mlp=max(neurons, default=0),
        missing=missing,
    )


def _inside(call: Any, event: Event) -> bool:
    return event.started < call.order < event.order


def _config_number(config: Any, *names: str) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return 0


def _block(event: Event, trace: Trace, module: nn.Module, *, seen: bool) -> Block:
    """One block's taps; `seen` says whether attention was seen at transformers' interface anywhere in the stack."""
    inner = [e for e in trace.events if event.started < e.started and e.order < event.order]
    calls = [c for c in trace.attention if _inside(c, event)]
    key = stream_key(event)
    stream = event.args[key]  # type: ignore[index]
    config = getattr(module, "config", None)
    taps, missing, post_norm, parallel = find_block_taps(event, stream, inner, calls, config, seen=seen)
    taps["resid_pre"] = Tap(event.module, "input", key, stream.shape[-1])
    taps["resid_post"] = Tap(event.module, "output", first_tensor(event.output)[1], stream.shape[-1])
    return Block(event.module, event.name, taps, missing, post_norm, parallel)


def _ends(last: Event, trace: Trace, module: nn.Module):
    """Final norm, unembedding, and how its output becomes the logits."""
    after = [e for e in trace.events if e.started > last.order]
    missing: dict[str, str] = {}
    norm = next((e for e in after if _same(e.first_input, last.value) and _norm_like(e, last.value)), None)
    stream_end = norm.value if norm else last.value
    logits = _logits(trace.output)
    head = _head(after, logits)
    if head is None:
        missing["logits"] = "this model has no unembedding: it ends in its stream"
    elif not _same(head.first_input, stream_end):
        missing["lens"] = "other maps stand between the stream and the unembedding"
    if norm is None:
        missing["final_norm"] = "nothing norms the stream after the last block"
    tap = _norm_tap(norm, trace) if norm else None
    if head is None:
        return tap, None, 1.0, None, missing
    scale, cap = _logit_form(head.value, logits, getattr(module, "config", None))
    if scale is None:
        missing["lens"] = "the logits are not a scaled or soft-capped copy of the unembedding's output"
    return tap, head.module, scale or 1.0, cap, missing


def _norm_tap(norm: Event, trace: Trace) -> Tap:
    """Where the final norm's output is; a model may norm its embedding with the same module."""
    calls = [e for e in trace.events if e.module is norm.module]
    nth = calls.index(norm) if len(calls) > 1 else None
    return Tap(norm.module, "output", first_tensor(norm.output)[1], norm.value.shape[-1], nth=nth)  # type: ignore[union-attr]


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape and bool(torch.equal(a, b))


def _norm_like(event: Event, stream: Tensor | None) -> bool:
    value = event.value
    if value is None or stream is None or value.shape != stream.shape:
        return False
    return not list(event.module.children()) and not is_linear(event.module)


def _logits(output: Any) -> Tensor | None:
    for name in ("logits", "prediction_logits", "prediction_scores"):
        value = getattr(output, name, None)
        if isinstance(value, Tensor) and value.dim() == 3:
            return value
    return None


def _head(after: list[Event], logits: Tensor | None) -> Event | None:
    if logits is None:
        return None
    for event in reversed(after):
        value = event.value
        if value is not None and value.shape == logits.shape and hasattr(event.module, "weight"):
            return event
    return None


def _tidy(scale: float, raw: Tensor, logits: Tensor) -> float:
    """Configs hold round factors or divisors; take the round one that reproduces the logits to the last bit."""
    for exact in (1.0, round(scale, 6), 1.0 / round(1.0 / scale, 6) if scale > 1e-6 else scale):
        if torch.equal(raw * exact, logits) or torch.equal(raw / (1.0 / exact), logits):
            return exact
    return scale


def _logit_form(raw: Tensor | None, logits: Tensor | None, config: Any) -> tuple[float | None, float | None]:
    """Find `scale` and `softcap` with logits = cap * tanh(scale * raw / cap); (None, None) when neither form fits."""
    if raw is None or logits is None:
        return None, None
    raw64, out = raw.double(), logits.double()
    limit = 1e-5 if raw.dtype in (torch.float32, torch.float64) else 2e-2
    caps = [None, *(c for c in (getattr(config, n, None) for n in ("final_logit_softcapping", "logits_soft_cap")) if c)]
    text = getattr(config, "text_config", None)
    caps += [c for c in (getattr(text, "final_logit_softcapping", None),) if c]
    for cap in caps:
        flat = out if cap is None else torch.atanh((out / cap).clamp(-0.999999, 0.999999)) * cap
        scale = float((flat * raw64).sum() / (raw64 * raw64).sum().clamp_min(1e-30))
        scale = _tidy(scale, raw, logits) if cap is None else (1.0 if abs(scale - 1) < 1e-4 else scale)
        again = raw64 * scale if cap is None else cap * torch.tanh(raw64 * scale / cap)
        if float((again - out).norm()) <= limit * float(out.norm() + 1e-30):
            return scale, cap
    return None, None
