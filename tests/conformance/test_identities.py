"""The quick form of the conformance run: every identity on representative types, and proof that the identities can fail."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from conceptlab.model import Batch
from conceptlab.model.attention import form_pattern

from .case import Case, relative
from .examine import case_of, examine
from .identities import IDENTITIES, ROUNDING
from .tiny_models import CannotBuild, causal_lm_types, tiny_model

TYPES = (
    *("gpt2", "llama", "gemma2", "gemma3_text", "gpt_neox", "qwen3", "olmo2", "granite", "bloom", "opt", "phi"),
    *("mixtral", "falcon", "mamba", "lfm2_moe", "granitemoehybrid", "gemma4_text", "nanochat", "qwen3_next"),
    *("other:bert", "other:t5", "other:bart-decoder", "other:vit", "other:clip"),
)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Tiny models are slower on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", TYPES)
def test_every_identity_that_the_architecture_admits_holds(name: str) -> None:
    record = examine(name)
    assert not record.reason, record.reason
    failed = {n: o for n, o in record.identities.items() if o.status == "FAIL"}
    assert not failed
    assert sum(o.status == "pass" for o in record.identities.values()) >= 7


def test_attention_over_layers_is_not_taken_for_attention_over_tokens() -> None:
    if "inkling2_text" not in causal_lm_types():
        pytest.skip("this version of transformers has no model whose tokens attend to the layers below")
    record = examine("inkling2_text")
    assert not record.reason and not [n for n, o in record.identities.items() if o.status == "FAIL"]


@pytest.mark.parametrize("name", ["xlm", "gemma3n_text", "blt", "reformer", "hy_v4"])
def test_a_model_without_one_stream_is_refused_by_name(name: str) -> None:
    assert "its stream cannot be read" in examine(name).reason


def test_what_cannot_be_built_says_why() -> None:
    with pytest.raises(CannotBuild, match="timm"):
        tiny_model("gemma3n")


def test_a_tiny_model_is_the_same_for_a_seed_and_another_for_another() -> None:
    weights = [tiny_model("llama", seed).get_input_embeddings().weight for seed in (0, 0, 1)]  # type: ignore[operator]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_no_causal_type_is_left_out() -> None:
    assert len(causal_lm_types()) >= 180


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mixtral", "mamba", "qwen3_next"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_sixty_four_ragged_rows_are_each_as_alone(name: str, side: str) -> None:
    case, generator = case_of(name), torch.Generator().manual_seed(9)
    lengths = torch.randint(1, 13, (64,), generator=generator).tolist()
    batch = Batch(tuple(tuple(torch.randint(10, 90, (n,), generator=generator).tolist()) for n in lengths))
    together = case.model.capture(batch, "resid_post", positions="all", padding_side=side, max_tokens=10**6)
    alone = [case.model.capture(batch.select([r]), "resid_post", positions="all")["resid_post"] for r in range(64)]
    assert relative(together["resid_post"], torch.cat(alone)) <= ROUNDING


def broken(name: str, layer: int = 1, **taps: Any) -> Case:
    """A case whose anatomy is wrong in one layer: `site=change`, where `change` makes the wrong tap from the block's taps."""
    case = case_of(name)
    block = case.model.stack.blocks[layer]
    for site, change in taps.items():
        block.taps[site] = change(dict(block.taps))
    return case


@pytest.mark.parametrize(
    ("identity", "taps"),
    [
        ("parts", {"attn_out": lambda t: dataclasses.replace(t["attn_out"], scale=1.001)}),
        ("parts", {"mlp_out": lambda t: t["attn_out"]}),
        ("hooks", {"z": lambda t: dataclasses.replace(t["z"], module=t["mlp_pre"].module, width=24)}),
        ("hooks", {"mlp_pre": lambda t: t["mlp_pre_linear"]}),
        ("hooks", {"resid_post": lambda t: t["mlp_out"]}),
        ("roles", {"attn_out": lambda t: t["mlp_out"], "mlp_out": lambda t: t["attn_out"]}),
        ("pattern@v", {"z": lambda t: dataclasses.replace(t["z"], heads=2, width=32)}),
        ("write other", {"mlp_pre": lambda t: dataclasses.replace(t["mlp_pre"], module=torch.nn.Identity())}),
        ("lens", {"resid_post": lambda t: t["resid_pre"]}),
    ],
)
def test_a_wrong_anatomy_is_noticed(identity: str, taps: dict[str, Any]) -> None:
    case = broken("llama", **taps)
    try:
        outcome = IDENTITIES[identity](case)
    except Exception:  # noqa: BLE001  (an identity that raises counts as failed in a run, see examine)
        return
    assert outcome.status == "FAIL", outcome


@pytest.mark.parametrize("identity", ["library pattern", "pattern@v", "write back"])
def test_a_wrong_pattern_is_noticed(identity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of("llama")
    monkeypatch.setattr("conceptlab.model.instrument.form_pattern", lambda call: form_pattern(call) * 0.999)
    assert IDENTITIES[identity](case).status == "FAIL"


def test_a_hook_left_behind_is_noticed() -> None:
    case = case_of("llama")
    case.module.register_forward_hook(lambda *_: None)
    assert IDENTITIES["undone"](case).status == "FAIL"
