"""Small models with random weights, for worlds whose model is trained: the same seed gives the same weights."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None, "tie_word_embeddings": False}


def fresh_gpt2(
    seed: int, *, n_tokens: int, longest: int, d_model: int, n_layers: int, n_heads: int, d_mlp: int, **more: Any
) -> "PreTrainedModel":
    """A GPT2LMHeadModel without dropout, float32; `more` are further settings of its config."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=n_tokens, n_positions=longest, n_embd=d_model, n_layer=n_layers, n_head=n_heads, n_inner=d_mlp,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **ENDS, **more,
    )  # fmt: skip
    return _seeded(seed, lambda: GPT2LMHeadModel(config).float())


def fresh_llama(
    seed: int,
    *,
    n_tokens: int,
    longest: int,
    d_model: int,
    n_layers: int,
    n_heads: int,
    d_mlp: int,
    spread: float = 0.05,
) -> "PreTrainedModel":
    """A LlamaForCausalLM whose weights begin with the standard deviation `spread`; its rotary base suits short texts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=n_tokens, hidden_size=d_model, intermediate_size=d_mlp, num_hidden_layers=n_layers,
        num_attention_heads=n_heads, num_key_value_heads=n_heads, max_position_embeddings=longest, initializer_range=spread,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0}, **ENDS,
    )  # fmt: skip
    return _seeded(seed, lambda: LlamaForCausalLM(config))


def _seeded(seed: int, make: "Callable[[], PreTrainedModel]") -> "PreTrainedModel":
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
