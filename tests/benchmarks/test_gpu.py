"""The benchmark for a GPU runs through on the CPU with small models and keeps every row as it comes. No speed is asserted."""

import json
import math

import torch

from benchmarks.gpu.__main__ import PARTS, measure
from benchmarks.gpu.record import Record


def test_the_small_form_measures_every_part(tmp_path) -> None:
    record = Record(tmp_path, torch.device("cpu"))
    measure(record, torch.device("cpu"), list(PARTS), tiny=True)
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert kept["rows"] == json.loads(json.dumps(record.rows))
    assert not [row for row in record.rows if "error" in row]
    shares = [row["share_of_slowest"] for row in record.rows if "share_of_slowest" in row]
    sweeps = [row for row in record.rows if "plain_tflop" in row]
    assert len(shares) == 2 and all(share > 0 for share in shares)
    assert len(sweeps) == 6 and all(row["tflop"] < row["plain_tflop"] and math.isfinite(row["ms"]) for row in sweeps)
    maps = [row for row in record.rows if row["section"].startswith("Neurons")]
    assert len(maps) == 2 and all(row["s"] > 0 and row["tflop"] == 2 * 128 * 200 * 32 / 1e12 for row in maps)
    assert all(row["met"] for row in record.rows if row["what"].endswith("float32"))
    assert (tmp_path / "gpu.md").read_text().count("\n## ") == 7


def test_what_fails_is_a_row_and_the_rest_goes_on(tmp_path) -> None:
    record = Record(tmp_path, torch.device("cpu"))
    record.guarded("a", "b", lambda: [][1])
    record.add("a", "c", ms=1.5)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert rows[0]["error"].startswith("IndexError") and rows[1]["ms"] == 1.5
