"""Other functions in place of modules' own forwards for a while; hooks on the modules stay, and the own forwards come back."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def standing_in(pairs: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """While the context is open, each module runs as the function beside it."""
    replaced: list[tuple[nn.Module, Any]] = []
    try:
        for module, forward in pairs:
            replaced.append(
                (module, module.__dict__.get("forward"))
            )  # sharded and offloaded modules carry one of their own
            module.forward = forward  # type: ignore[method-assign]
        yield
    finally:
        for module, own in reversed(replaced):
            del module.forward
            if own is not None:
                module.forward = own  # type: ignore[method-assign]
