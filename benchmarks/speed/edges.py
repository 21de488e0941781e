"""Edge attribution beside bare forwards: EAP and EAP-IG of every edge of one pair, and the memory they take at their peak.

The unit is one bare forward of the prompt, all logits made. What is scored stands in the note: edges, and the control (random
changes beside every edge) where it ran. The floor: 2 forwards and a backward to the stream (about 1 forward) for EAP, a forward
and a backward a step for EAP-IG, and for either the products of senders with receivers.
"""

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers

from conceptlab.find.circuits.edge_attribution import edge_attribution
from conceptlab.find.circuits.edge_attribution_ig import edge_attribution_ig
from conceptlab.model import load_model
from conceptlab.results import Circuit

from .models import Subject, make_subject
from .pairs import ratio
from .sweeps import batch_of, metric_of
from .table import Row, timed

KINDS = ("gpt2", "llama, 4 key/value heads", "gpt-neox, parallel blocks")
STEPS = 5
BUDGET = 2**30  # what the machine has free would otherwise decide how many rows run together
PLAIN, A_STEP, BESIDE = 6.0, 2.0, 4.0  # targets: EAP in all, EAP-IG for each step and beside the steps
# measured earlier on GPT-2 at this length, on another run than ours; its 1,039,712 edges are ours at each of 32 positions
PEER = {"TransformerLens": "99.4 (edges by position)"}
NO_PEER = {"TransformerLens": "rejects it"}


def edge_rows(*, tiny: bool = False, n_pos: int = 32, limit: float = 40.0) -> list[Row]:
    """EAP with and without its control, and EAP-IG, for every kind of block."""
    return [row for kind in KINDS[: 1 if tiny else None] for row in _rows(kind, tiny, n_pos, limit)]


def _rows(kind: str, tiny: bool, n_pos: int, limit: float) -> list[Row]:
    subject = _subject(kind, tiny, n_pos)
    model, clean = load_model(subject.module), batch_of(subject.ids)
    ids = subject.ids.clone()
    ids[0, [n_pos // 4, n_pos // 2]] = torch.tensor([11, 12])
    corrupted, metric = batch_of(ids), metric_of(clean)
    most: Any = {"budget_bytes": BUDGET}
    jobs: list[tuple[str, Callable[[], Circuit], float, dict[str, str]]] = [
        ("EAP, every edge", lambda: edge_attribution(model, clean, corrupted, metric, **most), PLAIN,
         PEER if kind == "gpt2" else NO_PEER),
        ("EAP, every edge, without its control",
         lambda: edge_attribution(model, clean, corrupted, metric, n_random=0, **most), PLAIN, {}),
        (f"EAP-IG, {STEPS} steps, every edge",
         lambda: edge_attribution_ig(model, clean, corrupted, metric, steps=STEPS, **most),
         A_STEP * STEPS + BESIDE, {"TransformerLens": "not offered"}),
    ]  # fmt: skip
    rows = []
    for what, call, target, peers in jobs:
        made, peak = peak_of(call)
        timing = ratio(call, subject.bare, n=5, limit=limit)
        note = f"{made.shape.n_edges:,} edges, {peak}"
        row = timed(f"{kind}: edge attribution, one pair of {n_pos} tokens, one bare forward = 1", what, timing,
                    target=None if tiny else target, note=note)  # fmt: skip
        rows.append(Row(**{**vars(row), "peers": peers}))
    return rows


def _subject(kind: str, tiny: bool, n_pos: int) -> Subject:
    """GPT-2-small size in three kinds of blocks."""
    if kind == "gpt2":
        return make_subject("gpt2", 1, n_pos, tiny=tiny, n_layers=2 if tiny else 12)
    torch.manual_seed(0)
    size: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 32000}
    if kind.startswith("llama"):
        config = transformers.LlamaConfig(intermediate_size=2048, num_key_value_heads=4, **size)
        module = transformers.LlamaForCausalLM(config)
    else:
        config = transformers.GPTNeoXConfig(intermediate_size=3072, use_parallel_residual=True, **size)
        module = transformers.GPTNeoXForCausalLM(config)
    ids = torch.randint(13, 32000, (1, n_pos), generator=torch.Generator().manual_seed(1))
    return Subject(kind, module.eval(), ids)


def peak_of(call: Callable[[], Circuit]) -> tuple[Circuit, str]:
    """What the call gives, and how far memory rose while it ran (Linux alone counts that)."""
    gc.collect()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # else what earlier calls freed would be used again unseen
    status = Path("/proc/self/status")
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    except OSError:
        return call(), "peak memory not counted here"
    before = _kibibytes(status, "VmRSS")
    made = call()
    return made, f"peak {(_kibibytes(status, 'VmHWM') - before) / 1024:.0f} MiB above the model"


def _kibibytes(status: Path, name: str) -> int:
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return int(line.split()[1])
