"""What the shrinking rule does not know, by model type: {field: value}. `Nested` holds fields of a sub-configuration."""

from __future__ import annotations

from typing import Any

from .shrink import Nested

OVERRIDES: dict[str, dict[str, Any]] = {
    "gemma4_assistant": {"text_config": Nested(hidden_size_per_layer_input=0)},
}
