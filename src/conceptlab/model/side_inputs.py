"""What a block is given beside its stream (rotary angles, masks, positions), and how it follows the rows and positions of a run.

Which axes of such a tensor count rows and which count positions is asked, not named: the same model is run on inputs of other
sizes, and the axes that change with them are the ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from conceptlab.model.model import Model

# a path to a tensor among a block's arguments, such as ("position_embeddings", 0)
Path = tuple[Any, ...]


@dataclass(frozen=True)
class Axes:
    """Which axis counts rows (None: the same for all rows) and which count positions."""

    row: int | None
    pos: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Side:
    """The arguments of one recorded call of a block; the stream's place holds None."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def mapped(self, change: Callable[[Path, Tensor], Any]) -> "Side":
        """The same with every tensor replaced by `change(path, tensor)`."""
        args = tuple(_mapped(value, (i,), change) for i, value in enumerate(self.args))
        return Side(args, {name: _mapped(value, (name,), change) for name, value in self.kwargs.items()})

    def shapes(self) -> dict[Path, tuple[int, ...]]:
        """Path -> shape of every tensor."""
        found: dict[Path, tuple[int, ...]] = {}

        def note(path: Path, tensor: Tensor) -> Tensor:
            found[path] = tuple(tensor.shape)
            return tensor

        self.mapped(note)
        return found

    def call(self, module: nn.Module, key: int | str | None, stream: Tensor) -> Any:
        """The block on `stream`, which goes to the place `key`."""
        if isinstance(key, int) and key < len(self.args):
            return module(*self.args[:key], stream, *self.args[key + 1 :], **self.kwargs)
        return module(*self.args, **{**self.kwargs, str(key): stream})


def _mapped(value: Any, path: Path, change: Callable[[Path, Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(path, value)
    if type(value) in (tuple, list):
        return type(value)(_mapped(v, (*path, i), change) for i, v in enumerate(value))
    if type(value) is dict:
        return {k: _mapped(v, (*path, k), change) for k, v in value.items()}
    return value


@contextmanager
def recording(model: "Model") -> Iterator[list[Side | None]]:
    """Fill a list with the side inputs of every block while forwards run inside."""
    found: list[Side | None] = [None] * model.n_layers
    handles = []

    def watch(layer: int, key: int | str | None) -> Callable[..., None]:
        def before(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            kept = tuple(None if i == key else a for i, a in enumerate(args))
            found[layer] = Side(kept, {k: v for k, v in kwargs.items() if k != key})

        return before

    try:
        for layer, block in enumerate(model.stack.blocks):
            hook = watch(layer, block.taps["resid_pre"].key)
            handles.append(block.module.register_forward_pre_hook(hook, with_kwargs=True))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def side_axes(model: "Model") -> list[dict[Path, Axes]]:
    """Axes of every side input of every block, from two small forwards of other sizes."""
    small = _shapes(model, rows=2, cols=5)
    tall = _shapes(model, rows=3, cols=5)
    wide = _shapes(model, rows=2, cols=7)
    return [
        {path: _axes(shape, tall[layer].get(path), wide[layer].get(path)) for path, shape in shapes.items()}
        for layer, shapes in enumerate(small)
    ]


def _axes(shape: tuple[int, ...], tall: tuple[int, ...] | None, wide: tuple[int, ...] | None) -> Axes:
    if tall is None or wide is None or not len(shape) == len(tall) == len(wide):
        return Axes(None, ())
    row = next((i for i, (a, b) in enumerate(zip(shape, tall, strict=True)) if a != b), None)
    return Axes(row, tuple(i for i, (a, b) in enumerate(zip(shape, wide, strict=True)) if a != b))


def _shapes(model: "Model", *, rows: int, cols: int) -> list[dict[Path, tuple[int, ...]]]:
    vocabulary = model.module.get_input_embeddings().weight.shape[0]  # type: ignore[operator, union-attr]
    ids = torch.full((rows, cols), vocabulary // 2, device=model.device)
    with recording(model) as sides, torch.no_grad():
        model._forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, stop_after=model.n_layers - 1)
    return [{} if side is None else side.shapes() for side in sides]
