"""The atlas of one concept beside the forward passes that it needs, each part timed inside the real call."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from conceptlab.atlas import map_concepts, one_concept
from conceptlab.data import Concept, ConceptSet
from conceptlab.model import Model, load_model

from .models import make_module, word_tokenizer
from .table import Row

PARTS = {
    "read_concept": "reading the rows",
    "rotated_layers": "rotation of the layers",
    "probe_layers": "probes, nulls, intervals",
    "control_task": "control task",
    "description_length": "code length",
    "readable_heads": "heads",
    "readable_neurons": "neurons",
    "measure_use": "effects",
}


@dataclass
class Stopwatch:
    """CPU and wall seconds by name; the clock runs only in the innermost open name."""

    cpu: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _since: tuple[float, float] = (0.0, 0.0)

    def _book(self) -> None:
        now = (time.thread_time(), time.perf_counter())
        if self._open:
            name = self._open[-1]
            self.cpu[name] = self.cpu.get(name, 0.0) + now[0] - self._since[0]
            self.wall[name] = self.wall.get(name, 0.0) + now[1] - self._since[1]
        self._since = now

    @contextlib.contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Book the time inside under `name`."""
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def wrapped(self, name: str, function: Callable) -> Callable:
        """`function`, booked under `name`."""

        def timed(*args, **kwargs):
            with self.running(name):
                found = function(*args, **kwargs)
                return list(found) if isinstance(found, Iterator) else found

        return timed


def planted_concept(n_texts: int, n_tokens: int, seed: int = 0) -> Concept:
    """Texts of 199 random words; the label says which half of them the last one is from, wrongly for 10 % of the texts."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 200, (n_texts, n_tokens))
    labels = (ids[:, -1] > 100).astype(np.int64)
    labels = np.where(rng.random(n_texts) < 0.1, 1 - labels, labels)
    texts = tuple(" ".join(f"w{i}" for i in row) for row in ids)
    return Concept("half", texts, labels, "binary", ("low", "high"))


@contextlib.contextmanager
def timed_parts(model: Model, watch: Stopwatch) -> Iterator[None]:
    """Book the parts of a map, and the model's own forwards wherever they run."""
    kept = {name: getattr(one_concept, name) for name in PARTS if hasattr(one_concept, name)}
    forward = model._forward
    try:
        for name, function in kept.items():
            setattr(one_concept, name, watch.wrapped(PARTS[name], function))
        model._forward = lambda *a, **k: _forward(watch, forward, *a, **k)  # type: ignore[method-assign]
        yield
    finally:
        del model._forward
        for name, function in kept.items():
            setattr(one_concept, name, function)


def _forward(watch: Stopwatch, forward: Callable, *args, **kwargs):
    reading = PARTS["read_concept"] in watch._open
    with watch.running("forward passes over the rows" if reading else "replays of effects"):
        return forward(*args, **kwargs)


def atlas_rows(*, n_texts: int, n_tokens: int = 32, tiny: bool = False, limit: float = 400.0) -> list[Row]:
    """One binary concept, 200 shuffles, 100 random directions, without noised and quantised repeats (quick).

    Fewer texts are taken, and the table says so, where the forwards alone would take more than `limit` seconds.
    """
    module = make_module("gpt2", tiny=tiny, n_layers=2 if tiny else 12)
    words = int(module.config.vocab_size)  # type: ignore[union-attr, arg-type]
    model = load_model(module, tokenizer=word_tokenizer(words))
    n = _affordable(model, n_texts, n_tokens, limit)
    concept = planted_concept(n, n_tokens)
    settings = {"permutations": 19, "n_random": 9} if tiny else {"permutations": 200, "n_random": 100}
    watch = Stopwatch()
    model.forwards = 0.0
    with timed_parts(model, watch), watch.running("everything else"):
        atlas = map_concepts(model, ConceptSet("bench", (concept,), "0" * 64), quick=True, **settings)
    return _rows(watch, n, n_tokens, model.forwards, atlas.concepts[0].found)


def _affordable(model: Model, n_texts: int, n_tokens: int, limit: float) -> int:
    trial = planted_concept(64, n_tokens)
    start = time.perf_counter()
    model.capture(trial.texts, "resid_post")
    seconds = (time.perf_counter() - start) / 64 * n_texts
    return n_texts if seconds <= limit else max(1000, int(n_texts * limit / seconds) // 500 * 500)


def _rows(watch: Stopwatch, n: int, n_tokens: int, forwards: float, found: bool) -> list[Row]:
    group = (
        f"Atlas of one concept: {n:,} texts x {n_tokens} tokens, GPT-2-small size, 200 shuffles, 100 random directions"
    )
    cpu, wall = dict(watch.cpu), dict(watch.wall)
    base_cpu, base_wall = cpu.pop("forward passes over the rows"), wall.pop("forward passes over the rows")
    added = sum(cpu.values()) / base_cpu
    rows = [
        Row(group, "forward passes over the rows", f"{base_cpu:.1f} s", wall=f"{base_wall:.1f} s"),
        Row(
            group, "everything added, as a share of them", f"{added:.2f}", added, added, 0.5,
            f"{sum(wall.values()) / base_wall:.2f}", f"{torch.get_num_threads()} threads; the concept is found: {found}",
        ),
    ]  # fmt: skip
    rows += [Row(group, f"- {name}", f"{s:.1f} s", wall=f"{wall[name]:.1f} s") for name, s in cpu.items()]
    note = f"least possible {n:,} and the replays; {forwards - n:,.1f} for the trial, the clean rows and the replays of effects"
    return [*rows, Row(group, "texts through the model", f"{forwards:,.1f}", note=note)]
