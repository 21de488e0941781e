"""A small CLIP trained on pictures of scenes and their captions (`shape_pictures`): image tower, text tower, one joint space.

Host: CLIPModel; image tower 3 layers x 8 heads, d_model 64, nine patches and the class token; text tower 1 layer x 4 heads, d_model
48; joint space 48. Trained with the symmetric contrastive loss on batches of 64 drawn anew. Nothing about its inside is planted;
its data are prejudiced (a person's tool follows the sex, and is often faint). In the null twin captions go with any picture.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from conceptlab.runs import SILENT, Progress
from conceptlab.train import Schedule, Trained, Training, train_model, trained
from conceptlab.worlds.shape_pictures import CELL, KINDS, SIZE, TEXTS, USUAL, captions, draw_scenes
from conceptlab.worlds.word_tokenizer import SPECIALS

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedModel

STEPS, BATCH, RATE = 1000, 64, 4e-3
N_LAYERS, N_HEADS, D_MODEL, D_JOINT = 3, 8, 64, 48
LONGEST = len(KINDS) + 2
END = len(SPECIALS) + len(TEXTS)  # the token that ends a caption, and that the text tower reads
Pairs = tuple[Tensor, Tensor]  # pixels [pair, 3, 24, 24], token ids [pair, token]


def trained_dual_encoder(
    *, seed: int = 0, steps: int = STEPS, null: bool = False, cache: Path | None = None, progress: Progress = SILENT
) -> Trained:
    """The trained model, from the cache where it is. Cost: about 0.07 s a step on one core."""
    settings: dict[str, Any] = {"steps": steps, "batch": BATCH, "rate": RATE, "seed": seed, "null": null}
    train = partial(_train, steps=steps, seed=seed, null=null, progress=progress)
    return trained("dual-encoder", settings, partial(_fresh, seed), train, cache=cache, progress=progress)


def caption_ids(texts: list[list[str]]) -> Tensor:
    """Token ids [text, token] of captions, each a list of words: begin, words, end, padding on the right."""
    found = torch.zeros(len(texts), LONGEST, dtype=torch.long)
    for i, words in enumerate(texts):
        ids = [1, *(len(SPECIALS) + TEXTS.index(word) for word in words), END]
        found[i, : len(ids)] = torch.tensor(ids)
    return found


@torch.no_grad()
def text_embeddings(model: "PreTrainedModel", words: tuple[str, ...] = TEXTS) -> Tensor:
    """Unit vectors [word, d_joint] of captions of one word."""
    clip = cast("CLIPModel", model)
    pooled = clip.text_model(input_ids=caption_ids([[word] for word in words])).pooler_output
    return nn.functional.normalize(clip.text_projection(pooled), dim=-1)


def _fresh(seed: int) -> "PreTrainedModel":
    from transformers import CLIPConfig, CLIPModel

    text = {
        "vocab_size": END + 1, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
        "max_position_embeddings": LONGEST, "bos_token_id": 1, "eos_token_id": END, "pad_token_id": 0, "hidden_act": "gelu",
    }  # fmt: skip
    vision = {
        "hidden_size": D_MODEL, "intermediate_size": 2 * D_MODEL, "num_hidden_layers": N_LAYERS, "num_attention_heads": N_HEADS,
        "image_size": SIZE, "patch_size": CELL, "hidden_act": "gelu",
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=D_JOINT)).float()


def _train(model: "PreTrainedModel", *, steps: int, seed: int, null: bool, progress: Progress) -> Training:
    schedule = Schedule(steps=steps, learning_rate=RATE, warmup=min(50, steps))
    source = _pairs(np.random.default_rng([seed, 7]), null=null)
    label = f"pictures and captions (seed {seed})"
    return train_model(model, source, schedule, loss=contrastive_loss, progress=progress, label=label)


def _pairs(rng: np.random.Generator, *, null: bool) -> Iterator[Pairs]:
    while True:
        scenes = draw_scenes(BATCH, rng, usual=USUAL, faint=True)
        texts = caption_ids(captions(scenes, rng))
        yield scenes.pixels, texts[rng.permutation(BATCH)] if null else texts


def contrastive_loss(model: nn.Module, batch: Pairs, device: torch.device | str) -> Tensor:
    """The published loss: each picture among the batch's captions, and each caption among its pictures; nats."""
    pixels, ids = (part.to(device) for part in batch)
    return model(input_ids=ids, pixel_values=pixels, return_loss=True).loss
