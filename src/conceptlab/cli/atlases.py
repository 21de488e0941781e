"""`conceptlab atlas show` and `conceptlab atlas export`: what was saved, again."""

from pathlib import Path

from conceptlab.cli.summary import print_atlas, print_record
from conceptlab.errors import InputError


def run_show(folder: Path, *, as_json: bool) -> int:
    """Print a saved atlas. Raises ResultError where the folder holds none, or a damaged one."""
    from conceptlab.atlas import Atlas

    loaded = Atlas.load(folder)
    if as_json:
        print_record(loaded)
    else:
        print_atlas(loaded, folder)
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
