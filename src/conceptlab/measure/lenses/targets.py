"""Target tokens of the lenses: ids checked, one column a target, and how tokens are written."""

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.model import Model


def target_ids(model: Model, targets: object, n_rows: int) -> Tensor:
    """Token ids [row, target], -1 where a row has none. Raises InputError where they fit neither the rows nor the vocabulary."""
    ids = torch.as_tensor(targets, dtype=torch.long)
    if ids.dim() != 2 or len(ids) != n_rows:
        raise InputError(
            f"targets of shape {list(ids.shape)} came for {n_rows} texts; give [row, target], -1 where a row has none"
        )
    size = model.unembedding.shape[0]
    if ids.numel() and (int(ids.max()) >= size or int(ids.min()) < -1):
        raise InputError(f"a target is outside the vocabulary of {size}; ids run from 0 to {size - 1}, and -1 is none")
    empty = [t for t in range(ids.shape[1]) if not bool((ids[:, t] >= 0).any())]
    if empty or not ids.shape[1]:
        raise InputError(f"target {empty[0] if empty else 0} names no token in any row; leave its column out")
    return ids


def token_texts(model: Model, ids: np.ndarray) -> np.ndarray:
    """The texts of token ids as results keep them: numpy's strings, a NUL written ␀, since they lose one at their end."""
    exact = exact_token_texts(model, ids)
    return np.array([text.replace("\0", "␀") for text in exact.ravel()], dtype=str).reshape(ids.shape)


def exact_token_texts(model: Model, ids: np.ndarray) -> np.ndarray:
    """The texts of token ids, exactly, as Python's strings."""
    told = {int(i): token_text(model, int(i)) for i in np.unique(ids)}
    return np.array([told[int(i)] for i in ids.ravel()], dtype=object).reshape(ids.shape)


def token_text(model: Model, i: int) -> str:
    """The text of one token id; its raw form where it decodes to nothing, the id itself where there is no tokenizer."""
    if model.tokenizer is None or i >= len(model.tokenizer):  # unembeddings are often padded beyond the tokenizer
        return str(i)
    return model.tokenizer.decode([i]) or str(model.tokenizer.convert_ids_to_tokens(i))
