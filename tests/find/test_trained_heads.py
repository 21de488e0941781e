"""Detectors of heads on a trained model whose mechanism its author describes: two layers of attention, trained on repeated blocks.

The weights lie outside the project; without them the test says so and is skipped. They are put into a host with neutral norms;
the last of its four further coordinates takes the mean out (`balance_writes`).
"""

from pathlib import Path

import pytest
import torch

from conceptlab.find.heads.head_atlas import CONFIRMED, head_atlas, roles_of
from conceptlab.find.heads.survey import HeadSurvey
from conceptlab.model import load_model
from conceptlab.worlds.weights_by_hand import Head, balance_writes, empty_gpt2, set_head, set_vocabulary

FILE = Path(__file__).resolve().parents[3] / "shared" / "models" / "toy_induction_attn_only_2l" / "model.safetensors"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the trained two-layer model is not beside the project")
VOCABULARY, D_MODEL, D_HEAD = 128, 52, 13


def padded(x, rows, columns):
    return torch.nn.functional.pad(x, (0, columns - x.shape[1], 0, rows - x.shape[0]))


@pytest.fixture(scope="module")
def model():
    from safetensors.torch import load_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    found = load_file(FILE)
    host = empty_gpt2(n_layers=2, n_heads=4, d_head=D_HEAD, d_mlp=1, d_vocab=VOCABULARY, n_positions=85)
    for layer in range(2):
        for head in range(4):
            q, k, v, o = (found[f"blocks.{layer}.attn.W_{name}"][head] for name in "QKVO")
            weights = (padded(q / 12**0.5, D_MODEL, D_HEAD), padded(k, D_MODEL, D_HEAD), padded(v, D_MODEL, D_HEAD))
            set_head(host, layer, head, Head(*weights, o=padded(o, D_HEAD, D_MODEL)))
    embed, unembed = found["embed.W_E"], found["unembed.W_U"].T
    set_vocabulary(
        host, embed=padded(embed, VOCABULARY, D_MODEL), unembed=padded(unembed, VOCABULARY, D_MODEL),
        positions=padded(found["pos_embed.W_pos"], 85, D_MODEL),
    )  # fmt: skip
    balance_writes(host, D_MODEL - 1)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = ["input_ids", "attention_mask"]
    return load_model(host, tokenizer=PreTrainedTokenizerFast(tokenizer_object=words, model_input_names=names))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_heads_that_the_author_names_are_found(model, seed):
    roles = ["previous-token", "duplicate-token", "induction"]
    survey = HeadSurvey(model, seed=seed, n_words=16, n_rows=64)
    found = roles_of(head_atlas(model, roles, survey=survey, ablate=False))
    induction = ["L1.H1", "L1.H2", "L1.H3"]
    assert found == {"previous-token": ["L0.H2"], "duplicate-token": [], "induction": induction}


def test_induction_heads_are_confirmed_where_the_model_repeats(model):
    survey = HeadSurvey(model, n_words=40, n_rows=64)
    atlas = head_atlas(model, ["induction"], survey=survey)
    assert roles_of(atlas, least=CONFIRMED) == {"induction": ["L1.H1", "L1.H2", "L1.H3"]}
    losses = atlas["loss"].values[0]
    assert (losses[1, 1:] > 0.3).all() and abs(losses[1, 0]) < 0.1  # nats; the fourth head of the layer is not needed
