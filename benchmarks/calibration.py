"""How far the atlas's verdicts can be believed: noise called found, planted units found, intervals that cover.

`make calibration` runs the full form (several minutes on one core) and writes docs/calibration.md; `--quick` runs a small
form of the same code and prints it. Every number comes from the functions that `conceptlab map` calls.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest

from conceptlab.evidence import make_folds, permuted_labels, q_values
from conceptlab.find.heads.readable_heads import readable_heads
from conceptlab.find.neurons.readable_neurons import readable_neurons
from conceptlab.measure.probing.columns import Problem, choose_metric
from conceptlab.measure.probing.layer_probe import probe_layers
from conceptlab.results import Provenance, Units
from conceptlab.results.provenance import library_versions

LEVEL = 0.05
OUT = Path(__file__).parents[1] / "docs" / "calibration.md"
CAUSAL = "## Causal methods"  # the heading of a section that another script writes
PROVENANCE = Provenance("calibration", 0, 0)


@dataclass(frozen=True)
class Size:
    """How much of everything; the quick form is the same code with less of it."""

    runs: int = 200
    permutations: int = 120
    datasets: int = 20
    shuffles: int = 100
    coverage_runs: int = 150


QUICK = Size(runs=8, permutations=60, datasets=2, shuffles=6, coverage_runs=20)


# -- noise called found ------------------------------------------------------------------------------------------------
def activations(rng: np.random.Generator, n: int, *, layers: int = 3, d: int = 32) -> tuple[torch.Tensor, np.ndarray]:
    """Streams [row, layer, d] like a model's, and groups [row] of four rows that are alike.

    The first layer is one of 30 type vectors, as an embedding is; each next one keeps most of the one before. Dimensions
    are correlated (spectrum 1/k), and two are massive: far from 0 and 300 times as wide.
    """
    mix = rng.normal(size=(d, d)) / np.arange(1, d + 1)[:, None]
    groups = np.arange(n) // 4
    x = rng.normal(size=(30, d))[rng.integers(0, 30, n)]
    stream = [x]
    for _ in range(layers - 1):
        x = 0.8 * x + 0.5 * rng.normal(size=(n, d)) + 0.5 * rng.normal(size=(n, d))[groups]
        stream.append(x)
    features = np.stack([layer @ mix for layer in stream], 1)
    features[..., [3, 11]] = 300 * features[..., [3, 11]] + 2000
    return torch.tensor(features).float(), groups


def noise_concepts(rng: np.random.Generator, n: int, groups: np.ndarray) -> Iterator[tuple[str, np.ndarray, str, bool]]:
    """(name, labels, kind, whether rows are grouped): labels that know nothing about the features."""
    yield "two classes", rng.permutation(np.arange(n) % 2), "binary", False
    yield "two classes, 80 : 20", rng.permutation((np.arange(n) % 5 == 0).astype(np.int64)), "binary", False
    yield "three classes", rng.permutation(np.arange(n) % 3), "classes", False
    yield "graded", rng.normal(size=n), "graded", False
    yield "two classes, groups of four", rng.permutation(np.arange(n // 4) % 2)[groups], "binary", True


def problem_of(labels: np.ndarray, groups: np.ndarray | None, kind: str, permutations: int, seed: int) -> Problem:
    """Folds and shuffles as the atlas makes them."""
    folds = make_folds(labels, groups, seed=seed)
    shuffled = permuted_labels(labels, groups, permutations, seed + 1, folds=folds)
    return Problem(np.concatenate([labels[None], shuffled]), folds, kind, choose_metric(labels, kind))  # type: ignore[arg-type]


def noise_found(size: Size, n: int = 120) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """p [run] by kind of concept and q [run, concept] of runs over concepts that are nothing but noise."""
    p: dict[str, list[float]] = {}
    for run in range(size.runs):
        rng = np.random.default_rng(10_000 + run)
        features, groups = activations(rng, n)
        for name, labels, kind, grouped in noise_concepts(rng, n, groups):
            own = groups if grouped else None
            # rows of a group are alike, so labels that ignore the groups are exchangeable over rows all the same
            problem = problem_of(labels, own, kind, size.permutations, run)
            p.setdefault(name, []).append(probe_layers(features, problem, own, seed=run).p)
    table = {name: np.array(values) for name, values in p.items()}
    return table, np.array([q_values(row) for row in np.stack(list(table.values()), 1)])


# -- planted units -----------------------------------------------------------------------------------------------------
HEADS, PLANTED_HEADS, D_HEAD = (4, 8), 3, 8
NEURONS, PLANTED_NEURONS = (4, 256), 20


def heads_data(rng: np.random.Generator, labels: np.ndarray, shift: float) -> tuple[torch.Tensor, set[int]]:
    """z [row, layer, head, d_head], correlated between heads; planted heads differ by `shift` sd between the classes."""
    n = len(labels)
    shared = rng.normal(size=(n, 6)) @ rng.normal(size=(6, HEADS[0] * HEADS[1] * D_HEAD)) / 6**0.5
    z = (shared + rng.normal(size=shared.shape)).reshape(n, -1, D_HEAD) / 2**0.5
    chosen = rng.choice(HEADS[0] * HEADS[1], PLANTED_HEADS, replace=False)
    for head in chosen if shift else ():
        way = rng.normal(size=D_HEAD)
        z[:, head] += shift * (labels[:, None] - 0.5) * way / np.linalg.norm(way)
    return torch.tensor(z.reshape(n, *HEADS, D_HEAD)).float(), set(chosen.tolist())


def neurons_data(rng: np.random.Generator, labels: np.ndarray, shift: float) -> tuple[torch.Tensor, set[int]]:
    """post [row, layer, neuron], correlated, every other one at 0 most of the time; half of the planted ones fall silent."""
    n, total = len(labels), NEURONS[0] * NEURONS[1]
    x = rng.normal(size=(n, 10)) @ rng.normal(size=(10, total)) / 10**0.5 + rng.normal(size=(n, total))
    x /= 2**0.5
    x[:, ::2] = np.maximum(x[:, ::2] - 1, 0) * 3
    chosen = rng.choice(np.arange(1, total, 2), PLANTED_NEURONS, replace=False)
    sign = np.where(np.arange(PLANTED_NEURONS) % 2, 1.0, -1.0)
    x[:, chosen] += shift * sign * labels[:, None]
    return torch.tensor(x.reshape(n, *NEURONS)).float(), set(chosen.tolist())


def found(units: Units) -> set[int]:
    """Places of the units with q <= 0.05."""
    return set(np.flatnonzero(units.table["q"].values <= LEVEL).tolist())


def search(kind: str, seed: int, shift: float, n: int = 160) -> tuple[set[int], set[int]]:
    """(found, planted) units of one data set; with shift 0 the labels are noise and nothing is planted."""
    rng = np.random.default_rng(20_000 + seed)
    labels = rng.permutation(np.arange(n) % 2)
    problem = problem_of(labels, None, "binary", 60, seed)
    make, find = (heads_data, readable_heads) if kind == "heads" else (neurons_data, readable_neurons)
    values, planted = make(rng, labels, shift)
    return found(find(values, problem, tuple(range(values.shape[1])), PROVENANCE)), planted if shift else set()


def units_table(size: Size, kind: str, shifts: tuple[float, ...]) -> list[tuple[float, float, float]]:
    """(shift, precision, recall) over `size.datasets` data sets each."""
    rows = []
    for shift in shifts:
        pairs = [search(kind, 100 * i + round(10 * shift), shift) for i in range(size.datasets)]
        hits = sum(len(a & b) for a, b in pairs)
        rows.append((shift, hits / max(sum(len(a) for a, _ in pairs), 1), hits / sum(len(b) for _, b in pairs)))
    return rows


def units_in_noise(size: Size, kind: str) -> list[int]:
    """How many units are found in each of `size.shuffles` data sets of noise."""
    return [len(search(kind, 50_000 + i, 0.0)[0]) for i in range(size.shuffles)]


# -- intervals ---------------------------------------------------------------------------------------------------------
def coverage(size: Size) -> dict[str, tuple[float, int, int]]:
    """{setting: (expected score, intervals that hold it, intervals)}; the expected score is the mean over all runs."""
    table = {}
    for name, make in SETTINGS.items():
        scores, bounds = [], []
        for run in range(size.coverage_runs):
            x, labels, groups, kind = make(np.random.default_rng(30_000 + run))
            probe = probe_layers(x, problem_of(labels, groups, kind, 0, run), groups, seed=run)
            scores.append(probe.score)
            bounds.append(probe.interval)
        low, high = np.array(bounds).T
        expected = float(np.mean(scores))
        table[name] = (expected, int(((low <= expected) & (expected <= high)).sum()), len(scores))
    return table


Made = tuple[torch.Tensor, np.ndarray, np.ndarray | None, str]


def _shifted(shift: float, n: int = 200, rare: int = 2) -> Callable[[np.random.Generator], Made]:
    def make(rng: np.random.Generator) -> Made:
        labels = rng.permutation((np.arange(n) % rare == 0).astype(np.int64))
        x = rng.normal(size=(n, 1, 8))
        x[:, 0, 0] += shift * (2 * labels - 1)
        return torch.tensor(x).float(), labels, None, "binary"

    return make


def _graded(rng: np.random.Generator) -> Made:
    x = rng.normal(size=(200, 1, 8))
    return torch.tensor(x).float(), x[:, 0, 0] + rng.normal(size=200), None, "graded"


def _grouped(rng: np.random.Generator) -> Made:
    groups = np.repeat(np.arange(60), 4)
    labels = rng.permutation(np.arange(60) % 2)[groups]
    x = 0.7 * rng.normal(size=(60, 1, 8))[groups] + 0.7 * rng.normal(size=(240, 1, 8))
    x[:, 0, 0] += 0.8 * (2 * labels - 1)
    return torch.tensor(x).float(), labels, groups, "binary"


SETTINGS: dict[str, Callable[[np.random.Generator], Made]] = {
    "accuracy, 200 rows": _shifted(0.7),
    "accuracy near 1, 200 rows": _shifted(2.3),
    "AUC, 80 : 20, 200 rows": _shifted(0.7, rare=5),
    "r, 200 rows": _graded,
    "accuracy, 60 groups of four rows": _grouped,
}


# -- the page ----------------------------------------------------------------------------------------------------------
def share(hits: int, total: int) -> str:
    """A share with its 95 % Clopper-Pearson interval."""
    interval = binomtest(hits, total).proportion_ci()
    return f"{hits / total:.1%} ({interval.low:.1%} to {interval.high:.1%}; {hits} of {total})"


def noise_section(size: Size) -> list[str]:
    """What `found` says of noise."""
    p, q = noise_found(size)
    lines = [
        "## Noise called found",
        "",
        f"{size.runs} runs over five concepts whose labels are shuffled, {size.permutations} permutations each, on streams of "
        "120 rows × 3 layers × 32 dimensions (types, correlated dimensions, two massive ones, groups of four like rows). "
        "The whole procedure: stratified group-aware folds, choice of the layer inside nested folds, the permutation null "
        "of the same, Benjamini-Hochberg over the run's concepts, found at q ≤ 0.05.",
        "",
        f"* Concepts reported as found: **{share(int((q <= LEVEL).sum()), q.size)}**; stated level 5 %.",
        f"* Runs with any concept found: **{share(int((q <= LEVEL).any(1).sum()), len(q))}**; stated level 5 %.",
        "",
        "| concept | p ≤ 0.05 |",
        "|---|---|",
    ]
    return lines + [f"| {name} | {share(int((v <= LEVEL).sum()), len(v))} |" for name, v in p.items()]


def units_section(size: Size, kind: str, shifts: tuple[float, ...], what: str) -> list[str]:
    """Precision and recall on planted units, and what is found in noise."""
    counts = np.array(units_in_noise(size, kind))
    rows = [f"| {s:g} | {p:.2f} | {r:.2f} |" for s, p, r in units_table(size, kind, shifts)]
    return [
        f"## {kind.capitalize()}",
        "",
        f"{what} 160 rows, 60 permutations, q ≤ 0.05, {size.datasets} data sets a line.",
        "",
        "| difference between classes, sd | precision | recall |",
        "|---|---|---|",
        *rows,
        "",
        f"On noise labels anything is found in {share(int((counts > 0).sum()), len(counts))} of the data sets "
        f"(the false-discovery rate realised, stated 5 %); {counts.mean():.2f} units a data set.",
    ]


def coverage_section(size: Size) -> list[str]:
    """Whether 95 % intervals hold the expected score."""
    return [
        "## Score intervals",
        "",
        "How often the 95 % interval of the nested score holds the score that the same procedure has on average "
        f"over {size.coverage_runs} fresh data sets.",
        "",
        "| setting | expected score | coverage |",
        "|---|---|---|",
        *(f"| {name} | {e:.3f} | {share(hits, n)} |" for name, (e, hits, n) in coverage(size).items()),
    ]


def page(size: Size) -> str:
    """The whole page as Markdown."""
    start = time.monotonic()
    heads = f"{PLANTED_HEADS} of {HEADS[0] * HEADS[1]} heads planted; heads share six factors."
    neurons = (
        f"{PLANTED_NEURONS} of {NEURONS[0] * NEURONS[1]} neurons planted, half of them falling silent; every other neuron "
        "is at 0 for most rows; neurons share ten factors."
    )
    sections = [
        noise_section(size),
        units_section(size, "heads", (0.75, 1.0, 1.5, 2.0), heads),
        units_section(size, "neurons", (0.5, 0.75, 1.0, 1.5), neurons),
        coverage_section(size),
    ]
    versions = ", ".join(f"{k} {v}" for k, v in library_versions().items())
    head = [
        "# Calibration",
        "",
        "Written by `make calibration` (`benchmarks/calibration.py`); a small form of it runs with the tests.",
        f"{datetime.now(UTC):%Y-%m-%d}, {torch.get_num_threads()} thread(s) of {os.cpu_count()} CPU cores "
        f"({platform.machine()}), {time.monotonic() - start:.0f} s wall, {time.process_time():.0f} s of CPU; {versions}. "
        "Seeds are fixed.",
    ]
    return "\n\n".join("\n".join(part) for part in [head, *sections]) + "\n"


def main() -> None:
    """Write the page, or print its quick form."""
    parser = argparse.ArgumentParser(description="Measure how far verdicts can be believed.")
    parser.add_argument("--quick", action="store_true", help="a small form, printed and not written")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        print(page(QUICK))
    else:
        before = options.out.read_text(encoding="utf-8") if options.out.exists() else ""
        causal = (
            before[before.find(CAUSAL) :] if CAUSAL in before else ""
        )  # written by benchmarks/calibration_causal.py
        options.out.write_text("\n".join([page(Size()), causal] if causal else [page(Size())]), encoding="utf-8")
        print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
