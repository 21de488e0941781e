"""The engine beside the bare forward: wrapped, capturing, steering, and what one call costs at least."""

import re

import torch

from conceptlab.model import Batch, Model, load_model
from conceptlab.results import SITES, Edit, Site

from .models import Subject, make_subject, word_tokenizer
from .pairs import milliseconds_over, ratio
from .table import Row, timed

STREAM = "resid_post"
LAYER = re.compile(r"\.\d+\.")


def available_sites(model: Model) -> list[str]:
    """Every site that this model has."""
    ends = [s for s in ("embed", "final_norm", "logits") if s not in model.stack.missing]
    return [*ends, *(s for s in SITES if s not in ("embed", "final_norm", "logits") and model.layers_with(s))]


def forward_rows(subject: Subject, *, n: int, limit: float) -> list[Row]:
    """Wrapped forward and captures of one batch."""
    group = f"{subject.name}: one forward of {'x'.join(map(str, subject.ids.shape))} tokens, bare Hugging Face = 1"
    model = load_model(subject.module)
    batch = Batch(tuple(map(tuple, subject.ids.tolist())))
    sites = available_sites(model)

    def stacked() -> None:
        acts = model.capture(batch, sites, positions="all")
        for site in sites:
            acts[site]

    calls = [
        ("bare forward again (noise floor)", subject.bare, None),
        ("wrapped forward, all logits", lambda: model.logits(batch, positions="all"), 1.01),
        ("stream of all layers, last token, no logits", lambda: model.capture(batch, STREAM), 0.78),
        ("stream of all layers, all tokens, no logits", lambda: model.capture(batch, STREAM, positions="all")[STREAM], 0.78),
        (
            "stream of all layers and logits, all tokens",
            lambda: model.capture(batch, (STREAM, "logits"), positions="all")[STREAM],
            1.03,
        ),
        ("everything, all tokens", lambda: model.capture(batch, sites, positions="all"), 1.10),
        ("everything, put together as [token, layer, …]", stacked, None),
    ]  # fmt: skip
    floor = f"the blocks alone are {blocks_share(subject):.2f} of the forward's arithmetic"
    notes = {
        "stream of all layers, last token, no logits": floor,
        "everything, all tokens": f"{len(sites)} sites; layers stay where the model made them until read",
    }
    return [
        timed(group, what, ratio(call, subject.bare, n=n, limit=limit), target=target, note=notes.get(what, ""))
        for what, call, target in calls
    ]


def blocks_share(subject: Subject) -> float:
    """Products of the blocks as a share of all products of a forward (the unembedding is the rest)."""
    n_blocks = sum(p.numel() for name, p in subject.module.named_parameters() if p.dim() == 2 and LAYER.search(name))
    attention = 2 * 12 * subject.ids.shape[1] * 768  # scores and mixing, multiplications a token
    unembed = subject.module.get_output_embeddings().weight.numel()  # type: ignore[operator]
    return (n_blocks + attention) / (n_blocks + attention + unembed)


def steering_row(subject: Subject, *, new_tokens: int, n: int, limit: float) -> Row:
    """Steered against plain generation, both with the KV cache."""
    ids = subject.ids[:1, :32]
    model = load_model(subject.module, tokenizer=word_tokenizer(model_words(subject)))
    batch = Batch(tuple(map(tuple, ids.tolist())))
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(2))
    edit = Edit(Site("resid_post", model.n_layers // 2), "add", vector)
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(ids)

    def steered() -> None:
        with model.edited(edit):
            model.generate(batch, max_new_tokens=new_tokens, min_new_tokens=new_tokens)

    def bare() -> None:
        with torch.no_grad():
            subject.module.generate(input_ids=ids, attention_mask=mask, **options)  # type: ignore[operator]

    group = f"{subject.name}: generation, bare generate = 1"
    timing = ratio(steered, bare, n=n, limit=limit)
    return timed(group, f"{new_tokens} tokens, one steering vector", timing, target=1.05)


def model_words(subject: Subject) -> int:
    """Size of the vocabulary."""
    return int(subject.module.config.vocab_size)  # type: ignore[union-attr, arg-type]


def fixed_cost_rows(*, n: int) -> list[Row]:
    """Milliseconds that a captured call costs over the bare one, where the model itself costs next to nothing."""
    rows = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for n_layers, target in ((2, 1.0), (12, None)):
        subject = make_subject("gpt2", 1, 8, tiny=True, n_layers=n_layers)
        model = load_model(subject.module)
        batch = Batch(tuple(map(tuple, subject.ids.tolist())))
        for what, sites in (("the stream", (STREAM, "logits")), ("every site", available_sites(model))):
            over = milliseconds_over(lambda s=sites, m=model, b=batch: m.capture(b, s), subject.bare, n=n)
            bound = target if what == "the stream" else None
            name = f"capture {what} of {n_layers} layers, 1x8 tokens, width 32, with logits"
            rows.append(timed("Fixed cost of a captured call", name, over, target=bound, unit=" ms"))
    torch.set_num_threads(threads)
    return rows
