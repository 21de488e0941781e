"""What an atlas says, as the table a person reads and as the JSON object a program reads."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlab.cli.failing import one_line
from conceptlab.cli.tables import show

if TYPE_CHECKING:
    from conceptlab.atlas import Atlas


def print_record(atlas: "Atlas") -> None:
    """Print one JSON object, and nothing else, on standard output."""
    from conceptlab.atlas.table import record

    sys.stdout.write(json.dumps(record(atlas), allow_nan=False) + "\n")


def print_atlas(atlas: "Atlas", folder: Path) -> None:
    """Print the table, every score and every effect beside its control, what to be careful with, and where the files are."""
    from conceptlab.atlas.table import terminal_table

    show(terminal_table(atlas))
    for kind in dict.fromkeys(concept.effect_kind for concept in atlas.concepts if concept.effect is not None):
        print(f"effect: {one_line(kind)}")
    for concept in atlas.concepts:
        for warning in concept.warnings:
            print(f"note: {one_line(concept.name)}: {one_line(warning)}")
    print(f"atlas:  {one_line(folder)}")
    print(f"report: {one_line(folder / 'report.html')}")
