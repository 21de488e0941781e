"""Tiny random models of other kinds: encoders, encoder-decoders, vision, and state-space bodies without a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn

from .overrides import GEMMA4, OVERRIDES
from .shrink import Nested, shrunk
from .tiny_models import build, tiny_inputs


@dataclass(frozen=True)
class Kind:
    """A model class by name, what it reads ("tokens", "pairs" for the decoder of an encoder-decoder, "pixels", "both" for
    two towers), special fields, and the stack to load where it is not the default."""

    class_name: str
    reads: str = "tokens"
    fields: Mapping[str, Any] = field(default_factory=dict)
    stack: str | None = None


VISION_FIELDS = {"image_size": 32, "patch_size": 8}
TWO_TOWERS = {"projection_dim": 32, "vision_config": Nested(VISION_FIELDS)}
T5_FIELDS = {"num_heads": 4, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 2}
GEMMA4_MOE = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 48}
GEMMA4_SHARED = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
}
STAGES = {"depths": [1, 1], "embed_dim": 16, "num_heads": [2, 4], "window_size": 2, "image_size": 32, "patch_size": 4}

OTHERS: dict[str, Kind] = {
    "bert": Kind("BertModel"),
    "bert-mlm": Kind("BertForMaskedLM"),
    "roberta": Kind("RobertaModel"),
    "xlm-roberta": Kind("XLMRobertaForMaskedLM"),
    "distilbert": Kind("DistilBertModel", fields={"dim": 64, "hidden_dim": 96}),
    "deberta-v2": Kind("DebertaV2Model"),
    "electra": Kind("ElectraModel"),
    "albert": Kind("AlbertModel"),
    "mpnet": Kind("MPNetModel"),
    "modernbert": Kind("ModernBertModel", fields={"num_hidden_layers": 4}),
    "nomic_bert": Kind("NomicBertModel"),
    "eurobert": Kind("EuroBertModel"),
    "t5": Kind("T5ForConditionalGeneration", fields=T5_FIELDS),
    "t5-decoder": Kind("T5ForConditionalGeneration", "pairs", fields=T5_FIELDS, stack="decoder"),
    "mt5": Kind("MT5ForConditionalGeneration", fields=T5_FIELDS),
    "mt5-decoder": Kind("MT5ForConditionalGeneration", "pairs", fields=T5_FIELDS, stack="decoder"),
    "t5gemma": Kind("T5GemmaForConditionalGeneration"),
    "t5gemma-decoder": Kind("T5GemmaForConditionalGeneration", "pairs", stack="decoder"),
    "bart": Kind("BartForConditionalGeneration"),
    "bart-decoder": Kind("BartForConditionalGeneration", "pairs", stack="decoder"),
    "pegasus": Kind("PegasusForConditionalGeneration"),
    "pegasus-decoder": Kind("PegasusForConditionalGeneration", "pairs", stack="decoder"),
    "m2m_100": Kind("M2M100ForConditionalGeneration"),
    "m2m_100-decoder": Kind("M2M100ForConditionalGeneration", "pairs", stack="decoder"),
    "vit": Kind("ViTModel", "pixels", VISION_FIELDS),
    "deit": Kind("DeiTModel", "pixels", VISION_FIELDS),
    "beit": Kind("BeitModel", "pixels", VISION_FIELDS),
    "dinov2": Kind("Dinov2Model", "pixels", VISION_FIELDS),
    "dinov3_vit": Kind("DINOv3ViTModel", "pixels", VISION_FIELDS),
    "clip": Kind("CLIPModel", "both", TWO_TOWERS),
    "clip-text": Kind("CLIPTextModel"),
    "clip-vision": Kind("CLIPVisionModel", "pixels", VISION_FIELDS),
    "siglip": Kind("SiglipModel", "both", {"vision_config": Nested(VISION_FIELDS)}),
    "siglip-text": Kind("SiglipTextModel"),
    "siglip-vision": Kind("SiglipVisionModel", "pixels", VISION_FIELDS),
    "swin": Kind("SwinModel", "pixels", STAGES),
    # Forms of causal types that their default configuration does not show.
    "opt-post-norm": Kind("OPTForCausalLM", fields={"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    "falcon-new-decoder": Kind("FalconForCausalLM", fields={"new_decoder_architecture": True}),
    "falcon-alibi": Kind("FalconForCausalLM", fields={"alibi": True, "parallel_attn": False, "bias": True}),
    "gpt_neox-sequential": Kind("GPTNeoXForCausalLM", fields={"use_parallel_residual": False}),
    "stablelm-parallel": Kind("StableLmForCausalLM", fields={"use_parallel_residual": True, "qk_layernorm": True}),
    "bloom-post-norm": Kind("BloomForCausalLM", fields={"apply_residual_connection_post_layernorm": True}),
    "llama-wide-heads": Kind("LlamaForCausalLM", fields={"head_dim": 24, "attention_bias": True, "mlp_bias": True}),
    "llama-tied": Kind("LlamaForCausalLM", fields={"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "gpt_bigcode-all-heads": Kind("GPTBigCodeForCausalLM", fields={"multi_query": False}),
    "deepseek_v2-no-query-rank": Kind("DeepseekV2ForCausalLM", fields={"q_lora_rank": None, "num_experts_per_tok": 2}),
    "gemma4-moe": Kind("Gemma4ForCausalLM", fields={**GEMMA4, **GEMMA4_MOE}),
    "gemma4-shared-kv": Kind("Gemma4ForCausalLM", fields={**GEMMA4, **GEMMA4_SHARED}),
    "qwen3_next-dense-first": Kind("Qwen3NextForCausalLM", fields={"mlp_only_layers": [0]}),
    "granite-mha": Kind("GraniteForCausalLM", fields={"num_key_value_heads": 4, "attention_bias": True}),
    "mamba": Kind("MambaModel"),
    "mamba2": Kind("Mamba2Model", fields=OVERRIDES["mamba2"]),
    "jamba": Kind("JambaModel", fields=OVERRIDES["jamba"]),
    "rwkv": Kind("RwkvModel"),
}


def other_types() -> list[str]:
    """The hand-chosen types beside the causal language models."""
    return list(OTHERS)


def other_model(name: str, seed: int = 0) -> nn.Module:
    """A seeded random model of one of `other_types`, float32, in eval mode. Raises CannotBuild with the reason."""
    kind = OTHERS[name]
    model_class = getattr(transformers, kind.class_name)
    return build(lambda: model_class(shrunk(model_class.config_class, kind.fields)), seed)


def other_inputs(name: str, model: nn.Module, rows: int = 2, lengths: int | list[int] = 7) -> dict[str, torch.Tensor]:
    """Inputs of the kind that this model reads; encoder-decoders get a decoder prompt of 5 tokens."""
    reads, inputs = OTHERS[name].reads, {}
    if reads != "pixels":
        inputs = tiny_inputs(model, rows, lengths)
    if reads == "pairs":
        inputs["decoder_input_ids"] = tiny_inputs(model, rows, 5, seed=1)["input_ids"]
    if reads in ("pixels", "both"):
        generator = torch.Generator().manual_seed(2)
        inputs["pixel_values"] = torch.randn(rows, 3, 32, 32, generator=generator)
    return inputs
