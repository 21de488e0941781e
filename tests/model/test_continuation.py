"""A continuation a step at a time is the one that the library writes at once, and nothing stays on the model in between."""

import pytest
import torch

from conceptlab.errors import InputError, ModelError
from conceptlab.model import Batch, Model
from conceptlab.model.continuation import Continuation
from conceptlab.results import Edit, Site

PROMPTS = ("The capital of", "Nina gave the")


@pytest.fixture(scope="module")
def model() -> Model:
    from conceptlab import default_model_path, load_model

    return load_model(str(default_model_path()))


def edits_of(model: Model, kind: str) -> tuple[Edit, ...]:
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(3))
    return {
        "none": (),
        "direction": (Edit(Site("resid_post", 2), "add", vector, strength=0.4),),
        "embedding": (Edit(Site("embed"), "add", vector, strength=0.1),),
        "last of the prompt": (Edit(Site("resid_post", 2), "add", vector, positions="last"),),
        "head": (Edit(Site("z", 1, (2,)), "scale", strength=-1.0),),
        "neuron": (Edit(Site("mlp_post", 3, (5,)), "set", torch.tensor([4.0])),),
    }[kind]


def written(continuation: Continuation) -> str:
    while not continuation.over:
        continuation.step()
    return continuation.text


@pytest.mark.parametrize("kind", ["none", "direction", "embedding", "last of the prompt", "head", "neuron"])
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_the_text_is_that_of_generate(model: Model, kind: str, temperature: float) -> None:
    for prompt in PROMPTS:
        edits = edits_of(model, kind)
        text = written(Continuation(model, prompt, edits, n_new=16, temperature=temperature, seed=11))
        options = {"do_sample": True, "top_k": 0, "temperature": temperature} if temperature else {}
        torch.manual_seed(11)
        with model.edited(*edits):
            assert text == model.generate(prompt, max_new_tokens=16, **options)[0]


def test_several_texts_may_grow_in_turn(model: Model) -> None:
    edits = [edits_of(model, kind) for kind in ("none", "direction", "head")]
    together = [Continuation(model, PROMPTS[0], e, n_new=10, temperature=1.0, seed=2) for e in edits]
    while any(not one.over for one in together):
        for one in together:
            if not one.over:
                one.step()
                assert not model.instrument.attention
                assert model.instrument._depth == 0
    assert [one.text for one in together] == [
        written(Continuation(model, PROMPTS[0], e, n_new=10, temperature=1.0, seed=2)) for e in edits
    ]


def test_a_token_comes_with_the_stream_and_the_expectation(model: Model) -> None:
    site = Site("resid_post", 4)
    edit = edits_of(model, "direction")[0]
    one = Continuation(model, PROMPTS[0], (edit,), n_new=4, read=site, keep=True)
    tokens = [one.step() for _ in range(3)]
    batch = model.encode(PROMPTS[0])
    ids = (*batch.ids[0], *one.new)
    with model.edited(edit):
        acts = model.capture(Batch((ids,)), ["resid_post", "logits"], positions="all")
    begin = len(batch.ids[0]) - 1
    for n, token in enumerate(tokens):
        assert token.stream is not None
        assert torch.allclose(token.stream, acts.at("resid_post", 4)[begin + n], atol=1e-4)
        expected = acts["logits"][begin + n].log_softmax(-1)
        assert torch.allclose(one.log_probs[n], expected, atol=1e-4)
        assert token.log_prob == pytest.approx(float(expected[token.id]), abs=1e-4)


def test_what_cannot_be_is_said_in_a_line(model: Model) -> None:
    with pytest.raises(ModelError, match="exceed the context"):
        Continuation(model, PROMPTS[0], n_new=10_000)
    with pytest.raises(InputError, match="below 0"):
        Continuation(model, PROMPTS[0], temperature=-1)
    done = Continuation(model, PROMPTS[0], n_new=1)
    done.step()
    with pytest.raises(InputError, match="has ended"):
        done.step()


def test_a_model_that_raises_is_left_as_it_was(model: Model) -> None:
    one = Continuation(model, PROMPTS[0], edits_of(model, "direction"), read=Site("resid_post", 4))
    before = model.logits(PROMPTS[0])

    def fail(*_: object) -> None:
        raise RuntimeError("out of order")

    handle = model.stack.blocks[3].module.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of order"):
        one.step()
    handle.remove()
    assert model.instrument._depth == 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())
    assert torch.equal(model.logits(PROMPTS[0]), before)
