"""`conceptlab models check`: the sites of a model and the identities that were tested on it."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from conceptlab.cli.failing import FAILED
from conceptlab.cli.loading import open_model
from conceptlab.cli.options import ModelOptions, OutputOptions
from conceptlab.cli.tables import Column, print_table


def run_check(source: str, loading: ModelOptions, output: OutputOptions) -> int:
    """Print the check of one model; 1 when an identity fails."""
    record = open_model(source, loading).check().to_record()
    if output.json:
        sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
    else:
        _print_sites(record)
        _print_identities(record)
    if record["passed"]:
        return 0
    failed = [
        identity["name"] for identity in record["identities"] if identity["error"] is not None and not identity["holds"]
    ]
    sys.stderr.write(f"error: {record['model']}: does not hold: {'; '.join(failed)}; do not rely on these sites\n")
    return FAILED


def _print_sites(record: Mapping[str, Any]) -> None:
    rows = [(name, *_where(layers, record["n_layers"])) for name, layers in record["sites"].items()]
    title = f"{record['model']} @ {record['revision']}: {record['n_layers']} layers"
    print_table(title, [Column("site"), Column("layers"), Column("why missing")], rows)


def _where(layers: list[int] | str, n_layers: int) -> tuple[str, str]:
    if isinstance(layers, str):
        return "-", layers
    if not layers:
        return "end of the stream", ""
    if len(layers) == n_layers:
        return "all", ""
    return ", ".join(map(str, layers)), ""


def _print_identities(record: Mapping[str, Any]) -> None:
    rows = []
    for identity in record["identities"]:
        error = identity["error"]
        said = "not tested" if error is None else "holds" if identity["holds"] else "FAILS"
        measured = "" if error is None else f"{error:.2g}"
        rows.append((identity["name"], measured, f"{identity['limit']:.2g}", said, identity["note"]))
    columns = [Column("identity"), Column("error", "right"), Column("limit", "right"), Column("result"), Column("note")]
    print_table("identities, largest relative error", columns, rows)
