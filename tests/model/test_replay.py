"""A replay equals the full edited run, whatever shortcut it took, and leaves nothing behind."""

import pytest
import torch

from conceptlab.model import Model
from conceptlab.model.replay import Replay, prepare_replay
from conceptlab.results import Edit, Site
from tests.model.tiny import TEXTS, decoder, other

KINDS = ("gpt2", "llama", "gemma2", "gemma3_text", "bloom", "falcon", "mixtral", "mamba", "opt", "bert")
SHORT = ("gpt2", "llama", "gemma2", "gemma3_text", "bloom", "falcon", "mixtral")  # a KV cache can stand for the prefix


def model_of(kind: str) -> Model:
    return other(kind) if kind == "bert" else decoder(kind)


def full_runs(model: Model, read: list[int], edits) -> tuple[torch.Tensor, torch.Tensor]:
    """The last block's stream [row, d_model] at the last and the read position, each row alone and in full."""
    ends = []
    for row, (text, position) in enumerate(zip(TEXTS, read, strict=True)):
        last = len(model.encode(text).ids[0]) - 1
        with model.edited(*edits(row, position)):
            ends.append(model.capture(text, "resid_post", layers=[model.n_layers - 1], positions=[last, position]))
    stacked = torch.stack([e["resid_post"][:, 0] for e in ends])
    return stacked[:, 0], stacked[:, 1]


def reads(model: Model, where: str) -> list[int]:
    lengths = model.encode(TEXTS).lengths
    return [n - 1 for n in lengths] if where == "last" else [0, 3, 2]


def close(found: torch.Tensor, want: torch.Tensor) -> bool:
    return bool((found - want).norm() <= 1e-5 * want.norm())


def traces(model: Model) -> list[object]:
    """What a replay could leave: stubs, hooks, a swapped attention, visitors."""
    modules = list(model.module.modules())
    return [
        [bool(m.__dict__.get("forward")) for m in modules],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules],
        getattr(getattr(model.module, "config", None), "_attn_implementation", None),
        list(model.instrument.attention),
        {k: v.clone() for k, v in model.module.state_dict().items()}.keys(),
    ]


@pytest.mark.parametrize("where", ["last", "inside"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_stream_gives_what_the_full_edited_run_gives(kind, where):
    model = model_of(kind)
    before, clean = traces(model), model.capture(TEXTS, "resid_post")["resid_post"]
    read = reads(model, where)
    replay = prepare_replay(model, model.encode(TEXTS), read)
    moves = torch.randn(2, len(TEXTS), model.d_model, generator=torch.Generator().manual_seed(0))
    for layer in range(model.n_layers):
        final, at_read = replay.run(layer, moved(replay, layer, moves))
        for copy, move in enumerate(moves):
            want = full_runs(
                model,
                read,
                lambda row, at, move=move, layer=layer: [
                    Edit(Site("resid_pre", layer), "add", move[row], positions=(at,))
                ],
            )
            assert close(final[copy], want[0]) and close(at_read[copy], want[1]), (layer, replay.notes)
            assert not close(at_read[copy], replay.at_read)
    assert traces(model) == before
    assert torch.equal(model.capture(TEXTS, "resid_post")["resid_post"], clean)


def moved(replay: Replay, layer: int, moves: torch.Tensor) -> torch.Tensor:
    stream = replay.streams[layer].repeat(len(moves), 1, 1)
    stream[torch.arange(len(stream)), replay.read.repeat(len(moves))] += moves.flatten(0, 1)
    return stream


@pytest.mark.parametrize("where", ["last", "inside"])
@pytest.mark.parametrize(
    ("kind", "site"), [("llama", "z"), ("gpt2", "mlp_post"), ("bert", "z"), ("gemma2", "mlp_post")]
)
def test_changed_heads_and_neurons_too(kind, site, where):
    model, unit = model_of(kind), 1
    read = reads(model, where)
    replay = prepare_replay(model, model.encode(TEXTS), read)

    def silence(view: torch.Tensor) -> torch.Tensor:
        new = view.clone()
        rows = torch.arange(len(view))
        if site == "z":
            new[rows, replay.read, unit] = 0
        else:
            new[rows, replay.read, ..., unit] = 0
        return new

    layer = model.n_layers - 1
    final, at_read = replay.run(layer, replay.streams[layer], [(model.tap(site, layer), layer, silence)])
    want = full_runs(model, read, lambda _, at: [Edit(Site(site, layer, (unit,)), "zero", positions=(at,))])
    assert close(final[0], want[0]) and close(at_read[0], want[1])
    assert not close(at_read[0], replay.at_read)


@pytest.mark.parametrize("kind", SHORT)
def test_a_change_at_the_last_token_runs_one_column(kind):
    model = model_of(kind)
    replay = prepare_replay(model, model.encode(TEXTS), reads(model, "last"))
    assert replay.cache is not None and replay.streams.shape[2] == 1
    held = replay.cache.get_seq_length()
    before = model.forwards
    first = replay.run(0, replay.streams[0].repeat(3, 1, 1))
    assert model.forwards - before == pytest.approx(9 / max(model.encode(TEXTS).lengths))
    assert replay.cache.get_seq_length() == held
    assert torch.equal(first[0], replay.run(0, replay.streams[0].repeat(3, 1, 1))[0])


def test_what_cannot_be_cut_short_is_run_in_full_and_says_so():
    for kind in ("mamba", "bert"):
        model = model_of(kind)
        replay = prepare_replay(model, model.encode(TEXTS), reads(model, "last"))
        assert replay.cache is None and any("run again" in note for note in replay.notes)


def test_nothing_is_left_when_a_replay_fails():
    model = model_of("llama")
    replay = prepare_replay(model, model.encode(TEXTS), reads(model, "inside"))
    before = traces(model)

    def fail(view: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a visitor failed")

    with pytest.raises(RuntimeError, match="a visitor failed"):
        replay.run(1, replay.streams[1], [(model.tap("z", 1), 1, fail)])
    assert traces(model) == before
    assert close(replay.run(1, replay.streams[1])[0][0], replay.final)
