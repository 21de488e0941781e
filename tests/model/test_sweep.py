"""A sweep equals plain full runs on every architecture that has the sites, in whatever way it takes its shortcuts."""

import copy

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError, SiteError
from conceptlab.model import Batch, Model, load_model
from conceptlab.model.metric import Metric, along, kl_from, log_prob, logit, logit_diff, prob
from conceptlab.model.sweep import plan_sweep, sweep
from conceptlab.model.sweep.plain import plain_values
from conceptlab.results import SITES, Edit, Site
from conceptlab.runs import Interrupted, Progress
from tests.conformance.examine import case_of

# sliding windows, parallel blocks, post-norms, GQA, MoE, ALiBi, learned positions, sinks, soft caps, state spaces, encoders
PACKED = (
    *(
        "gpt2",
        "llama",
        "gemma2",
        "gemma3_text",
        "gpt_neox",
        "qwen3",
        "olmo2",
        "granite",
        "opt",
        "phi",
        "mixtral",
        "gpt_oss",
    ),
    *("cohere2", "llama4_text", "gemma4_text", "nanochat", "gptj", "mistral", "stablelm"),
)
WHOLE = ("bloom", "falcon", "mamba", "lfm2_moe", "granitemoehybrid", "qwen3_next", "mpt", "zamba2", "recurrent_gemma")
UNITS = {"head", "kv_head", "neuron"}


