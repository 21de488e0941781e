"""What the shrinking rule does not know: {model type: {field: value}}. `Nested` holds fields of a sub-configuration."""

from __future__ import annotations

from typing import Any

from .shrink import Nested

ROPE = {"rope_type": "default", "rope_theta": 10000.0}
HEAD = {"head_dim": 16}
MLA = {"head_dim": 8}  # these call the rotary part's width head_dim
INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 4,
    "indexer_compress_ratio": 2,
}
GEMMA3N = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    "intermediate_size": 96,
    "num_kv_shared_layers": 2,
}
GEMMA4 = {"global_head_dim": 32, "per_layer_config": None}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
DENSE_FIRST = {"mlp_only_layers": [0]}
DOTS3 = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 24,
    "swa_kv_lora_rank": 24,
    "swa_head_dim": 24,
    "swa_qk_nope_head_dim": 16,
    "swa_v_head_dim": 16,
    "per_layer_config": None,
}

# Types that cannot be run as causal language models on token ids, with the reason.
CANNOT: dict[str, str] = {
    "gemma3n": "its vision tower needs the packages timm and pillow (gemma3n_text is its language model)",
    "gemma4_assistant": "a drafter: its forward takes the keys and values of the model it drafts for, no token ids",
    "gemma4_unified_assistant": "a drafter: its forward takes the keys and values of the model it drafts for",
}

OVERRIDES: dict[str, dict[str, Any]] = {
    "axk2": MLA,
    "blt": {
        "num_hidden_layers": 2,
        "vocab_size": 260,
        **dict.fromkeys(("patcher_config", "encoder_config", "decoder_config"), Nested(vocab_size=260)),
        "encoder_hash_byte_group_vocab": 50,
        "global_config": Nested(encoder_cross_output_size=128),
    },
    "bailing_hybrid": {"linear_num_heads": 2, "linear_head_dim": 16},
    "bamba": {"attn_layer_indices": [1]},
    "dbrx": {"attn_config": Nested(rope_theta=10000.0, kv_n_heads=2, clip_qkv=8.0), "ffn_config": Nested(moe_top_k=2)},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v32": MLA,
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dots3_note": {"text_config": Nested(DOTS3)},
    "dots3_note_text": DOTS3,
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE}},
    "gemma3n_text": GEMMA3N,
    "gemma4": {"text_config": Nested(GEMMA4)},
    "gemma4_text": GEMMA4,
    "gemma4_unified": {"text_config": Nested(GEMMA4)},
    "gemma4_unified_text": GEMMA4,
    "glm_moe_dsa": MLA,
    "falcon_h1": {"mlp_multipliers": [0.8, 1.2]},
    "flint": DENSE_FIRST,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "hunyuan_v1_dense": HEAD,
    "hunyuan_v1_moe": HEAD,
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 3, "attn_layer_offset": 1},
    "kimi_linear": {"linear_num_heads": 2, "linear_head_dim": 16},
    "laguna": SLIDING,
    "lfm2": {"num_hidden_layers": 2, "full_attn_idxs": None, "layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "longcat_flash": MLA,
    "mamba2": {"head_dim": 16, "num_heads": 8},
    "mellum": {**SLIDING, "mlp_layer_types": ["dense", "sparse"]},
    "minimax_m3_vl_text": {
        "index_n_heads": 2,
        "layer_types": ["full_attention", "minimax_m3_sparse"],
        "mlp_layer_types": ["dense", "sparse"],
    },
    "ministral": HEAD,
    "musicgen": {"decoder": Nested(num_codebooks=1)},
    "musicgen_melody": {"decoder": Nested(num_codebooks=1)},
    "nemotron": {**HEAD, "num_key_value_heads": 2},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]},
    "qwen2": {**SLIDING, "use_sliding_window": True},
    "qwen2_moe": DENSE_FIRST,
    "qwen3_moe": DENSE_FIRST,
    "qwen4_exp": {"text_config": Nested(INDEXER)},
    "qwen4_exp_text": INDEXER,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "attn_layers": ["local", "lsh"],
        "axial_pos_embds_dim": [16, 48],
        "axial_pos_shape": [8, 16],
        "num_buckets": 4,
        "hash_seed": 0,
    },
    "xlstm": {"hidden_size": 128, "autocast_kernel_dtype": "float32"},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}
