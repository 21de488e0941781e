"""Hooks that read and write sites while the unmodified model runs, and that are always taken away again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from conceptlab.model.anatomy import Stack
from conceptlab.model.attention import AttentionCall, form_pattern, handle_attention, mix_values
from conceptlab.model.kv_cache import cache_of, cached_tokens
from conceptlab.model.layout import Layout
from conceptlab.model.tap import Tap

# Given the canonical tensor [row, col, (unit,) width], return its replacement, or None to leave it.
Visit = Callable[[Tensor], Tensor | None]
# (where, layer, whether it writes, the visitor)
Placed = tuple[Tap, int | None, bool, Visit]


class StopForward(Exception):
    """Raised inside a forward when nothing above is asked for; never leaves the engine."""


@dataclass
class Instrument:
    """The state of one model's instrumentation: the layout of the running forward and the visitors of its attention calls."""

    runner: nn.Module
    stack: Stack
    mask_key: str = "attention_mask"
    layout: Layout | None = None
    prompt: Tensor | None = None
    chunk: tuple[Tensor, int] | None = None
    attention: list[tuple[int, str, bool, Visit]] = field(default_factory=list)
    overwritten: set[str] = field(default_factory=set)  # sites whose tensors this model goes on to write into
    _calls: dict[int, int] = field(default_factory=dict)  # of modules that run several times a forward, by visitor
    _depth: int = 0
    _mask: Tensor | None = None
    _cached: int = 0
    _seen: int = 0

    @contextmanager
    def generating(self, prompt: Tensor, seen: int = 0) -> Iterator[None]:
        """Count positions in prompts of `prompt` [row] real tokens, left-padded, while the library generates; `seen` columns went
        through before."""
        self.prompt, self._seen = prompt, seen
        try:
            with self.active():
                yield
        finally:
            self.prompt = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Keep the layout of every forward up to date; nested uses share one set of hooks."""
        self._depth += 1
        handles = []
        try:
            if self._depth == 1:
                handles.append(self.runner.register_forward_pre_hook(self._note_mask, with_kwargs=True))
                first = self.stack.blocks[0]
                handles.append(first.module.register_forward_pre_hook(self._note_shape, with_kwargs=True))
            yield
        finally:
            self._depth -= 1
            for handle in handles:
                handle.remove()

    def batch_rows(self, rows: Tensor) -> tuple[Tensor, int]:
        """The running forward's row numbers as rows of the whole batch, and how many rows that batch has."""
        if self.chunk is None:
            return rows, self.layout.n_rows if self.layout else 0
        return self.chunk[0].to(rows.device)[rows], self.chunk[1]

    def _note_mask(self, _module: nn.Module, _args: tuple, kwargs: dict) -> None:
        self._calls.clear()
        mask = kwargs.get(self.mask_key)
        self._mask = mask if isinstance(mask, Tensor) else None
        self._cached = cached_tokens(cache_of(kwargs))

    def _note_shape(self, _module: nn.Module, args: tuple, kwargs: dict) -> None:
        stream = _get(args, kwargs, self.stack.blocks[0].taps["resid_pre"].key)
        n_rows, n_cols = stream.shape[0], stream[0, ..., 0].numel()
        if self.prompt is None:
            self.layout = Layout.from_mask(self._mask, n_rows, n_cols, self._cached)
        else:
            self.layout = Layout.generating(self.prompt, n_rows, n_cols, self._seen)
            self._seen = self.layout.offset + n_cols

    @contextmanager
    def visiting(self, visits: Sequence[Placed]) -> Iterator[None]:
        """Install `(tap, layer, writes, visit)` in order. Writers must be given before the readers that should see them."""
        handles: list[Any] = []
        mine: list[tuple[int, str, bool, Visit]] = []
        with ExitStack() as stack:
            stack.enter_context(self.active())
            try:
                for tap, layer, writes, visit in visits:
                    if tap.side == "attention":
                        entry = (id(tap.module), str(tap.key), writes, visit)
                        mine.append(entry)
                        self.attention.append(entry)
                    else:
                        handles += self._install(tap, layer, visit)
                if mine:
                    stack.enter_context(handle_attention(self.runner, self._on_attention))
                yield
            finally:
                for handle in handles:
                    handle.remove()
                self.attention = [e for e in self.attention if not any(e is m for m in mine)]

    def _install(self, tap: Tap, layer: int | None, visit: Visit) -> list[Any]:
        if tap.side == "mid":
            return self._install_mid(tap, layer, visit)
        if tap.side == "input":

            def before(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
                raw = _get(args, kwargs, tap.key)
                new = self._visited(tap, raw, visit)
                return None if new is raw else _put(args, kwargs, tap.key, new)

            return [tap.module.register_forward_pre_hook(before, with_kwargs=True)]

        def after(_module: nn.Module, _args: tuple, output: Any) -> Any:
            if tap.nth is not None and not self._is_nth(tap, visit):
                return None
            raw = output if tap.key is None else output[tap.key]
            new = self._visited(tap, raw, visit)
            return None if new is raw else replaced(output, tap.key, new)

        return [tap.module.register_forward_hook(after)]

    def _is_nth(self, tap: Tap, visit: Visit) -> bool:
        """Count the calls that this visitor sees in the running forward."""
        seen = self._calls.get(id(visit), 0)
        self._calls[id(visit)] = seen + 1
        return seen == tap.nth

    def _install_mid(self, tap: Tap, layer: int | None, visit: Visit) -> list[Any]:
        """`resid_mid` = what came in + what attention adds; it is written through what attention adds."""
        block, held = self.stack.blocks[layer or 0], {}

        def before(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            held["pre"] = _get(args, kwargs, block.taps["resid_pre"].key)

        def after(_module: nn.Module, _args: tuple, output: Any) -> Any:
            raw = output if tap.key is None else output[tap.key]
            added = raw if tap.scale == 1.0 else raw * tap.scale
            mid = held.pop("pre") + added.reshape(held_shape(added, self.layout))
            new = visit(mid)
            if new is None:
                return None
            return replaced(output, tap.key, raw + ((new - mid) / tap.scale).reshape(raw.shape))

        return [
            block.module.register_forward_pre_hook(before, with_kwargs=True),
            tap.module.register_forward_hook(after),
        ]

    def _visited(self, tap: Tap, raw: Tensor, visit: Visit) -> Tensor:
        """Show the canonical view of `raw` to `visit`; return `raw` itself when nothing was written."""
        view = canonical(tap, raw, self.layout)
        new = visit(view)
        return raw if new is None else restored(tap, raw, view, new)

    def _on_attention(self, module: nn.Module, call: AttentionCall, delegate: Callable[..., Any]) -> Any:
        visits = [e for e in self.attention if e[0] == id(module)]
        if not visits:
            return delegate(module, call.q, call.k, call.v, call.mask, **call.kwargs)
        for key in ("q", "k", "v"):
            setattr(call, key, _visit_all(visits, key, getattr(call, key), swap=True))
        for score_visit in (e[3] for e in visits if e[1] == "scores"):
            call.mask = score_visit(call)  # type: ignore[arg-type, assignment]
        if any(e[1] in ("pattern", "scores") for e in visits):
            pattern = form_pattern(call)
            changed = _visit_all(visits, "pattern", pattern, swap=True)
            if changed is not pattern or any(e[1] == "scores" for e in visits):
                return _visit_all(visits, "z", mix_values(changed, call.v), swap=False), None
        output = delegate(module, call.q, call.k, call.v, call.mask, **call.kwargs)
        z = _visit_all(visits, "z", output[0], swap=False)
        return output if z is output[0] else (z, *output[1:])


def _visit_all(visits: list[tuple[int, str, bool, Visit]], key: str, value: Tensor, *, swap: bool) -> Tensor:
    """Run writers, then readers, of one attention tensor; heads come before positions inside, after them outside."""
    for writes in (True, False):
        for visit in (e[3] for e in visits if e[1] == key and e[2] is writes):
            new = visit(value.transpose(1, 2) if swap else value)
            if new is not None:
                value = new.transpose(1, 2) if swap else new
    return value


def _get(args: tuple, kwargs: dict, key: int | str | None) -> Tensor:
    return args[key] if isinstance(key, int) and key < len(args) else kwargs[key]


def _put(args: tuple, kwargs: dict, key: int | str | None, value: Tensor) -> tuple[tuple, dict]:
    if isinstance(key, int):
        return (*args[:key], value, *args[key + 1 :]), kwargs
    return args, {**kwargs, key: value}


def replaced(output: Any, key: int | str | None, value: Tensor) -> Any:
    """`output` with the tensor at `key` exchanged; tuples and model outputs keep their type."""
    if key is None:
        return value
    if isinstance(output, tuple) and not hasattr(output, "keys"):
        items = [value if i == key else item for i, item in enumerate(output)]
        return type(output)(*items) if hasattr(output, "_fields") else tuple(items)
    if isinstance(output, list):
        return [value if i == key else item for i, item in enumerate(output)]
    output[key] = value  # type: ignore[index]  # a model output: a mapping of its own class
    return output


def held_shape(tensor: Tensor, layout: Layout | None) -> tuple[int, ...]:
    """[row, col, width] of a tensor that may come with tokens flattened (MoE blocks, OPT's feed-forward)."""
    if tensor.dim() == 2 and layout is not None:
        return (layout.n_rows, layout.n_cols, tensor.shape[-1])
    if tensor.dim() > 3:
        return (tensor.shape[0], -1, tensor.shape[-1])
    return tuple(tensor.shape)


def canonical(tap: Tap, raw: Tensor, layout: Layout | None) -> Tensor:
    """The site's tensor in the field's form: [row, col, width] or [row, col, head, d_head], residual multiplier applied."""
    view = raw if raw.dim() == 3 else raw.reshape(held_shape(raw, layout))
    if tap.split is not None:
        view = view[..., tap.split[0] : tap.split[1] : tap.split[2]]
    if tap.heads is not None:
        view = view.unflatten(-1, (tap.heads, tap.width))
    return view if tap.scale == 1.0 else view * tap.scale


def restored(tap: Tap, raw: Tensor, view: Tensor, new: Tensor) -> Tensor:
    """Back to the module's own form. With a multiplier only the difference is carried over, so no change stays no change."""
    if tap.scale != 1.0:
        return raw + ((new - view) / tap.scale).reshape(raw.shape).to(raw.dtype)
    if tap.heads is not None:
        new = new.flatten(-2)
    if tap.split is not None:
        whole = raw.clone()
        flat = whole if raw.dim() == 3 else whole.view(*new.shape[:2], -1)
        flat[..., tap.split[0] : tap.split[1] : tap.split[2]] = new
        return whole
    return new.reshape(raw.shape).to(raw.dtype)
