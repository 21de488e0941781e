"""The quick form of `make calibration`: the page is made, noise stays silent, planted units are found."""

import numpy as np

from benchmarks.calibration import QUICK, Size, coverage_section, noise_section, search, share, units_table


def test_noise_is_seldom_found():
    lines = noise_section(QUICK)
    found = next(line for line in lines if line.startswith("* Concepts"))
    hits, total = (int(part) for part in found.split("; ")[1].split(")")[0].split(" of "))
    assert total == 5 * QUICK.runs and hits <= 4  # 2 expected at most; 5 or more would come once in 50 times


def test_planted_units_are_found_and_noise_is_not():
    for kind in ("heads", "neurons"):
        (_, precision, recall), (_, _, weak) = units_table(QUICK, kind, (2.0, 0.25))
        assert precision > 0.8 and recall > 0.9 and weak < 0.5
        assert sum(bool(search(kind, seed, 0.0)[0]) for seed in range(6)) <= 2


def test_intervals_are_counted_for_every_setting():
    lines = coverage_section(Size(coverage_runs=6))
    assert sum("of 6)" in line for line in lines) == 5
    assert share(5, 100).startswith("5.0% (1.6% to 11.3%")
    assert np.isfinite([float(line.split("|")[2]) for line in lines if "of 6)" in line]).all()
