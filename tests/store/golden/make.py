"""How the store of each schema was made, when it was the newest: `python -m tests.store.golden.make FOLDER`.

They are never made again in place: what they are for is to stay as they were."""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from conceptlab.data.corpus import TextList
from conceptlab.model import load_model
from conceptlab.runs.job import work
from conceptlab.store import Store, Wish, open_harvest
from conceptlab.store.manifest import SCHEMA

TEXTS = (
    "the red kite turns over the quiet harbour",
    "a small boat waits for the tide",
    "the tide turns and the boat leaves the harbour",
    "over the hill a red light waits",
    "the light leaves the hill and the quiet tide waits for a small kite",
)


def make(folder: Path) -> None:
    """A store of two shards with a planted NaN, and what it reads."""
    words = sorted({word for text in TEXTS for word in text.split()})
    inner = Tokenizer(models.WordLevel({"<unk>": 0} | {word: i + 1 for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", pad_token="<unk>")
    torch.manual_seed(7)
    size = {"n_layer": 2, "n_embd": 8, "n_head": 2, "n_positions": 16, "vocab_size": len(words) + 1}
    module = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0)).eval()
    with torch.no_grad():
        module.transformer.h[1].mlp.c_proj.bias[2] = float("nan")
    model, wish = (
        load_model(module, tokenizer=tokenizer),
        Wish(("resid_post", "embed"), context=8, shard_tokens=24, threads=1),
    )
    list(work(open_harvest(model, TextList(TEXTS), folder / f"schema{SCHEMA}", wish, on_nonfinite="record").worker))
    store = Store.open(folder / f"schema{SCHEMA}")
    parts = {"embed": store.part("embed"), "resid_post/0": store.part("resid_post", 0)}
    views = {doc: store.document(doc) for doc in range(len(TEXTS))}
    recorded = {
        "tokens": len(store),
        "docs": store.plan.n_docs,
        "shards": list(store.shards),
        "values": {
            name: {row: part[row].double().tolist() for row in range(len(part))} for name, part in parts.items()
        },
        "documents": {
            doc: {
                "text": v.text,
                "token": v.token.tolist(),
                "span": list(zip(v.start.tolist(), v.end.tolist(), strict=True)),
            }
            for doc, v in views.items()
        },
        "nonfinite": store.nonfinite(),
    }
    (folder / "numbers.json").write_text(json.dumps(recorded) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
