"""Interventions beside bare forwards: sweeps over the stream and over heads, and how their cost grows with depth and length.

The unit is one bare forward of the prompt (of the batch, for ablation). The floor beside each row is the arithmetic that exactness
needs, at the speed of one large matrix product of this machine, in the same unit.
"""

import time

import torch

from conceptlab.model import Batch, Model, load_model
from conceptlab.model.metric import Metric, logit_diff
from conceptlab.model.sweep import plan_sweep, sweep
from conceptlab.results import Edit, Site

from .models import Subject, make_subject
from .pairs import ratio
from .table import Row, timed

TARGETS = {"stream": 30.0, "heads": 19.0, "ablation": 43.0}


def batch_of(ids: torch.Tensor) -> Batch:
    """Rows of ids as a batch."""
    return Batch(tuple(map(tuple, ids.tolist())))


def stream_edits(model: Model, other: Batch) -> list[Edit]:
    """Set the stream of every (layer, position) to what it is on another prompt."""
    values = model.capture(other, "resid_pre", positions="all")["resid_pre"]
    n_pos = len(other.ids[0])
    return [
        Edit(Site("resid_pre", layer), "set", values[pos, layer][None], positions=(pos,))
        for layer in range(model.n_layers)
        for pos in range(n_pos)
    ]


def head_edits(model: Model, other: Batch | None) -> list[Edit]:
    """Set every head's output at all positions to what it is on another prompt, or (None) to zero."""
    if other is None:
        heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
        return [Edit(Site("z", layer, (head,)), "zero") for layer, head in heads]
    values = model.capture(other, "z", positions="all")["z"]
    return [
        Edit(Site("z", layer, (head,)), "set", values[:, layer, head : head + 1])
        for layer in range(model.n_layers)
        for head in range(model.n_heads)
    ]


def metric_of(batch: Batch) -> Metric:
    """Two logits a row."""
    return logit_diff([3] * len(batch), [5] * len(batch))


def peak_speed() -> float:
    """Multiply-adds a second of one large matrix product, the fastest of a few."""
    a, b = torch.randn(2048, 768), torch.randn(768, 3072)
    best = 0.0
    for _ in range(7):
        start = time.perf_counter()
        torch.mm(a, b)
        best = max(best, a.shape[0] * b.numel() / (time.perf_counter() - start))
    return best


def _differing(subject: Subject, seed: int = 7) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return batch_of(torch.randint(6, subject.module.config.vocab_size, subject.ids[:1].shape, generator=generator))


def sweep_rows(kind: str, *, tiny: bool = False, n_pos: int = 32, limit: float = 60.0) -> list[Row]:
    """The three sweeps of one model at one length, no patch skipped."""
    size = {"tiny": True, "n_layers": 2} if tiny else {}
    one = make_subject(kind, 1, n_pos, **size)
    many = Subject(kind, one.module, make_subject(kind, 16, n_pos, **size).ids)
    model, other = load_model(one.module), _differing(one)
    small = n_pos <= 32 and not tiny
    jobs: list[tuple[str, str, Subject, list[Edit]]] = [
        ("stream", f"patch the stream at all (layer, position), {model.n_layers * n_pos} patches", one, stream_edits(model, other)),
        ("heads", f"patch every head at all positions, {model.n_layers * model.n_heads} patches", one, head_edits(model, other)),
    ]  # fmt: skip
    if n_pos <= 32:
        jobs.append(("ablation", f"ablate every head over 16 x {n_pos} tokens", many, head_edits(model, None)))
    rows, speed = [], peak_speed()
    for name, what, subject, edits in jobs:
        clean = batch_of(subject.ids)
        metric, plan = metric_of(clean), plan_sweep(model, clean, edits, metric_of(clean))
        start = time.perf_counter()
        subject.bare()
        bare = time.perf_counter() - start

        def call(c: Batch = clean, e: list[Edit] = edits, m: Metric = metric) -> object:
            return sweep(model, c, e, m, skip_unchanged=False)

        timing = ratio(call, subject.bare, n=_repeats(name, n_pos), limit=limit)
        least = plan.forward_equivalents * _multiplications(model, n_pos) / speed / bare
        note = f"{plan.forward_equivalents / len(clean):.0f} of its arithmetic, about {least:.0f} at the speed of a large product"
        note += f"; {len(edits) / timing.value:.1f} edits a forward"
        rows.append(timed(f"{kind}: exact interventions, {n_pos} tokens, one bare forward = 1", what, timing,
                          target=TARGETS[name] if small else None, note=note))  # fmt: skip
    return rows


def _repeats(name: str, n_pos: int) -> int:
    """How often a sweep is run: one of 256 tokens takes minutes."""
    return 1 if n_pos > 32 else 2 if name == "ablation" else 5


def _multiplications(model: Model, n_pos: int) -> float:
    """Multiply-adds of one bare forward of one row."""
    from conceptlab.model.sweep.plan import Cost

    return Cost.of(model).forward(n_pos, model.n_layers)


def skipping_rows(kind: str, *, tiny: bool = False) -> list[Row]:
    """A pair that differs at three tokens: patches before the first of them are known to change nothing."""
    subject = make_subject(kind, 1, 32, tiny=tiny, n_layers=2 if tiny else 12)
    model, ids = load_model(subject.module), subject.ids.clone()
    ids[0, [5, 14, 15]] = torch.tensor([11, 12, 13])
    clean = batch_of(subject.ids)
    edits = stream_edits(model, batch_of(ids))
    found = sweep(model, clean, edits, metric_of(clean))
    timing = ratio(lambda: sweep(model, clean, edits, metric_of(clean)), subject.bare, n=5, limit=40.0)
    what = "the same, pair differing at tokens 5, 14 and 15: what cannot change anything is skipped"
    note = f"{found.plan.n_skipped} of {found.plan.n_units} patches skipped"
    return [timed(f"{kind}: exact interventions, 32 tokens, one bare forward = 1", what, timing, note=note)]


def growth(kind: str, sizes: list[tuple[int, int]]) -> list[dict[str, float]]:
    """(layers, tokens, plan, measured) of a stream sweep over 4 positions and all layers, width 256, for the chart."""
    import transformers

    found = []
    for n_layers, n_pos in sizes:
        torch.manual_seed(0)
        config = transformers.GPT2Config(n_layer=n_layers, n_embd=256, n_head=4, vocab_size=2000, n_positions=1024)
        subject = Subject(kind, transformers.GPT2LMHeadModel(config).eval(), torch.randint(1, 2000, (1, n_pos)))
        model, clean, other = load_model(subject.module), batch_of(subject.ids), _differing(subject)
        edits = [e for e in stream_edits(model, other) if e.positions[0] % max(1, n_pos // 4) == 0]
        metric = metric_of(clean)
        plan = plan_sweep(model, clean, edits, metric)
        timing = ratio(
            lambda m=model, c=clean, e=edits, x=metric: sweep(m, c, e, x, skip_unchanged=False),
            subject.bare,
            n=3,
            limit=20.0,
        )
        found.append({"layers": n_layers, "tokens": n_pos, "plan": plan.forward_equivalents, "measured": timing.value})
    return found
