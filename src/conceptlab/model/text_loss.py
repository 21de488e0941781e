"""How well a model foresees texts: nats a token of every row, and how much each single weight matters to that."""

import torch
from torch import Tensor, nn

from conceptlab.errors import InputError
from conceptlab.model.batch import Batch
from conceptlab.model.model import Model, Texts

AT_ONCE = 4096  # padded tokens in one forward


@torch.no_grad()
def text_loss(model: Model, texts: Texts) -> Tensor:
    """Mean negative log-likelihood of the next real token, [row] float64, nats. Raises InputError for rows of one token."""
    batch = checked(model, texts)
    found = torch.zeros(len(batch), dtype=torch.float64)
    for rows in batch.chunks(AT_ONCE):
        each, real = _each(model, batch, rows)
        found[rows] = ((each * real).sum(1) / real.sum(1)).double().cpu()
    model.forwards += len(batch)
    return found


def weight_importance(model: Model, texts: Texts, *, rows_at_once: int = 8) -> dict[str, Tensor]:
    """|weight x d loss / d weight|, mean over batches of `rows_at_once` rows, for every matrix that is no embedding of tokens.

    First-order change of the loss when a weight is put to 0 (Molchanov et al. 2017), shapes of the weights, float32. One forward
    and one backward a batch, and one copy of the matrices. Raises InputError for rows of one token.
    """
    batch, held = checked(model, texts), matrices(model)
    found = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in held.items()}
    order = sorted(range(len(batch)), key=lambda row: len(batch.ids[row]))
    parts = [order[at : at + rows_at_once] for at in range(0, len(order), rows_at_once)]
    for rows in parts:
        with torch.enable_grad():
            each, real = _each(model, batch, rows)
            grads = torch.autograd.grad((each * real).sum() / real.sum(), list(held.values()), allow_unused=True)
        for (name, weight), grad in zip(held.items(), grads, strict=True):
            if grad is not None:
                found[name] += (weight.detach().float() * grad.float()).abs() / len(parts)
    model.forwards += len(batch)
    return found


def matrices(model: Model) -> dict[str, nn.Parameter]:
    """Every weight of two axes or more by name, but for embeddings and what is tied to them; gains and biases serve everything."""
    ends = {id(p) for m in model.module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    head = getattr(model.module, "get_output_embeddings", lambda: None)()  # type: ignore[operator]
    ends |= {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()  # type: ignore[union-attr]
    named = model.module.named_parameters()
    return {name: p for name, p in named if p.dim() > 1 and id(p) not in ends and p.requires_grad}


def checked(model: Model, texts: Texts) -> Batch:
    """Texts as rows of two tokens or more."""
    batch = model.encode(texts)
    short = next((row for row, n in enumerate(batch.lengths) if n < 2), None)
    if short is not None:
        raise InputError(
            f"row {short} has {batch.lengths[short]} tokens, so no next token is foreseen; give two or more"
        )
    return batch


def _each(model: Model, batch: Batch, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood [row, pos] of each next token, and which of them are real."""
    inputs = model.padded(batch, rows)
    logits = model.module(**inputs, use_cache=False).logits[:, :-1].float()
    ids = inputs["input_ids"][:, 1:]
    each = nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").unflatten(0, ids.shape)
    return each, inputs["attention_mask"][:, 1:].to(each)
