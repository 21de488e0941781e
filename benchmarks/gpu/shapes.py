"""The models that are measured: random weights in bfloat16, made on the device itself."""

from dataclasses import dataclass

import torch
from torch import nn

SHAPES = ("GPT-2-XL shape", "8B Llama shape")


@dataclass(frozen=True)
class Shape:
    """A name, and whether it is the small trial of the same form."""

    name: str
    tiny: bool = False

    def module(self, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
        """Random weights, in eval mode."""
        import transformers

        torch.manual_seed(0)
        config = self._gpt2() if self.name == SHAPES[0] else self._llama()
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                module = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        finally:
            torch.set_default_dtype(before)
        return module.to(device).eval()

    def _gpt2(self):
        import transformers

        size = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 200} if self.tiny else {}
        full = {"n_layer": 48, "n_embd": 1600, "n_head": 25} | size
        return transformers.GPT2Config(**full, bos_token_id=0, eos_token_id=0)

    def _llama(self):
        import transformers

        full = {
            "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
            "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "rope_theta": 500000.0,
        }  # fmt: skip
        small = {
            "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 200, "max_position_embeddings": 1024,
        }  # fmt: skip
        return transformers.LlamaConfig(**(small if self.tiny else full), bos_token_id=1, eos_token_id=2)