def rows_of(model: Model, lengths: tuple[int, ...] = (7, 5, 7), seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(tuple(tuple(torch.randint(10, 80, (n,), generator=generator).tolist()) for n in lengths))


def some_edits(model: Model, batch: Batch) -> list[Edit | tuple[Edit, ...]]:
    """Every kind of edit at every site that the model has, at several depths and positions."""
    generator, found = torch.Generator().manual_seed(1), []
    skipped = ("embed", "final_norm", "logits", "pattern", "router")
    for name, kind in SITES.items():
        for layer in (
            model.layers_with(name)[:: max(1, len(model.layers_with(name)) - 1)] if name not in skipped else ()
        ):
            tap = model.tap(name, layer)
            if tap.read_only:
                continue
            value = torch.randn(tap.width, generator=generator)
            units = (1,) if kind in UNITS and (tap.heads or tap.width) > 1 else ()
            one = value[:1] if kind == "neuron" and units else value
            found.append(Edit(Site(name, layer, units), "set", one, positions=(2,)))
            found.append(Edit(Site(name, layer), "scale", strength=-0.5, positions=(1, -1)))
            if name != "resid_mid":  # a stream of zeros would be all rounding
                found.append(Edit(Site(name, layer, units), "zero", positions="all"))
            found.append(Edit(Site(name, layer, units), "add", one, strength=0.3, positions="last"))
            per_row = torch.randn(
                len(batch), *([1] if kind in ("head", "kv_head") and units else []), *one.shape, generator=generator
            )
            per_cell = torch.randn(2 * len(batch), *per_row.shape[1:], generator=generator)
            found.append(Edit(Site(name, layer, units), "set", per_cell, positions=(1, -1)))
            found.append(Edit(Site(name, layer, units), "resample", per_row, positions=(0,)))
    for layer in model.layers_with("pattern")[:1]:
        found.append(Edit(Site("pattern", layer), "zero", positions=(-1,), keys=(0, 1)))
        found.append(Edit(Site("pattern", layer, (0,)), "mask", positions=(3, -1), keys=(1,)))
        pattern = model.capture(batch, "pattern", layers=[layer], positions="all")["pattern"][:, 0]
        found.append(Edit(Site("pattern", layer, (1,)), "set", pattern[:, :1], positions="all"))
    found.append(
        (Edit("L0.resid_pre", "scale", strength=0.5, positions=(1,)), Edit("L1.resid_post", "zero", positions=(3,)))
    )
    if model.layers_with("z"):
        top = model.layers_with("z")[-1]
        found.append((Edit(Site("z", top, (0,)), "zero"), Edit("L0.resid_post", "scale", strength=2.0, positions=(2,))))
    return found


def worst(model: Model, batch: Batch, edits: list, metric: Metric) -> float:
    found = sweep(model, batch, edits, metric, skip_unchanged=False)
    plain = np.stack([plain_values(model, batch, (e,) if isinstance(e, Edit) else e, metric) for e in edits])
    assert np.abs(plain - found.clean).max() > 1e-4, "no edit was felt, so nothing was tested"
    return float(np.abs(found.values - plain).max() / np.abs(plain).max())


@pytest.mark.parametrize("kind", [*PACKED, *WHOLE])
def test_equal_to_plain_full_runs(kind: str) -> None:
    model = case_of(kind).model
    assert model.sweep_strategy.kind == ("packed" if kind in PACKED else "whole")
    assert model.sweep_strategy.late == (kind in PACKED)
    batch = rows_of(model)
    edits = some_edits(model, batch)
    metric = logit_diff([11, 12, 13], [21, 22, 23])
    assert worst(model, batch, edits, metric) <= 1e-5
    assert worst(model, batch, edits[::5], log_prob([11, 12, 13])) <= 1e-5


def test_encoders_run_all_positions_and_say_so() -> None:
    model = case_of("other:bert").model
    batch = rows_of(model, (6, 6))
    edit = Edit("L1.attn_out", "scale", strength=-1.0, positions=(2,))
    metric = along("L1.resid_post", torch.randn(model.d_model, generator=torch.Generator().manual_seed(0)))
    found = sweep(model, batch, [edit], metric)
    assert found.plan.kind == "whole"
    assert "positions all depend on each other" in found.notes[0]
    assert np.allclose(found.values[0], plain_values(model, batch, (edit,), metric), rtol=1e-5)


def small() -> tuple[Model, Batch, list[Edit], Metric]:
    model = case_of("llama").model
    batch = rows_of(model, (6, 6))
    edits = [
        Edit(Site("z", layer, (head,)), "zero", positions=(p,)) for layer in (0, 1) for head in (0, 1) for p in range(6)
    ]
    return model, batch, edits, logit_diff([11, 12], [21, 22])


def test_every_metric_reads_what_the_plain_run_gives() -> None:
    model, batch, edits, _ = small()
    for metric in (logit([11, 12]), log_prob([11, 12]), prob([11, 12]), kl_from(model.logits(batch))):
        plain = np.stack([plain_values(model, batch, (e,), metric) for e in edits[::7]])
        assert np.allclose(sweep(model, batch, edits[::7], metric).values, plain, rtol=1e-4, atol=1e-6)


def test_the_plan_counts_what_is_skipped() -> None:
    model, batch, edits, metric = small()
    late = plan_sweep(model, batch, [e for e in edits if e.positions == (5,)], metric)
    early = plan_sweep(model, batch, [e for e in edits if e.positions == (0,)], metric)
    assert early.kind == late.kind == "packed"
    assert early.forward_equivalents > 2 * late.forward_equivalents - 2
    assert "forward-equivalents" in str(early)


def test_what_cannot_change_anything_is_known_and_not_run() -> None:
    model, batch, _, metric = small()
    stream = model.capture(batch, "resid_pre", positions="all")["resid_pre"].unflatten(0, (2, 6))
    same = [
        Edit(Site("resid_pre", layer), "set", stream[:, p, layer], positions=(p,)) for layer in (0, 1) for p in range(6)
    ]
    other = Edit("L1.resid_pre", "scale", strength=2.0, positions=(3,))
    found = sweep(model, batch, [*same, other], metric)
    assert found.plan.n_skipped == 24
    assert np.array_equal(found.values[:-1], np.broadcast_to(found.clean, (12, 2)))
    assert np.abs(found.change[-1]).min() > 0


def test_a_small_budget_gives_the_same_numbers_in_more_passes() -> None:
    model, batch, edits, metric = small()
    wide, narrow = sweep(model, batch, edits, metric), sweep(model, batch, edits, metric, budget_bytes=90_000)
    assert narrow.plan.n_passes > wide.plan.n_passes
    assert np.allclose(wide.values, narrow.values, rtol=1e-5, atol=1e-6)


def test_shards_are_independent_and_a_call_without_one_puts_them_together(tmp_path) -> None:
    model, batch, edits, metric = small()
    whole = sweep(model, batch, edits, metric)
    for index in (2, 0, 1):
        part = sweep(model, batch, edits, metric, out=tmp_path, shard=(index, 3))
        assert np.isfinite(part.values[:, 0]).sum() == 8
    before = model.forwards
    together = sweep(model, batch, edits, metric, out=tmp_path)
    assert np.allclose(together.values, whole.values, rtol=1e-5, atol=1e-6)
    assert model.forwards - before <= 2.5, "finished shards were run again"
    with pytest.raises(InputError, match="holds another run"):
        sweep(model, batch, edits[1:], metric, out=tmp_path / "shard-0-of-3")


def test_ctrl_c_keeps_finished_parts(tmp_path, monkeypatch) -> None:
    from conceptlab.model.sweep import parts, run

    model, batch, edits, metric = small()
    monkeypatch.setattr(parts, "FORWARDS_A_PART", 3.0)
    real, done = run.run_share, []

    def stopped(job, share):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(share)
        yield from real(job, share)

    monkeypatch.setattr(run, "run_share", stopped)
    with pytest.raises(Interrupted, match="goes on"):
        sweep(model, batch, edits, metric, out=tmp_path)
    monkeypatch.setattr(run, "run_share", lambda job, share: done.append(share) or real(job, share))
    found = sweep(model, batch, edits, metric, out=tmp_path)
    assert np.allclose(found.values, sweep(model, batch, edits, metric).values, rtol=1e-5, atol=1e-6)
    assert len({tuple(share) for share in done}) == len(done), "a finished part was run again"


@pytest.mark.parametrize(
    ("edits", "options", "message"),
    [
        ([], {}, "the list of edits is empty"),
        ([()], {}, "item 0"),
        ([Edit("L9.z", "zero")], {}, "has layers 0 to"),
        ([Edit("L0.H99.z", "zero")], {}, "names unit 99"),
        ([Edit("L0.z", "zero", positions=(30,))], {}, "do not all exist"),
        ([Edit("L0.cross_attn_out", "zero")], {}, "no cross-attention"),
        ([Edit("L0.z", "zero")], {"budget_bytes": 1000}, "too small: one row of 6 tokens needs"),
        ([Edit("L0.z", "zero")], {"shard": (3, 2)}, "does not exist"),
        ([Edit("L0.resid_pre", "add", torch.tensor(float("nan")))], {}, "NaN or infinite"),
        ([Edit("L0.resid_pre", "set", torch.zeros(5, 64), positions=(1,))], {}, "5 entries"),
    ],
)
def test_bad_input_is_one_line(edits, options, message) -> None:
    model, batch, _, metric = small()
    with pytest.raises((InputError, SiteError), match=message) as caught:
        sweep(model, batch, edits, metric, **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_bad_metrics_are_one_line() -> None:
    model, batch, edits, _ = small()
    with pytest.raises(InputError, match="share their first token"):
        logit_diff([11, 12], [11, 22])
    with pytest.raises(InputError, match="the metric is for 3 rows"):
        sweep(model, batch, edits, logit([1, 2, 3]))


def test_the_plan_is_said_before_anything_runs(capsys) -> None:
    model, batch, edits, metric = small()
    sweep(model, batch, edits, metric, progress=Progress())
    assert capsys.readouterr().err.startswith("sweep: 24 edits x 2 rows")


def test_half_precision_differences_are_read_in_full_precision() -> None:
    model = case_of("llama").model
    half, batch = load_model(copy.deepcopy(model.module).to(torch.bfloat16)), rows_of(model, (6, 6))
    found = sweep(half, batch, [Edit("L1.H0.z", "zero", positions=(5,))], logit_diff([11, 12], [21, 22]))
    assert half.sweep_strategy.kind == "packed"
    values = torch.from_numpy(found.values)
    assert bool((values.to(torch.bfloat16).double() != values).any()), "the difference was rounded to half precision"
