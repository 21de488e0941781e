"""The faithfulness curve: a valid specification with every size, its interval, and the random circuits below it."""

import numpy as np
import xarray as xr

from conceptlab.plot import chart_of
from conceptlab.results import Provenance, Scores

SIZES = [0.01, 0.1, 1.0]


def curve():
    score = np.array([[0.4, 0.9, 1.0], [0.5, 1.2, 1.0]])
    columns = {"score": score, "low": score - 0.1, "high": score + 0.1, "control": score / 4, "n_edges": score * 100}
    columns |= {"control_low": score / 8, "control_high": score / 2, "n_connected": score * 90}
    data = xr.Dataset(
        {name: (("order", "size"), values) for name, values in columns.items()},
        coords={"order": ["magnitude", "signed"], "size": SIZES},
        attrs={"cpr": 0.9, "cpr_random": 0.2, "cmd": 0.15, "cmd_random": 0.8},
    )
    return Scores(data, Provenance("circuit faithfulness", n=8, seed=0))


def test_a_curve_draws_itself_with_its_control():
    chart = chart_of(curve())
    assert chart is not None and len(chart.rows) == 6
    chart.altair()  # checks the specification
    panels = {row["panel"] for row in chart.rows}
    assert any("CMD 0.15, random 0.80" in panel for panel in panels) and any("CPR 0.90" in panel for panel in panels)
    assert all(row["control"] < row["score"] for row in chart.rows)


def test_it_can_be_written_as_a_picture(tmp_path):
    path = chart_of(curve()).save(tmp_path / "curve.png")
    assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 10_000
