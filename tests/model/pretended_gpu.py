"""A second device where there is none: tensors that say they lie on it, hold their values on the CPU, and refuse to mix.

Inside `pretended_gpu` a model moved with `on_gpu` runs as on a GPU as far as places are concerned: what torch refuses there
(operands on two devices, numpy arrays of such a tensor) is refused here. Nothing is said about kernels, speed or rounding. The
device is registered with torch for the rest of the process, so tests of it run in a process of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

KIND = "pretended"
GPU = f"{KIND}:0"
aten = torch.ops.aten
# may be given indices, or values to copy, from the CPU
COPYING = {aten.copy_.default, aten._to_copy.default}
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}


@cache
def register() -> None:
    """Make the device known to torch, once."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(KIND)


class Pretended(Tensor):
    """A tensor on the pretended GPU; its values are in `inner`."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=GPU,
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Pretended({self.inner!r})"

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs)


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """One operation on the values behind; what comes out lies there where it was asked for there or made from what lies there."""
    kwargs = dict(kwargs or {})
    if func is aten._fused_sdp_choice.default:
        return 0  # the explicit form
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    there = [t for t in tensors if isinstance(t, Pretended)]
    if there:
        _refuse_mixing(func, args, tensors)
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    if device == KIND:
        kwargs["device"] = "cpu"
    out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if device == "cpu":
        return out.clone() if func is aten._to_copy.default and there and out is there[0].inner else out
    if device is None and (not there or (func is aten.copy_.default and not isinstance(args[0], Pretended))):
        return out
    changed = {id(t.inner): t for t in there}  # in place: the same tensor goes out that came in
    return tree_map(lambda t: changed[id(t)] if id(t) in changed else _on_gpu(t), out)


def _refuse_mixing(func: Any, args: Any, tensors: list[Tensor]) -> None:
    if func in COPYING:
        return
    here = [t for t in tensors if not isinstance(t, Pretended)]
    if func in INDEXING:
        if not isinstance(args[0], Pretended):
            raise RuntimeError(f"{func}: a tensor on the CPU was given indices or values on the GPU")
        here = [t for t in args[2:] if isinstance(t, Tensor) and not isinstance(t, Pretended)]
    if any(t.dim() > 0 for t in here):
        raise RuntimeError(f"{func}: tensors on the GPU and on the CPU were mixed")


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Pretended) else value


def _on_gpu(value: Any) -> Any:
    return Pretended(value) if isinstance(value, Tensor) and not isinstance(value, Pretended) else value


class _Running(TorchDispatchMode):
    """Sees operations that no tensor of the device takes part in, such as making one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs)


class _Moving(TorchFunctionMode):
    """Moves tensors between the devices."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and isinstance(args[0], Pretended):
            copied = Pretended(args[0].inner.detach().clone())
            return nn.Parameter(copied, args[0].requires_grad) if isinstance(args[0], nn.Parameter) else copied
        if func is Tensor.tolist and isinstance(args[0], Pretended):
            return args[0].inner.tolist()
        if func in (torch.tensor, torch.as_tensor) and torch.device((kwargs or {}).get("device") or "cpu").type == KIND:
            return _on_gpu(func(*args, **{**kwargs, "device": "cpu"}))
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _index(args[1]), *args[2:])
        if func is not Tensor.to:
            return func(*args, **(kwargs or {}))
        args, kwargs, to_gpu = _moved(args, kwargs or {})
        out = func(*args, **kwargs)
        return _ToGpu.apply(out) if to_gpu and not isinstance(out, Pretended) else out


def _index(index: Any) -> Any:
    """Lists as tensors, which torch itself would make where they are not noticed."""
    if isinstance(index, tuple):
        return tuple(_index(i) for i in index)
    return torch.tensor(index, dtype=None if index else torch.long) if isinstance(index, list) else index


class _ToGpu(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return Pretended(x.detach())

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:
        return grad.cpu()


def _moved(args: Any, kwargs: Any) -> tuple[tuple, dict, bool]:
    """The arguments of `tensor.to` without the GPU in them, and whether it was there."""
    to_gpu, options = False, dict(kwargs)
    for arg in [*args[1:], *([options.pop("device")] if "device" in options else [])]:
        if isinstance(arg, Tensor):
            to_gpu, options["dtype"] = isinstance(arg, Pretended), arg.dtype
            options |= {} if to_gpu else {"device": "cpu"}
        elif isinstance(arg, (str, torch.device)):
            to_gpu = torch.device(arg).type == KIND
            options |= {} if to_gpu else {"device": arg}
        elif isinstance(arg, torch.dtype):
            options["dtype"] = arg
    return args[:1], options, to_gpu


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """While the context is open, tensors can be made on and moved to the device `GPU`."""
    register()
    with _Moving(), _Running():
        yield


def on_gpu(module: nn.Module) -> nn.Module:
    """Move weights and buffers of a module to the pretended GPU, in place; shared ones stay shared."""
    made: dict[int, nn.Parameter] = {}
    for inner in module.modules():
        for name, weight in list(inner._parameters.items()):
            if weight is not None:
                if id(weight) not in made:
                    made[id(weight)] = nn.Parameter(Pretended(weight.data), requires_grad=weight.requires_grad)
                inner._parameters[name] = made[id(weight)]
        for name, buffer in list(inner._buffers.items()):
            if buffer is not None:
                inner._buffers[name] = Pretended(buffer)
    return module
