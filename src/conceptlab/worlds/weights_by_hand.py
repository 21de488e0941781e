"""The steps that every hand-written model shares: an empty host, a map of its stream, and setting one head or neuron.

Hosts are ordinary `GPT2LMHeadModel` and `LlamaForCausalLM` objects. Their norms are made neutral by two ordinary
values: the config's epsilon is `NEUTRAL_EPS`, far above the variance of the stream, and every gain is its square
root, so that norm(x) = x / sqrt(1 + var(x) / NEUTRAL_EPS), which is x within 2e-4 for a stream of variance below 4.
No coordinate of the stream has to be huge for that. LayerNorm's centring is undone by one `balance` coordinate that
takes minus the sum of every write, so that the mean of the stream is 0 (`balance_writes`).

Attention divides scores by sqrt(d_head); `set_head` multiplies `q` by it, so that a head is given by plain scores.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

NEUTRAL_EPS = 1e4


@dataclass(frozen=True)
class Layout:
    """Named blocks of coordinates of a stream (or of a head) of width `width`."""

    width: int
    blocks: Mapping[str, slice]

    @classmethod
    def of(cls, width: int, **sizes: int) -> "Layout":
        """Blocks of the given sizes, one after the other; what is left is the block `rest`.

        Raises ValueError when they do not fit.
        """
        if sum(sizes.values()) > width:
            raise ValueError(f"blocks of {sum(sizes.values())} coordinates do not fit into a width of {width}")
        blocks, start = {}, 0
        for name, size in sizes.items():
            blocks[name] = slice(start, start + size)
            start += size
        return cls(width, {**blocks, "rest": slice(start, width)})

    def at(self, name: str, i: int = 0) -> int:
        """Coordinate `i` of a block."""
        return self.blocks[name].start + i

    def size(self, name: str) -> int:
        """How many coordinates a block has."""
        return self.blocks[name].stop - self.blocks[name].start

    def unit(self, name: str, i: int = 0) -> Tensor:
        """The unit vector [width] of coordinate `i` of a block."""
        vector = torch.zeros(self.width)
        vector[self.at(name, i)] = 1.0
        return vector

    def map(self, other: "Layout", *pairs: tuple[str, str] | tuple[str, str, float]) -> Tensor:
        """The matrix [width, other.width] that copies blocks of this layout into blocks of another, each scaled."""
        matrix = torch.zeros(self.width, other.width)
        for source, target, *scale in pairs:
            size = min(self.size(source), other.size(target))
            for i in range(size):
                matrix[self.at(source, i), other.at(target, i)] = scale[0] if scale else 1.0
        return matrix


@dataclass(frozen=True)
class Head:
    """One attention head as plain matrices: q, k, v [d_model, d_head], o [d_head, d_model], q_bias [d_head]; None is 0.

    The score of a query x and a key y is (x @ q + q_bias) @ (y @ k), without a further scale. Hosts without biases
    (Llama) take no `q_bias`.
    """

    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    o: Tensor | None = None
    q_bias: Tensor | None = None


@dataclass(frozen=True)
class Neuron:
    """One MLP neuron: w_in, w_gate, w_out [d_model]. Ungated hosts (GPT-2) take `bias`, gated ones (Llama) `w_gate`."""

    w_in: Tensor
    w_out: Tensor
    bias: float = 0.0
    w_gate: Tensor | None = None


def empty_gpt2(
    *, n_layers: int, n_heads: int, d_head: int, d_mlp: int, d_vocab: int, n_positions: int
) -> "PreTrainedModel":
    """A GPT2LMHeadModel in float32 with ReLU, an unembedding of its own, every weight 0 and neutral norms."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=d_vocab,
        n_positions=n_positions,
        n_embd=n_heads * d_head,
        n_layer=n_layers,
        n_head=n_heads,
        n_inner=d_mlp,
        activation_function="relu",
        layer_norm_epsilon=NEUTRAL_EPS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    return _emptied(_quietly_built(GPT2LMHeadModel, config), gain=math.sqrt(NEUTRAL_EPS))


