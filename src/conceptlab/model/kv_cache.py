"""The cache of keys and values, by the name that a model gives it: `cache` since transformers 5.24, `past_key_values` before."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conceptlab.model.model import Model

NAMES = ("cache", "past_key_values")  # the newer first: asking a newer output by the older name warns


def cache_name(model: "Model") -> str:
    """The argument by which the model takes its cache."""
    return NAMES[0] if NAMES[0] in inspect.signature(model.runner.forward).parameters else NAMES[1]


def cache_of(given: Mapping[str, Any]) -> Any:
    """The cache in the arguments or in the output of a forward; None where there is none."""
    return next((given[name] for name in NAMES if given.get(name) is not None), None)


def cached_tokens(cache: Any) -> int:
    """How many tokens a cache holds; 0 for none, and for states that do not say (those of state-space layers)."""
    try:
        return int(cache.get_seq_length())
    except (AttributeError, ValueError):
        return 0
