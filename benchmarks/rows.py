"""`make rows`: every recipe in its full form, as a user would start it; the numbers go to docs/papers/, the times to the catalogue.

    python -m benchmarks.rows [ID ...]     some rows only, the numbers of the others stay

Each row runs in a process of its own, first the quick form, then the full one. A row that fails is named, keeps its older
numbers, and makes the exit code 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from conceptlab.catalog import recipes
from conceptlab.catalog.reproducing import SECONDS_FILE
from conceptlab.results.saving import write_bytes
from conceptlab.runs.estimate import duration

NUMBERS = Path(__file__).resolve().parents[1] / "docs" / "papers" / "numbers.json"
FINDING = ("name", "value", "unit", "low", "high", "control", "bar", "holds")
PROGRAM = "import sys; from conceptlab.cli import main; sys.exit(main())"


def run(id: str, *options: str) -> dict[str, Any] | None:
    """What `conceptlab reproduce ID --json` printed, None where it failed (its line goes to standard error)."""
    with tempfile.TemporaryDirectory() as out:
        line = [sys.executable, "-c", PROGRAM, "reproduce", id, "--json", "--out", out, *options]
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


def kept(record: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of one run."""
    findings = [{key: rounded(finding[key]) for key in FINDING} for finding in record["findings"]]
    versions = {name: record["provenance"]["versions"].get(name) for name in ("torch", "transformers")}
    head = {"holds": record["holds"], "seconds": round(record["seconds"], 1), "seed": record["provenance"]["seed"]}
    return {**head, "findings": findings, "notes": record["notes"], "versions": versions}


def rounded(value: Any) -> Any:
    """Four digits of a number: what is beyond them differs between machines."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def read(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(path: Path, values: dict[str, Any], order: list[str]) -> None:
    """Write the rows that still have a recipe, in the catalogue's order."""
    ordered = {id: values[id] for id in order if id in values}
    write_bytes(path, (json.dumps(ordered, indent=1, ensure_ascii=False) + "\n").encode())


def main() -> int:
    """Run the rows and write after each, so that what was finished stays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*")
    order = sorted(recipes())
    ids = parser.parse_args().ids or order
    numbers, seconds, failed = read(NUMBERS), read(SECONDS_FILE), []
    for id in ids:
        quick = run(id, "--quick")
        full = run(id) if quick is not None else None
        if quick is None or full is None:
            failed.append(id)
            continue
        numbers[id], seconds[id] = kept(full), {"quick": round(quick["seconds"], 1), "full": round(full["seconds"], 1)}
        print(f"{id}: holds: {full['holds']}, {duration(full['seconds'])}", flush=True)
        write(NUMBERS, numbers, order)
        write(SECONDS_FILE, seconds, order)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
