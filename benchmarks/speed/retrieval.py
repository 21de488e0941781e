"""What it costs to keep every head's favourite key while decoding, beside decoding without looking."""

import torch

from conceptlab.model import Batch, load_model
from conceptlab.model.decoding import greedy_decode

from .engine import model_words
from .models import Subject, word_tokenizer
from .pairs import ratio
from .table import Row, timed


def retrieval_rows(
    subject: Subject, *, n_prompt: int = 256, new_tokens: int = 32, n: int = 7, limit: float = 40.0
) -> list[Row]:
    """Retrieval scoring of one prompt: against the library's greedy generation, and against our own decoding."""
    model = load_model(subject.module, tokenizer=word_tokenizer(model_words(subject)))
    ids = torch.randint(1, model_words(subject), (1, n_prompt), generator=torch.Generator().manual_seed(3))
    batch, mask = Batch(tuple(map(tuple, ids.tolist()))), torch.ones_like(ids)
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}

    def bare() -> None:
        with torch.no_grad():
            subject.module.generate(input_ids=ids, attention_mask=mask, **options)  # type: ignore[operator]

    def looking() -> None:
        greedy_decode(model, batch, new_tokens, top_keys=True)

    group = f"{subject.name}: retrieval scores while decoding {new_tokens} tokens after {n_prompt}, decoding without them = 1"
    return [
        timed(group, "against the library's generate", ratio(looking, bare, n=n, limit=limit), target=1.10),
        timed(
            group,
            "against our own greedy decoding",
            ratio(looking, lambda: greedy_decode(model, batch, new_tokens), n=n, limit=limit),
            target=1.10,
            note="what looking itself costs",
        ),
    ]
