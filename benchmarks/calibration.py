"""How often the atlas calls something found that is not there, and how often it finds what is: writes docs/calibration.md.

Arrays with a known truth go through the very functions the atlas calls (nested probe with its permutation null, heads, neurons,
Benjamini-Hochberg), on streams shaped like real ones: correlated layers, a falling spectrum, clusters of rows, two massive
dimensions. Seeds from 10,000 on are for the reported run alone; thresholds were fixed on smaller ones.

    python benchmarks/calibration.py [--runs 200] [--out docs/calibration.md]
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest

from conceptlab.evidence import make_folds, permuted_labels, q_values
from conceptlab.find.heads.readable_heads import readable_heads
from conceptlab.find.neurons.readable_neurons import readable_neurons
from conceptlab.measure.probing.columns import Kind, Problem, choose_metric
from conceptlab.measure.probing.layer_probe import LayerProbe, probe_layers
from conceptlab.results import Provenance, Units

LEVEL = 0.05
FIRST_REPORTED_SEED = 10_000
N, LAYERS, D, DRAWS = 120, 4, 24, 99
NOTHING = Provenance("calibration", N, 0)


@dataclass(frozen=True)
class Labels:
    """What a concept's rows are called: `values` [row], how they are scored, and which rows belong together."""

    name: str
    kind: Kind
    values: np.ndarray
    groups: np.ndarray | None = None


