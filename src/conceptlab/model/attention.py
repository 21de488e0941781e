"""Attention through transformers' own extension point: one function sees `q k v`, mask and scaling of every architecture.

The wrapper delegates to the implementation that the model would have used, so logits stay bit-identical; the pattern is formed
(with the modeling file's own eager function, which knows soft caps and sinks) only when somebody asks for it. The registry's
entry is put back when the last context closes, and a thread or model that is not being watched passes straight through.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Handler = Callable[[nn.Module, "AttentionCall", Callable[..., Any]], tuple[Tensor, Any]]
_HANDLER: ContextVar[Handler | None] = ContextVar("conceptlab_attention", default=None)


@dataclass(eq=False)
class AttentionCall:
    """One call: `q` [batch, head, query_pos, d_head] (after rotary), `k`, `v` [batch, kv_head, key_pos, d_head]."""

    module: nn.Module
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    kwargs: dict[str, Any]
    order: int = 0
    z: Tensor | None = None
    extra: tuple[Any, ...] = field(default=())


def _module_namespace(module: nn.Module) -> dict[str, Any]:
    for cls in type(module).__mro__:
        space = vars(sys.modules.get(cls.__module__, object())) if cls.__module__ in sys.modules else {}
        if "ALL_ATTENTION_FUNCTIONS" in space:
            return space
    return {}


def eager_function(module: nn.Module) -> Callable[..., Any] | None:
    """The modeling file's own explicit attention, or None where the file has none."""
    return _module_namespace(module).get("eager_attention_forward")


def _registries(root: nn.Module) -> list[Any]:
    found = []
    for module in root.modules():
        registry = _module_namespace(module).get("ALL_ATTENTION_FUNCTIONS")
        if registry is not None and not any(registry is r for r in found):
            found.append(registry)
    return found


def _implementations(root: nn.Module) -> set[str]:
    names = {getattr(getattr(m, "config", None), "_attn_implementation", None) for m in root.modules()}
    return {n for n in names if isinstance(n, str)}


@contextmanager
def _entry(registry: Any, name: str) -> Iterator[None]:
    """Put the wrapper in place of one implementation of one registry; the old entry returns whatever happens."""
    had_local, original = name in registry._local_mapping, registry.get(name)

    def wrapper(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
        delegate = original if original is not None else eager_function(module)
        handler = _HANDLER.get()
        if delegate is None:
            raise LookupError(f"{type(module).__name__} asks for {name} attention, and its file has none")
        if handler is None or len(args) > 1:
            return delegate(module, q, k, v, *args, **kwargs)
        mask = args[0] if args else kwargs.pop("attention_mask", None)
        return handler(module, AttentionCall(module, q, k, v, mask, kwargs), delegate)

    if getattr(original, "conceptlab", False):  # an outer context of ours already stands here
        yield
        return
    wrapper.conceptlab = True  # type: ignore[attr-defined]
    registry[name] = wrapper
    try:
        yield
    finally:
        if had_local:
            registry[name] = original
        else:
            del registry[name]


@contextmanager
def handle_attention(root: nn.Module, handler: Handler) -> Iterator[None]:
    """Route every attention call of `root` made in this thread through `handler(module, call, delegate)`."""
    with ExitStack() as stack:
        for registry in _registries(root):
            for name in _implementations(root):
                stack.enter_context(_entry(registry, name))
        token = _HANDLER.set(handler)
        try:
            yield
        finally:
            _HANDLER.reset(token)


@contextmanager
def watch_attention(
    root: nn.Module, record: Callable[[AttentionCall], None], clock: Callable[[], int] = lambda: 0
) -> Iterator[None]:
    """Record every attention call of `root` with its output, changing nothing."""

    def handler(module: nn.Module, call: AttentionCall, delegate: Callable[..., Any]) -> Any:
        output = delegate(module, call.q, call.k, call.v, call.mask, **call.kwargs)
        call.z, call.order = output[0], clock()
        record(call)
        return output

    with handle_attention(root, handler):
        yield


def explicit_mask(call: AttentionCall) -> Tensor | None:
    """The mask that the implementation applies, made explicit: an additive float mask, or None where everything is seen.

    sdpa is given no mask when `is_causal` says it all, and boolean masks otherwise; eager functions add a float one.
    """
    n_query, n_key = call.q.shape[2], call.k.shape[2]
    mask = call.mask
    if mask is None:
        is_causal = call.kwargs.get("is_causal")
        causal = getattr(call.module, "is_causal", True) if is_causal is None else is_causal
        if not causal or n_query == 1:
            return None
        rows = torch.arange(n_query, device=call.q.device)[:, None]
        mask = (rows >= torch.arange(n_key, device=call.q.device)[None, :])[None, None]
    if mask.dtype == torch.bool:
        low = torch.finfo(call.q.dtype).min
        mask = torch.zeros(mask.shape, dtype=call.q.dtype, device=call.q.device).masked_fill(~mask, low)
    return mask[..., :n_key]


def form_pattern(call: AttentionCall) -> Tensor:
    """Attention after softmax [batch, head, query_pos, key_pos], by the modeling file's own eager function.

    Raises LookupError where the file has no such function.
    """
    eager = eager_function(call.module)
    if eager is None:
        raise LookupError(f"{type(call.module).__name__}'s file has no explicit attention function")
    narrow = call.v[..., :1]  # its product with the pattern is thrown away
    _, pattern = eager(call.module, call.q, call.k, narrow, explicit_mask(call), **call.kwargs)
    if pattern is None:
        raise LookupError(f"{type(call.module).__name__}'s explicit attention returns no pattern")
    return pattern


def mix_values(pattern: Tensor, v: Tensor) -> Tensor:
    """`pattern @ v` [batch, query_pos, head, d_head]; each kv head serves its group of query heads."""
    groups = pattern.shape[1] // v.shape[1]
    values = v if groups == 1 else v.repeat_interleave(groups, dim=1)
    return torch.matmul(pattern[..., : v.shape[2]].to(values.dtype), values).transpose(1, 2).contiguous()
