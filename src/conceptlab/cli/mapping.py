"""`conceptlab map`: read the labels, load the model, make the atlas, print what it says."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlab.cli.loading import open_model
from conceptlab.cli.options import ModelOptions, OutputOptions, RunOptions
from conceptlab.cli.summary import print_atlas, print_record
from conceptlab.errors import InputError

if TYPE_CHECKING:
    from conceptlab.data import ConceptSet

HOME = Path("conceptlab-atlas")


def run_map(  # noqa: PLR0913 - one argument a group of options
    source: str | None,
    concepts: Path | None,
    out: Path | None,
    loading: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> int:
    """Make an atlas and print it; what is wrong with the input is said before the model is loaded."""
    concept_set = None if concepts is None else _labelled(concepts)
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    model = open_model(source, loading, seed=run.seed)
    concept_set = concept_set or _embedded_concepts()
    folder = out or HOME / default_name(model.name, concept_set.name, loading.random_weights)

    from conceptlab.atlas import map_concepts
    from conceptlab.runs import Progress

    with Progress(quiet=output.quiet or output.json) as progress:
        optional = {} if run.permutations is None else {"permutations": run.permutations}
        atlas = map_concepts(
            model, concept_set, seed=run.seed, out=folder, progress=progress, quick=run.quick, **optional
        )
    if output.json:
        print_record(atlas)
    else:
        print_atlas(atlas, folder)
    return 0


def default_name(model: str, data: str, random_weights: bool) -> str:
    """`<model>-<data>` as one folder name; an organisation's slash and anything odd become a dash."""
    parts = [model, "random-weights", data] if random_weights else [model, data]
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-.") or "unnamed" for part in parts)[:150]


def _labelled(path: Path) -> "ConceptSet":
    from conceptlab.data import read_concepts

    return read_concepts(path)


def _embedded_concepts() -> "ConceptSet":
    from conceptlab.worlds.default import default_concepts

    return default_concepts()