def stream(rng: np.random.Generator, n: int = N, layers: int = LAYERS, d: int = D) -> torch.Tensor:
    """Features [row, layer, d] that carry nothing but themselves: each layer is the last one, turned a little, plus noise."""
    spectrum = np.exp(-np.arange(d) / (d / 4))
    clusters = rng.normal(size=(6, d))[rng.integers(0, 6, n)]
    x = (rng.normal(size=(n, d)) + clusters) * spectrum
    found = []
    for _ in range(layers):
        x = 0.8 * x + 0.4 * x @ rng.normal(size=(d, d)) / d**0.5 + 0.2 * rng.normal(size=(n, d))
        layer = x.copy()
        layer[:, [1, d // 2]] = 300 * layer[:, [1, d // 2]] + 1000
        found.append(layer)
    return torch.from_numpy(np.stack(found, 1)).float()


def noise_labels(rng: np.random.Generator, n: int = N) -> list[Labels]:
    """Five concepts that no feature knows of: one of each kind of label and of grouping."""
    pairs, templates = np.repeat(np.arange(n // 2), 2), rng.integers(0, n // 6, n)
    flips = rng.integers(0, 2, n // 2)
    return [
        Labels("two classes", "binary", rng.permutation(np.arange(n) % 2)),
        Labels("lopsided two classes", "binary", rng.permutation((np.arange(n) % 5 == 0).astype(np.int64))),
        Labels("three classes", "classes", rng.permutation(np.arange(n) % 3)),
        Labels("graded, in templates", "graded", rng.normal(size=n), templates),
        Labels("contrast pairs", "binary", np.stack([flips, 1 - flips], 1).ravel(), pairs),
    ]


def problem(labels: Labels, seed: int, draws: int = DRAWS) -> Problem:
    """Folds and shuffles as the atlas makes them."""
    folds = make_folds(labels.values, labels.groups, seed=seed)
    shuffled = permuted_labels(labels.values, labels.groups, draws, seed + 1, folds=folds)
    metric = choose_metric(labels.values, labels.kind)
    return Problem(np.concatenate([labels.values[None], shuffled]), folds, labels.kind, metric)


def probed(features: torch.Tensor, labels: Labels, seed: int) -> LayerProbe:
    """The nested probe of one concept."""
    return probe_layers(features, problem(labels, seed), labels.groups, seed=seed)


def null_run(seed: int) -> np.ndarray:
    """p [concept] of five concepts that are noise."""
    rng = np.random.default_rng(seed)
    features = stream(rng)
    return np.array([probed(features, labels, seed).p for labels in noise_labels(rng)])


def planted_run(seed: int, shift: float) -> tuple[bool, float, float]:
    """A concept planted from layer 2 on, `shift` either way: is it found at 0.05, best layer minus 2, score minus null."""
    rng = np.random.default_rng(seed)
    features = 2 * torch.randn(N, LAYERS, D, generator=torch.Generator().manual_seed(seed)) + stream(rng)
    labels = noise_labels(rng)[0]
    direction = rng.normal(size=D)
    push = np.outer(2 * labels.values - 1, direction / np.linalg.norm(direction)) * shift * 2
    features[:, 2:] += torch.from_numpy(push).float()[:, None]
    probe = probed(features, labels, seed)
    return probe.p <= LEVEL, probe.best_layer - 2, probe.score - probe.control


def units_run(seed: int, kind: str, shift: float, n_planted: int = 6) -> tuple[int, int]:
    """How many planted and how many other units have q <= 0.05, of 96 heads or 2,000 neurons that share common factors."""
    rng = np.random.default_rng(seed)
    labels = noise_labels(rng)[0]
    heads, width = (96, 8) if kind == "head" else (2000, 1)
    shared = rng.normal(size=(N, 8)) @ rng.normal(size=(8, heads * width)) * 0.3
    x = (rng.normal(size=(N, heads * width)) + shared).reshape(N, heads, width)
    if kind == "neuron":  # gated neurons: silent on most rows
        x = np.maximum(x - 0.5, 0)
    planted = rng.permutation(heads)[:n_planted]
    signs = np.where(np.arange(n_planted) % 2, 1, -1)
    x[:, planted, 0] += shift * (2 * labels.values - 1)[:, None] * signs * (x[:, planted, 0].std(0))
    table = units(kind, torch.from_numpy(x).float(), problem(labels, seed)).table
    hit = np.flatnonzero(table["q"].values <= LEVEL)
    true = int(np.isin(hit, planted).sum()) if shift else 0
    return true, len(hit) - true


def units(kind: str, x: torch.Tensor, of: Problem) -> Units:
    """The finder's table of `x` [row, unit, width]."""
    if kind == "head":
        return readable_heads(x[:, None], of, (0,), NOTHING)
    return readable_neurons(x[:, None, :, 0], of, (0,), NOTHING)


def rate(hits: int, total: int) -> str:
    """`hits` of `total` as a share with its exact 95 % interval."""
    bounds = binomtest(hits, total).proportion_ci(0.95)
    return f"{hits} of {total} = {hits / total:.3f} [{bounds.low:.3f}, {bounds.high:.3f}]"


def null_report(runs: int) -> list[str]:
    """On noise: concepts called found by q over a run's five, by p alone for each kind; runs in which any unit is found."""
    p = np.array([null_run(FIRST_REPORTED_SEED + i) for i in range(runs)])
    found = np.array([q_values(row) <= LEVEL for row in p])
    names = [labels.name for labels in noise_labels(np.random.default_rng(0))]
    lines = [f"| concepts found (q <= 0.05 over the five of a run) | {rate(int(found.sum()), found.size)} |"]
    lines.append(f"| runs with any concept found | {rate(int(found.any(1).sum()), runs)} |")
    lines += [
        f"| p <= 0.05: {name} | {rate(int((column <= LEVEL).sum()), runs)} |"
        for name, column in zip(names, p.T, strict=True)
    ]
    for kind in ("head", "neuron"):
        wrong = [units_run(FIRST_REPORTED_SEED + i, kind, 0.0)[1] for i in range(runs)]
        lines.append(f"| runs with any {kind} found | {rate(int(np.count_nonzero(wrong)), runs)} |")
    return ["| on noise | share [exact 95 % interval] |", "|---|---|", *lines]


def power_report(runs: int) -> list[str]:
    """On planted truth: how often it is found, where, and how clean the lists of units are, by size of the effect."""
    lines = [
        "| concept planted from layer 2 on, shift | found (p <= 0.05) | best layer off by, mean | score over null |"
    ]
    lines.append("|---|---|---|---|")
    for shift in (0.0, 0.25, 0.5, 1.0):
        found, off, over = zip(*(planted_run(FIRST_REPORTED_SEED + i, shift) for i in range(runs)), strict=True)
        place = f"{np.mean(np.abs(off)):.2f}" if shift else "-"
        lines.append(f"| {shift} sd | {rate(sum(found), runs)} | {place} | {np.mean(over):.3f} |")
    lines += ["", "| 6 units planted, shift | kind | recall | false share of the list, mean |", "|---|---|---|---|"]
    for kind in ("head", "neuron"):
        for shift in (0.4, 0.8):
            hits = np.array([units_run(FIRST_REPORTED_SEED + i, kind, shift) for i in range(runs)])
            wrong = hits[:, 1] / np.maximum(hits.sum(1), 1)
            lines.append(f"| {shift} sd | {kind} | {hits[:, 0].mean() / 6:.3f} | {wrong.mean():.3f} |")
    return lines


def report(runs: int, say: Callable[[str], None]) -> str:
    """The page."""
    start = time.monotonic()
    null = null_report(runs)
    say("\n".join(null))
    power = power_report(max(10, runs // 4))
    say("\n".join(power))
    setting = f"{N} rows, {LAYERS} layers, width {D}, {DRAWS} shuffles, {runs} runs on noise, {max(10, runs // 4)} on planted truth"
    head = [
        "# Calibration",
        "",
        "Written by `make calibration`. How often the functions behind an atlas call noise found, and how often they find what",
        f"was planted. {setting}; level {LEVEL}; seeds from {FIRST_REPORTED_SEED}; {time.monotonic() - start:.0f} s.",
        "",
    ]
    return "\n".join([*head, *null, "", *power, ""])


def main() -> None:
    """Run and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "calibration.md")
    options = parser.parse_args()
    options.out.write_text(report(options.runs, print), encoding="utf-8")


if __name__ == "__main__":
    main()
