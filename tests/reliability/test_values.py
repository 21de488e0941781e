"""Bar 5: NaN and infinite values are counted per shard and site or stop the harvest, and a cast that overflows is an error."""

import copy
import warnings
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from conceptlab.errors import RunError
from conceptlab.model import Model, load_model
from conceptlab.runs.job import work
from conceptlab.store import Harvest, Store, Wish, open_harvest
from tests.model.tiny import tokenizer
from tests.reliability import small


@pytest.fixture(autouse=True)
def no_warnings():
    """What numpy thinks of infinite sums is nothing for the user's screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def planted(bias: dict[int, float] | None = None, token: tuple[int, float] | None = None) -> Model:
    """The tiny model with values added to the last layer's output at some units, or to the embedding of one token."""
    module: GPT2LMHeadModel = copy.deepcopy(small.fresh_module())
    with torch.no_grad():
        for unit, value in (bias or {}).items():
            module.transformer.h[1].mlp.c_proj.bias[unit] = value
        if token is not None:
            module.transformer.wte.weight[token[0]] = token[1]
    return load_model(module, tokenizer=tokenizer())


def harvest(model: Model, folder: Path, on_nonfinite: str, **wish: object) -> Harvest:
    wanted = Wish(**{**vars(small.WISH), **wish})  # type: ignore[arg-type]
    return open_harvest(model, small.corpus(), folder, wanted, on_nonfinite=on_nonfinite)  # type: ignore[arg-type]


def counted(values: torch.Tensor) -> dict[str, int]:
    return {"nan": int(values.isnan().sum()), "inf": int(values.isinf().sum())}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_nonfinite_values_are_counted_per_shard_and_site(tmp_path: Path, dtype: str) -> None:
    model = planted({3: float("inf"), 5: float("-inf"), 7: float("nan")}, token=(22, float("nan")))
    list(work(harvest(model, tmp_path, "record", dtype=dtype).worker))
    store = Store.open(tmp_path)
    embed, last, at = store.part("embed"), store.part("resid_post", 1), 0
    for shard in store.shards:
        tokens, recorded = store.tokens(shard), store.commit(shard).record["nonfinite"]
        n = len(tokens.token)
        planted_here = int((tokens.token == 22).sum())
        assert recorded.get("embed", {"nan": 0})["nan"] == 16 * planted_here
        assert ("embed" in recorded) == (planted_here > 0)
        assert recorded["resid_post/1"] == counted(last[at : at + n])
        clean = ~last[at : at + n][:, 0].isnan()
        assert recorded["resid_post/1"]["inf"] == 2 * int(clean.sum())
        at += n
    assert at == len(embed) == len(last)


def test_nonfinite_values_stop_the_harvest_unless_they_are_asked_for(tmp_path: Path) -> None:
    words = [set(text.split()) for text in small.corpus().texts]
    later = sorted(set.union(*words[20:]) - set.union(*words[:20]))[0]  # no token of the first shards
    model = planted(token=(tokenizer().convert_tokens_to_ids(later), float("nan")))
    with pytest.raises(RunError, match=r"^shard \d: [a-z_/0-9]+ has \d+ NaN and 0 infinite values") as caught:
        list(work(harvest(model, tmp_path, "error").worker))
    assert "\n" not in str(caught.value) and "--on-nonfinite record" in str(caught.value)
    store = Store.open(tmp_path)
    assert 0 < len(store.shards) < small.N_SHARDS
    assert not store.nonfinite()
    list(work(harvest(model, tmp_path, "record").worker))
    assert Store.open(tmp_path).complete


@pytest.mark.parametrize("how", ["error", "record"])
@pytest.mark.parametrize(("dtype", "value"), [("float16", 1e5), ("float16", -7e4), ("bfloat16", 3.4e38)])
def test_a_cast_that_overflows_is_an_error(tmp_path: Path, dtype: str, value: float, how: str) -> None:
    with pytest.raises(RunError, match=f"resid_post/1: a value is too large for {dtype}") as caught:
        list(work(harvest(planted({3: value}), tmp_path, how, dtype=dtype).worker))
    assert "\n" not in str(caught.value)
    assert Store.open(tmp_path).shards == ()


def test_large_finite_values_are_no_reason_to_stop(tmp_path: Path) -> None:
    list(work(harvest(planted({3: 3e38, 4: 3e38}), tmp_path, "error").worker))
    store = Store.open(tmp_path)
    assert store.complete and not store.nonfinite()
    assert bool(torch.isfinite(store.part("resid_post", 1)[:]).all())
