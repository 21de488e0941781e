"""Tiny random models of every causal-LM type of the installed transformers, for tests of the engine's identities."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .overrides import CANNOT, OVERRIDES
from .shrink import shrunk

FIRST_TOKEN, LAST_TOKEN = 10, 90  # inputs are drawn from here, away from the special tokens


class CannotBuild(Exception):
    """This type cannot be built or run here; the message is the reason in one line."""


def causal_lm_types() -> list[str]:
    """Every model type with a causal-LM class, in transformers' order."""
    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str) -> Any:
    """The shrunken configuration of a type; of a multimodal one whose causal-LM class is text only, its text part."""
    config_class = CONFIG_MAPPING[model_type]
    overrides: dict[str, Any] = dict(OVERRIDES.get(model_type, {}))
    wanted = getattr(model_class(model_type), "config_class", None) or config_class
    if not issubclass(config_class, wanted):
        name, config_class = _text_part(config_class, wanted)
        overrides = dict(overrides.get(name, {}))
    if "is_decoder" in {f.name for f in dataclasses.fields(config_class)}:
        overrides.setdefault("is_decoder", True)
    return shrunk(config_class, overrides)


def _text_part(config_class: Any, wanted: type) -> tuple[str, Any]:
    """Name and class of the sub-configuration that the causal-LM class takes."""
    parts = {name: part for name, part in config_class.sub_configs.items() if issubclass(part, wanted)}
    return next(iter(parts.items()), ("", wanted))


def model_class(model_type: str) -> type[nn.Module]:
    """The causal-LM class of a model type."""
    return getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])


def tiny_model(model_type: str, seed: int = 0) -> nn.Module:
    """A seeded random model of this type: float32, in eval mode, no weight at a value that hides an error.

    Raises CannotBuild with the reason.
    """
    if model_type in CANNOT:
        raise CannotBuild(CANNOT[model_type])
    return build(lambda: model_class(model_type)(tiny_config(model_type)), seed)


def build(make: Any, seed: int = 0) -> nn.Module:
    """Call `make` under the seed and randomise what it returns; any failure becomes CannotBuild."""
    torch.manual_seed(seed)
    try:
        model = make()
    except Exception as error:  # noqa: BLE001  (any reason at all is reported, by name)
        raise CannotBuild(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    randomise(model, seed)
    return model.float().eval()


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> None:
    """Move every weight off the constants that would hide an error (zero projections, unit gains), in place."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if not parameter.is_floating_point() or parameter.numel() == 0:
            continue
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        constant = bool((parameter == parameter.flatten()[0]).all()) and parameter.numel() > 1
        if constant:
            parameter.add_(0.1 * noise)
        elif not torch.isfinite(parameter).all() or (parameter.ndim >= 2 and parameter.std() < 0.06):
            parameter.copy_(0.08 * noise)


def tiny_inputs(
    model: nn.Module, rows: int = 2, lengths: int | list[int] = 7, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random tokens `[row, pos]` with their mask; ragged lengths are padded on the right."""
    sizes = [lengths] * rows if isinstance(lengths, int) else list(lengths)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(FIRST_TOKEN, LAST_TOKEN, (len(sizes), max(sizes)), generator=generator)
    mask = (torch.arange(max(sizes))[None, :] < torch.tensor(sizes)[:, None]).long()
    config: Any = model.config
    pad = getattr(config.get_text_config(), "pad_token_id", None)
    tokens = torch.where(mask.bool(), tokens, torch.tensor(pad if isinstance(pad, int) else 0))
    return {"input_ids": tokens, "attention_mask": mask}
