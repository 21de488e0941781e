"""`conceptlab atlas show` and `conceptlab atlas export`: what was saved, again."""

import json
import sys
from pathlib import Path

from conceptlab.cli.summary import as_record, print_atlas
from conceptlab.errors import InputError


def run_show(folder: Path, *, as_json: bool) -> int:
    """Print a saved atlas. Raises ResultError where the folder holds none, or a damaged one."""
    from conceptlab.atlas import Atlas

    loaded = Atlas.load(folder)
    if as_json:
        sys.stdout.write(json.dumps(as_record(loaded), allow_nan=False) + "\n")
    else:
        print_atlas(loaded)
    return 0


def run_export(folder: Path, to: Path) -> int:
    """Write the charts of a saved atlas and print where they are."""
    if to.exists() and not to.is_dir():
        raise InputError(f"--to {to} is a file; give a folder")
    from conceptlab.atlas import Atlas

    loaded = Atlas.load(folder)
    from conceptlab.atlas.export import export_charts

    written = export_charts(loaded, to)
    print(f"{len(written)} files in {to}")
    return 0
