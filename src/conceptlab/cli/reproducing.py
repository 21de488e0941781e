"""`conceptlab reproduce`: one published system run again, its numbers beside their controls, kept in a folder."""

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlab.cli.failing import one_line
from conceptlab.cli.loading import EMBEDDED, open_model
from conceptlab.cli.options import MODEL_DEFAULTS, ModelOptions, OutputOptions, TrialOptions
from conceptlab.cli.tables import Column, print_table
from conceptlab.errors import InputError

if TYPE_CHECKING:
    from conceptlab.catalog import Recipe
    from conceptlab.model import Model
    from conceptlab.results import Finding, Reproduction

HOME = Path("conceptlab-reproductions")


def run_reproduce(  # noqa: PLR0913 - one argument a group of options
    id: str,
    source: str | None,
    data: Path | None,
    out: Path | None,
    trial: TrialOptions,
    loading: ModelOptions,
    output: OutputOptions,
) -> int:
    """Run one row and print what it says; what is wrong with the input is said before anything heavy is imported."""
    from conceptlab.catalog import checked_recipe, save_reproduction

    recipe = checked_recipe(id, takes_model=source is not None, data=data)
    if source is None and loading != MODEL_DEFAULTS:
        raise InputError("options of the model need --model; without it the row runs on its own planted world")
    folder = out or HOME / id
    check_folder(folder)
    done = _run(recipe, source, data, trial, loading, output)
    record = save_reproduction(done, recipe, folder)
    if output.json:
        sys.stdout.write(json.dumps({**record, "out": str(folder)}, allow_nan=False) + "\n")
    else:
        _print(recipe, done, record, folder, quick=trial.quick)
    return 0


def check_folder(folder: Path) -> None:
    """Raise InputError where `folder` cannot be made or written, before the run rather than after it."""
    if "\0" in str(folder):
        raise InputError("--out holds NUL; give a folder")
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    except OSError as error:
        raise InputError(f"--out {str(folder)[:100]}: {error.strerror or error}; give another folder") from error
    if not there.is_dir():
        raise InputError(f"--out {folder}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--out {folder}: no permission to write in {there}; give another folder")


def _run(  # noqa: PLR0913 - one argument a group of options
    recipe: "Recipe",
    source: str | None,
    data: Path | None,
    trial: TrialOptions,
    loading: ModelOptions,
    output: OutputOptions,
) -> "Reproduction":
    from conceptlab.catalog import reproduce
    from conceptlab.runs import Progress, interruptible

    model = None if source is None else _model(source, loading, trial.seed)
    with (
        interruptible("models trained so far are kept in the cache, and nothing else is written"),
        Progress(quiet=output.quiet or output.json) as progress,
    ):
        progress.say(estimate(recipe, model, data, quick=trial.quick))
        return reproduce(recipe.id, model=model, data=data, quick=trial.quick, seed=trial.seed, progress=progress)


def _model(source: str, loading: ModelOptions, seed: int) -> "Model":
    return open_model(None if source == EMBEDDED else source, loading, seed=seed)


def estimate(recipe: "Recipe", model: "Model | None", data: Path | None, *, quick: bool) -> str:
    """One line before the run: which form, on what, and how long it took where it was measured."""
    from conceptlab.catalog import expected_seconds
    from conceptlab.runs.estimate import duration

    given = [one_line(name) for name in (model and model.name, data) if name]
    seconds = expected_seconds(recipe.id, quick=quick)
    time = f"about {duration(seconds)} on two CPU cores" if seconds else "a few seconds" if quick else "minutes"
    if given:
        time = f"no estimate for your own model or data; {time} on the planted world"
    return f"{recipe.id}, {'quick' if quick else 'full'} form on {' and '.join(given) or recipe.world}: {time}"


def _print(recipe: "Recipe", done: "Reproduction", record: dict[str, Any], folder: Path, *, quick: bool) -> None:
    from conceptlab.runs.estimate import duration

    print(f"claim: {one_line(recipe.claim)}")
    columns = [Column("finding"), Column("ours", "right"), Column("95 %"), Column("control", "right"), Column("bar"),
               Column("verdict")]  # fmt: skip
    print_table(f"{done.id}: our numbers beside their controls", columns, [finding_row(f) for f in done.findings])
    print(f"control: {one_line(recipe.control)}")
    for note in (*done.notes, *done.provenance.warnings):
        print(f"note: {one_line(note)}")
    print(f"verdict: {verdict(done)}")
    print(f"time: {duration(done.seconds)}, {'quick' if quick else 'full'} form")
    counts = f"results: {len(record['results'])}, charts: {len(record['charts'])}"
    print(f"saved: {one_line(folder / 'reproduction.json')} ({counts})")


def verdict(done: "Reproduction") -> str:
    """In words: what holds, and what does not."""
    judged = [f for f in done.findings if f.holds is not None]
    failed = [one_line(f.name) for f in judged if not f.holds]
    if failed:
        return f"does NOT hold in {len(failed)} of {len(judged)} findings: {', '.join(failed)}"
    return (
        f"holds ({len(judged)} of {len(judged)} findings)" if judged else "none asked for; the intervals are the result"
    )


def finding_row(finding: "Finding") -> tuple[str, ...]:
    """One finding as cells of the table."""
    said = {True: "holds", False: "does NOT hold", None: "no verdict"}[finding.holds]
    interval = "" if finding.low is None or finding.high is None else f"{shown(finding.low)} to {shown(finding.high)}"
    unit = f" {finding.unit}" if finding.unit else ""
    return (finding.name, f"{shown(finding.value)}{unit}", interval, shown(finding.control), finding.bar, said)


def shown(value: float | None) -> str:
    """A number with three digits that say something; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.0f}" if math.isfinite(value) and abs(value) >= 1000 else f"{value:.3g}"
