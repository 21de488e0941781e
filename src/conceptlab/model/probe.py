"""Inputs for a trial forward of any model: seeded tokens, pixels, or both."""

from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.model.batch import input_device


def probe_inputs(module: nn.Module, *, pixels: bool = False) -> dict[str, Tensor]:
    """Two rows of seeded tokens (with `pixels` also images) for the trial forward, on the model's device."""
    config = getattr(module, "config", None)
    device = input_device(module)
    generator = torch.Generator().manual_seed(0)
    main = getattr(module, "main_input_name", "input_ids")
    inputs: dict[str, Tensor] = {}
    if main == "pixel_values" or (pixels and _config(config, "vision_config")):
        vision = _config(config, "vision_config") or config
        size = _config(vision, "image_size") or 32
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        channels = _config(vision, "num_channels") or 3
        inputs["pixel_values"] = torch.randn(2, channels, height, width, generator=generator, dtype=torch.float32)
        inputs["pixel_values"] = inputs["pixel_values"].to(next(module.parameters()).dtype)
    if main == "input_ids":
        text = _config(config, "text_config") or config
        size = _config(text, "vocab_size") or _config(config, "vocab_size") or 100
        named = [getattr(text, n, None) for n in ("pad_token_id", "eos_token_id", "bos_token_id")]
        special = [s for n in named for s in (n if isinstance(n, list) else [n])]
        ids = torch.randint(min(5, size - 1), size, (2, 7), generator=generator)
        ids[torch.isin(ids, torch.tensor([s for s in special if isinstance(s, int)] or [-1]))] = size // 2
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if getattr(config, "is_encoder_decoder", False):
            inputs |= {"decoder_input_ids": ids.flip(0)[:, :5]}
    if not _config(config, "is_encoder_decoder") and hasattr(config, "use_cache"):
        inputs["use_cache"] = False  # type: ignore[assignment]
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def _config(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, dict) else getattr(config, name, None)
