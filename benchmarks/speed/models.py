"""What is measured on: GPT-2-small size, a 12-layer Llama of like size, a tiny model; random weights, made from configs."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

SIZES = ("gpt2", "llama")


@dataclass(frozen=True)
class Subject:
    """A bare module with one batch: `ids` [row, col], no padding."""

    name: str
    module: nn.Module
    ids: Tensor

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a person gives the bare module; without a KV cache, which one forward does not need."""
        return {"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids), "use_cache": False}  # type: ignore[dict-item]

    def bare(self) -> object:
        """One forward of the module as it is."""
        with torch.no_grad():
            return self.module(**self.inputs)


def make_module(kind: str, *, tiny: bool = False, n_layers: int = 12) -> nn.Module:
    """A random module of a kind; `tiny` has width 32."""
    import transformers

    torch.manual_seed(0)
    if kind == "gpt2":
        size = {"n_embd": 32, "n_head": 2, "vocab_size": 200} if tiny else {}
        ends = {"bos_token_id": 0, "eos_token_id": 0}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=n_layers, **size, **ends)).eval()
    width = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "vocab_size": 200}
    full = {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12, "vocab_size": 32000}
    size = width if tiny else full
    config = transformers.LlamaConfig(num_hidden_layers=n_layers, max_position_embeddings=1024, **size)
    return transformers.LlamaForCausalLM(config).eval()


def make_subject(kind: str, rows: int, cols: int, *, tiny: bool = False, n_layers: int = 12) -> Subject:
    """A random module of a kind with a random batch."""
    module = make_module(kind, tiny=tiny, n_layers=n_layers)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, module.config.vocab_size, (rows, cols), generator=generator)  # type: ignore[union-attr, arg-type]
    return Subject(kind, module, ids)


def word_tokenizer(n_words: int):
    """`w1` … are the tokens 1 …: texts of a known number of tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(n_words)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="w0", unk_token="w0")