def empty_llama(
    *, n_layers: int, n_heads: int, d_head: int, d_mlp: int, d_vocab: int, n_positions: int, neutral: bool = True
) -> "PreTrainedModel":
    """A LlamaForCausalLM in float32 with every weight 0; with `neutral` its norms are neutral, else ordinary (gain 1).

    Its rotary base is 1e8: the last rotary pairs of a head turn by less than 1e-4 a token, so that what is compared
    there is content alone.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=d_vocab,
        max_position_embeddings=n_positions,
        hidden_size=n_heads * d_head,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_heads if neutral else n_heads // 2,
        intermediate_size=d_mlp,
        rms_norm_eps=NEUTRAL_EPS if neutral else 1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8 if neutral else 1e4},
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    return _emptied(_quietly_built(LlamaForCausalLM, config), gain=math.sqrt(NEUTRAL_EPS) if neutral else 1.0)


def _quietly_built(model_class: "type[PreTrainedModel]", config: "PreTrainedConfig") -> "PreTrainedModel":
    # the class draws its own random weights first: that must not move the caller's random state
    with torch.random.fork_rng(devices=[]):
        return model_class(config).float().eval()


@torch.no_grad()
def _emptied(model: "PreTrainedModel", gain: float) -> "PreTrainedModel":
    norms = ("ln_1.weight", "ln_2.weight", "ln_f.weight", "norm.weight", "layernorm.weight")
    for name, parameter in model.named_parameters():
        parameter.fill_(gain if name.endswith(norms) else 0.0)
    return model


def _is_gpt2(model: "PreTrainedModel") -> bool:
    return model.config.model_type == "gpt2"


@torch.no_grad()
def set_head(model: "PreTrainedModel", layer: int, head: int, weights: Head) -> None:
    """Overwrite one head; what `weights` leaves out becomes 0. Raises ValueError for a bias on a host without one."""
    d_model = model.get_parameter("lm_head.weight").shape[1]
    d_head = d_model // model.config.num_attention_heads
    here = slice(head * d_head, (head + 1) * d_head)
    nothing = torch.zeros(d_model, d_head)
    q, k, v = (nothing if w is None else w for w in (weights.q, weights.k, weights.v))
    o = nothing.T if weights.o is None else weights.o
    q = q * math.sqrt(d_head)
    if _is_gpt2(model):
        block = f"transformer.h.{layer}.attn"
        for part, matrix in enumerate((q, k, v)):
            model.get_parameter(f"{block}.c_attn.weight")[:, part * d_model :][:, here] = matrix
        bias = torch.zeros(d_head) if weights.q_bias is None else weights.q_bias * math.sqrt(d_head)
        model.get_parameter(f"{block}.c_attn.bias")[here] = bias
        model.get_parameter(f"{block}.c_proj.weight")[here] = o
        return
    if weights.q_bias is not None:
        raise ValueError("this host has no attention biases: leave q_bias out")
    block = f"model.layers.{layer}.self_attn"
    for name, matrix in (("q_proj", q), ("k_proj", k), ("v_proj", v)):
        model.get_parameter(f"{block}.{name}.weight")[here] = matrix.T
    model.get_parameter(f"{block}.o_proj.weight")[:, here] = o.T


@torch.no_grad()
def set_neuron(model: "PreTrainedModel", layer: int, neuron: int, weights: Neuron) -> None:
    """Overwrite one MLP neuron. Raises ValueError when `w_gate` is missing on a gated host, or given to another."""
    gated = not _is_gpt2(model)
    if gated == (weights.w_gate is None) or (gated and weights.bias):
        raise ValueError("a gated host takes w_gate and no bias, an ungated one a bias and no w_gate")
    if weights.w_gate is not None:
        block = f"model.layers.{layer}.mlp"
        model.get_parameter(f"{block}.gate_proj.weight")[neuron] = weights.w_gate
        model.get_parameter(f"{block}.up_proj.weight")[neuron] = weights.w_in
        model.get_parameter(f"{block}.down_proj.weight")[:, neuron] = weights.w_out
        return
    block = f"transformer.h.{layer}.mlp"
    model.get_parameter(f"{block}.c_fc.weight")[:, neuron] = weights.w_in
    model.get_parameter(f"{block}.c_fc.bias")[neuron] = weights.bias
    model.get_parameter(f"{block}.c_proj.weight")[neuron] = weights.w_out


@torch.no_grad()
def set_vocabulary(
    model: "PreTrainedModel", *, embed: Tensor, unembed: Tensor, positions: Tensor | None = None
) -> None:
    """Set the embedding and the unembedding, both [d_vocab, d_model], and learned positions [n_positions, d_model]."""
    model.get_parameter("transformer.wte.weight" if _is_gpt2(model) else "model.embed_tokens.weight").copy_(embed)
    model.get_parameter("lm_head.weight").copy_(unembed)
    if positions is not None:
        model.get_parameter("transformer.wpe.weight").copy_(positions)


def uniform_head(layout: Layout, d_head: int, generator: torch.Generator, scale: float = 0.03) -> Head:
    """A head without scores, so with a uniform pattern, that reads block `tok` and writes noise of that scale anywhere.

    It reads words alone, so that what it adds differs from text to text and is no constant bias of the logits.
    """
    v = torch.zeros(layout.width, d_head)
    v[layout.blocks["tok"]] = scale * torch.randn(layout.size("tok"), d_head, generator=generator)
    return Head(v=v, o=scale * torch.randn(d_head, layout.width, generator=generator))


def one_hot_vocabulary(
    layout: Layout, n_words: int, *, n_special: int, read: str, gain: float
) -> tuple[Tensor, Tensor]:
    """Embedding and unembedding [d_vocab, d_model]: word i is unit i of block `tok`, its logit `gain` × block `read`.

    Token 1 is `<bos>` and gets the block `bos`; pad and unknown are 0. Words past the size of `read` have logit 0.
    """
    embed, unembed = torch.zeros(2, n_special + n_words, layout.width)
    embed[1] = layout.unit("bos")
    for i in range(n_words):
        embed[n_special + i] = layout.unit("tok", i)
    for i in range(layout.size(read)):
        unembed[n_special + i] = gain * layout.unit(read, i)
    return embed, unembed


@torch.no_grad()
def balance_writes(model: "PreTrainedModel", coordinate: int) -> None:
    """In a GPT-2 host, let `coordinate` take minus the sum of whatever is written to the stream: its mean becomes 0."""
    for name, weight in model.named_parameters():
        if name.endswith(("wte.weight", "wpe.weight", "c_proj.weight")):
            weight[:, coordinate] -= weight.sum(-1)


@torch.no_grad()
def rotate_stream(model: "PreTrainedModel", rotation: Tensor) -> None:
    """Turn the stream x of a Llama host with constant gains into x @ rotation [d_model, d_model]; logits stay.

    RMSNorm with one gain commutes with a rotation, so afterwards no coordinate of the stream is special.
    """
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.copy_(rotation.T @ weight)
        elif weight.ndim == 2:
            weight.copy_(weight @ rotation)


def random_rotation(width: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix [width, width]: the Q of a Gaussian matrix, signs fixed (Mezzadri 2007, section 5)."""
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).float()
