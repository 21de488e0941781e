"""Shrink the configuration of any architecture by the names of its fields: one rule for nearly all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

VOCAB = 101
N_LAYERS = 2
MAX_LAYERS = 4

# One value for each name that configurations use for a size. Every two sizes that could be confused differ where the
# architectures allow it: width 64, MLP 96, experts 48, vocabulary 101, 4 heads of 16 over 2 key-value heads.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "emb_dim", "embedding_dim", "embedding_size"), 64),
    **dict.fromkeys(("word_embed_proj_dim", "input_embedding_size", "output_embedding_size", "lru_width"), 64),
    **dict.fromkeys(("attention_hidden_size", "hidden_size_global"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "ffn_hidden_size"), 96),
    **dict.fromkeys(("d_inner", "dff", "dim_ff", "feed_forward_size", "intermediate_size_mlp", "d_ff"), 96),
    **dict.fromkeys(("dense_intermediate_size", "mlp_hidden_size", "n_inner", "hidden_dim"), 96),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "moe_shared_expert_intermediate_size"), 48),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_experts_intermediate_size"), 48),
    **dict.fromkeys(("shared_intermediate_size", "router_hidden_size", "prefix_dense_intermediate_size"), 48),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "swa_num_attention_heads", "num_query_groups"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "n_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "attention_head_size", "attention_head_dim", "kv_channels", "swa_head_dim"), 16),
    **dict.fromkeys(("d_head", "d_kv", "dim_head", "global_head_dim", "v_head_dim", "index_head_dim"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "rotary_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("qk_head_dim", "indexer_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(
        ("q_lora_rank", "kv_lora_rank", "o_lora_rank", "adapter_rank", "laurel_rank", "gated_norm_rank"), 24
    ),
    **dict.fromkeys(("linear_num_key_heads", "indexer_n_heads"), 2),
    # Few index heads would tie at a score of zero, and ties are broken by column: not by what is tested here.
    "index_n_heads": 16,
    **dict.fromkeys(("linear_num_value_heads", "linear_num_heads", "index_topk", "index_topk_blocks"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "zero_expert_num"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size", "mamba_dt_rank", "time_step_rank"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 8),
    **dict.fromkeys(("mamba_d_ssm", "mamba_intermediate_size"), 128),
    **dict.fromkeys(("n_groups", "o_groups", "mamba_n_groups", "mamba_ngroups"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "context_length"), 128),
    **dict.fromkeys(("max_source_positions", "max_target_positions", "model_max_length", "max_length"), 128),
    **dict.fromkeys(("original_max_position_embeddings", "position_bias_max_distance", "rel_extent"), 128),
    # Windows and chunks shorter than the test's prompts, so that they act.
    **dict.fromkeys(("sliding_window", "sliding_window_size", "window_size", "attention_window_size"), 4),
    **dict.fromkeys(("attention_chunk_size", "chunk_size", "mamba_chunk_size", "index_block_size"), 4),
    **dict.fromkeys(("local_attention", "keep_window_size", "local_attention_window_len"), 8),
    # Multipliers that most defaults leave at 1, where forgetting one would not show.
    **dict.fromkeys(("residual_multiplier", "attention_out_multiplier", "ssm_out_multiplier"), 0.4),
    **dict.fromkeys(("embedding_multiplier", "logits_scaling", "lm_head_multiplier", "ssm_in_multiplier"), 1.5),
    **dict.fromkeys(("attention_multiplier", "attention_in_multiplier", "key_multiplier"), 0.7),
    **dict.fromkeys(("full_attn_alpha_factor", "linear_attn_alpha_factor", "mlp_alpha_factor"), 1.5),
    **dict.fromkeys(("full_attn_beta_factor", "linear_attn_beta_factor", "mlp_beta_factor"), 0.7),
    "vocab_size": VOCAB,
    "decoder_vocab_size": VOCAB,
    "vocab_size_per_layer_input": VOCAB,
    "unpadded_vocab_size": VOCAB,
    "audio_vocab_size": VOCAB,
    "hidden_size_per_layer_input": 16,
    "query_pre_attn_scalar": 16,
    "position_bias_num_buckets": 32,
    "num_kv_shared_layers": 0,
    "num_hash_layers": 0,
    "image_size": 32,
    "patch_size": 8,
    "num_mel_bins": 16,
}
DEPTHS = {
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"),
    *("num_blocks", "num_decoder_layers", "num_encoder_layers", "depth"),
}
TOKENS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2, "sep_token_id": 4}


def shrunk(config_class: type, overrides: Mapping[str, Any] | None = None, defaults: Any = None) -> Any:
    """A small instance of `config_class`. Overrides win over the rule; one of None leaves that field alone."""
    overrides = dict(overrides or {})
    defaults = defaults if defaults is not None else config_class()
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    values = _sub_configs(config_class, defaults, overrides)
    kept = _kept_layers(fields, defaults, overrides)
    if {
        "kv_lora_rank",
        "num_key_value_heads",
    } <= fields.keys():  # latent attention expands keys and values to every head
        overrides.setdefault("num_key_value_heads", SIZES["num_attention_heads"])
    for name in fields:
        if name in values or name in overrides:
            continue
        value = _small(name, _current(defaults, name), fields[name].default, kept)
        if value is not None:
            values[name] = value
    values.update({k: v for k, v in overrides.items() if v is not None and not isinstance(v, Nested)})
    return config_class(**values)


class Nested(dict[str, Any]):
    """Overrides for the fields of a sub-configuration."""


def _current(config: Any, name: str) -> Any:
    """The value of a field; of one that varies over layers, the declared one."""
    try:
        return getattr(config, name, None)
    except Exception:  # noqa: BLE001  (transformers raises errors of its own for fields that vary over layers)
        return getattr(type(config), name, None)


def _sub_configs(config_class: type, defaults: Any, overrides: Mapping[str, Any]) -> dict[str, Any]:
    small = {}
    for name in getattr(config_class, "sub_configs", {}):
        value = _current(defaults, name)
        if name in overrides and not isinstance(overrides[name], Nested):
            continue
        if value is not None and dataclasses.is_dataclass(value):
            small[name] = shrunk(type(value), overrides.get(name), defaults=value)
    return small


def _depth(fields: Mapping[str, Any], defaults: Any) -> int | None:
    depths = (_current(defaults, n) for n in fields if n in DEPTHS)
    return next((depth for depth in depths if isinstance(depth, int)), None)


def _kept_layers(fields: Mapping[str, Any], defaults: Any, overrides: Mapping[str, Any]) -> list[int]:
    """Indices of the layers to keep: the first of each kind that the per-layer lists tell apart, in order."""
    depth = _depth(fields, defaults)
    asked = next((overrides[n] for n in DEPTHS if overrides.get(n) is not None), None)
    if depth is None or asked is not None:
        return list(range(asked or N_LAYERS))
    lists = [_current(defaults, n) for n in fields if _is_per_layer(n, _current(defaults, n), depth)]
    kinds = [tuple(map(str, kind)) for kind in zip(*lists, strict=True)] if lists else [()] * depth
    first = sorted({kind: i for i, kind in reversed(list(enumerate(kinds)))}.values())[:MAX_LAYERS]
    rest = [i for i in range(depth) if i not in first]
    return sorted(first + rest[: max(0, N_LAYERS - len(first))])


def _is_per_layer(name: str, value: Any, depth: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == depth and not name.endswith("token_id")


def _small(name: str, value: Any, declared: Any, kept: list[int]) -> Any:
    """The small value of one field, or None where the default is fine."""
    if name in DEPTHS:
        return len(kept) if declared is not None else None
    if name in SIZES and isinstance(value, list | tuple):
        return [SIZES[name]] * len(kept)
    if isinstance(value, list | tuple) and kept and len(value) > max(kept) and _layered(name):
        return type(value)(value[i] for i in kept)
    if name == "rope_parameters" and isinstance(value, dict):
        return _small_rope(value)
    if isinstance(value, bool):
        return None
    if name in SIZES:
        # A field that the class fills in from others is left to it.
        derived = declared is None and name not in ("num_key_value_heads", "head_dim")
        return None if derived or value is None else SIZES[name]
    if name in TOKENS:
        return TOKENS[name] if isinstance(value, int) else None
    if isinstance(value, int) and name.endswith(("token_id", "token_index")):
        return VOCAB - 1 - sum(map(ord, name)) % 8
    return None


def _layered(name: str) -> bool:
    return any(word in name for word in ("layer", "indexer_types", "per_layer", "block_type", "activation_sparsity"))


def _small_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """Rotary parameters with sections that fit a head of 16."""
    small: dict[str, Any] = {k: _small_rope(v) if isinstance(v, dict) else v for k, v in rope.items()}
    if "mrope_section" in small:
        half = int(16 * small.get("partial_rotary_factor", 1.0)) // 2
        side = half // 3
        small["mrope_section"] = [half - 2 * side, side, side]
    for name in ("short_factor", "long_factor"):
        if name in small:
            small[name] = small[name][:8]
    if "original_max_position_embeddings" in small:
        small["original_max_position_embeddings"] = 64
    return small
