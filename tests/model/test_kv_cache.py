"""The cache by either of its names: an edit finds its position in a forward that goes on from one."""

import copy
import warnings

import pytest
import torch

from conceptlab.model import load_model
from conceptlab.model.kv_cache import NAMES, cache_name, cache_of
from conceptlab.results import Edit
from tests.conformance.tiny_models import tiny_model

IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("masked", [True, False])
def test_positions_count_from_the_start_of_what_is_cached(kind: str, masked: bool) -> None:
    model = load_model(tiny_model(kind))
    edit = Edit("L0.resid_post", "add", torch.linspace(-1, 1, model.d_model), positions=(4,))
    mask = torch.ones_like(IDS)
    with torch.no_grad():
        kept = cache_of(model.module(IDS[:, :3], use_cache=True))
        plain = model.module(IDS).logits[:, 3:]
        with model.edited(edit):
            whole = model.module(input_ids=IDS, attention_mask=mask).logits[:, 3:]
            given = {"attention_mask": mask} if masked else {}
            given[cache_name(model)] = copy.deepcopy(kept)
            rest = model.module(input_ids=IDS[:, 3:], use_cache=True, **given).logits
    assert torch.allclose(rest, whole, atol=1e-5)
    assert torch.allclose(rest[:, 0], plain[:, 0], atol=1e-5) and (rest[:, 1] - plain[:, 1]).abs().max() > 1e-3


def test_the_name_is_the_one_that_the_model_takes_without_a_warning() -> None:
    model = load_model(tiny_model("llama"))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        out = model.module(IDS[:, :3], use_cache=True)
        more = model.module(IDS[:, 3:], use_cache=True, **{cache_name(model): cache_of(out)})
    assert cache_of(out) is not None and cache_of(more).get_seq_length() == 5


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_is_found_under_either_name(name: str) -> None:
    held = object()
    assert cache_of({"logits": 1, name: held}) is held
    assert cache_of({"logits": 1, name: None}) is None and cache_of({}) is None
