"""Generation under edits: the library's own `generate`, left-padded, with positions counted in real tokens."""

from typing import TYPE_CHECKING, Any

import torch

from conceptlab.errors import ModelError

if TYPE_CHECKING:
    from conceptlab.model.model import Model, Texts


def generate_texts(
    model: "Model", texts: "Texts", *, max_new_tokens: int, use_cache: bool, **options: Any
) -> list[str]:
    """New text of each row. Edits at "all" also act on generated tokens; "last" and indices count in the prompt.

    Raises ModelError where the model cannot generate or prompt and continuation exceed the context.
    """
    if not model.has_logits or not hasattr(model.module, "generate"):
        raise ModelError(
            f"{model.name} does not generate: {model.stack.missing.get('logits', 'it has no generate method')}"
        )
    batch = model.encode(texts)
    longest = max(batch.lengths)
    if longest + max_new_tokens > model.max_length:
        raise ModelError(
            f"{longest} prompt tokens and {max_new_tokens} new ones exceed the context of {model.name} ({model.max_length})"
        )
    if len(set(batch.lengths)) > 1 and not model.left_padding_exact:
        rows = (batch.select([r]) for r in range(len(batch)))
        settings = {"max_new_tokens": max_new_tokens, "use_cache": use_cache, **options}
        return [generate_texts(model, row, **settings)[0] for row in rows]
    inputs = batch.padded(range(len(batch)), side="left", pad=model.pad_id, device=model.device)
    settings = {"do_sample": False, "pad_token_id": model.pad_id, **options}
    with torch.no_grad(), model.instrument.generating(torch.tensor(batch.lengths)):
        out = model.module.generate(**inputs, max_new_tokens=max_new_tokens, use_cache=use_cache, **settings)  # type: ignore[operator]
    model.forwards += len(batch)
    new = out if getattr(model.module.config, "is_encoder_decoder", False) else out[:, inputs["input_ids"].shape[1] :]
    return [model.tokenizer.decode(row, skip_special_tokens=True) for row in new.tolist()]
