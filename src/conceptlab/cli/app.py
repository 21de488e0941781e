"""The commands and their options, as cyclopts reads them; nothing heavy is imported before a command runs."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from conceptlab.cli.options import (
    HARVEST_DEFAULTS,
    LAUNCH_DEFAULTS,
    MODEL_DEFAULTS,
    OUTPUT_DEFAULTS,
    RUN_DEFAULTS,
    TRIAL_DEFAULTS,
    VIEW_DEFAULTS,
    Flag,
    HarvestOptions,
    LaunchOptions,
    ModelOptions,
    OutputOptions,
    RunOptions,
    TrialOptions,
    ViewOptions,
)
from conceptlab.cli.store_commands import store

HELP = """Where a neural network keeps a concept, whether it uses it, and how sure we are.

Exit codes: 0 done, 1 the run failed (resumable), 2 the input or the command is wrong, 130 interrupted."""

FILE_HELP = (
    "Labelled file (CSV, Parquet, JSONL). Columns: text, label; optional concept (several in one file; default one, named "
    "after the file), group (rows that must share a fold; default each row alone, repeated texts together), start and end "
    "(characters to read; default the last real token), words (label words of the row's class, comma separated or a list; "
    "default none: effects are read on the whole next-token distribution). Numbers with more than 10 distinct values, or "
    "with a fraction, are a graded label; other numbers, booleans and names are classes. Default: the embedded concepts."
)

PAIRS_HELP = (
    "File of pairs (CSV, JSONL or JSON) with the columns clean, corrupted (texts of equal token length that end before the "
    "answer), answer and distractor (the next word of the clean text, and the one it stands against)."
)


def _version() -> str:
    from importlib.metadata import version

    return version("conceptlab")


app = App(name="conceptlab", help=HELP, version=_version, help_format="plaintext", suppress_keyboard_interrupt=False)
models = App(name="models", help="Look at models.", help_format="plaintext")
atlas = App(name="atlas", help="Look at saved atlases.", help_format="plaintext")
find = App(name="find", help="Find heads or neurons by what they do.", help_format="plaintext")
app.command(models)
app.command(atlas)
app.command(find)
app.command(store)


@app.command(name="map")
def map_(
    model: str | None = None,
    *,
    concepts: Annotated[Path | None, Parameter(help=FILE_HELP)] = None,
    out: Path | None = None,
    loading: ModelOptions = MODEL_DEFAULTS,
    run: RunOptions = RUN_DEFAULTS,
    output: OutputOptions = OUTPUT_DEFAULTS,
) -> int:
    """Map the concepts of a labelled file in a model: an atlas, its report, and a table.

    Parameters
    ----------
    model
        A Hugging Face id or a local folder. Default: the embedded model.
    out
        Folder of the atlas; a run that was stopped goes on there. Default: ./conceptlab-atlas/<model>-<data>.
    """
    from conceptlab.cli.mapping import run_map

    return run_map(model, concepts, out, loading, run, output)


@app.command
def explain(
    model: str,
    *,
    pairs: Annotated[Path, Parameter(help=PAIRS_HELP)],
    out: Path | None = None,
    n_exact: int = 300,
    seed: int = 0,
    loading: ModelOptions = MODEL_DEFAULTS,
    output: OutputOptions = OUTPUT_DEFAULTS,
) -> int:
    """Find the few edges between heads and MLPs that explain a behaviour, and say how sure that is.

    Gradients rank all edges, exact patching re-ranks the top part, and pairs that chose nothing decide; the circuit runs
    alone beside random circuits of equal size.

    Parameters
    ----------
    model
        A Hugging Face id or a local folder.
    out
        Folder for the circuit, its picture and its page. Default: ./conceptlab-explanations/<model>-<file>.
    n_exact
        How many edges are patched exactly.
    seed
        Seed of the halves, resamples and random controls.
    """
    from conceptlab.cli.explaining import run_explain

    return run_explain(model, pairs, out, n_exact, seed, loading, output)


@find.command
def heads(
    model: str,
    *,
    detector: str | None = None,
    atlas: Flag = False,
    out: Path | None = None,
    top: int = 20,
    seed: int = 0,
    loading: ModelOptions = MODEL_DEFAULTS,
    output: OutputOptions = OUTPUT_DEFAULTS,
) -> int:
    """Rank every attention head by what it does, each score beside the same statistic where there is nothing.

    Parameters
    ----------
    model
        A Hugging Face id or a local folder.
    detector
        Names of detectors, comma separated. Default: all; those that cannot ask this model are named.
    atlas
        Draw up the head atlas, too: take every head away once for each task that a role is for; one picture, atlas.png.
    out
        Folder for the rankings and their pictures. Default: ./conceptlab-findings/<model>-heads.
    top
        How many of each ranking stand in the JSON record.
    seed
        Seed of the random words.
    """
    from conceptlab.cli.finding import run_find

    return run_find("head", model, detector, out, top, seed, loading, output, atlas=atlas)


@find.command
def neurons(
    model: str,
    *,
    detector: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
    top: int = 20,
    seed: int = 0,
    loading: ModelOptions = MODEL_DEFAULTS,
    output: OutputOptions = OUTPUT_DEFAULTS,
) -> int:
    """Rank every MLP neuron by what it does, each score beside the same statistic where there is nothing.

    Parameters
    ----------
    model
        A Hugging Face id or a local folder.
    detector
        Names of detectors, comma separated. Default: all; those that cannot ask this model are named.
    data
        Labelled texts, in the form of conceptlab map --concepts: the detector expert ranks the neurons of every concept in them
        (of every class, where there are more than two) by average precision, from one pass over the texts.
    out
        Folder for the rankings and their pictures. Default: ./conceptlab-findings/<model>-neurons.
    top
        How many of each ranking stand in the JSON record.
    seed
        Seed of what is drawn.
    """
    from conceptlab.cli.finding import run_find

    return run_find("neuron", model, detector, out, top, seed, loading, output, data=data)


@models.command
def check(
    model: str,
    *,
    loading: ModelOptions = MODEL_DEFAULTS,
    output: OutputOptions = OUTPUT_DEFAULTS,
) -> int:
    """Print which sites a model has, why one is missing, and the identities that were tested, with their errors.

    Parameters
    ----------
    model
        A Hugging Face id or a local folder.
    """
    from conceptlab.cli.checking import run_check

    return run_check(model, loading, output)


@atlas.command
def show(folder: Path, *, json: Flag = False) -> int:
    """Print the table of a saved atlas.

    Parameters
    ----------
    folder
        What `conceptlab map` wrote.
    json
        Print one JSON object, the same as `conceptlab map --json`.
    """
    from conceptlab.cli.atlases import run_show

    return run_show(folder, as_json=json)


@atlas.command
def export(folder: Path, *, to: Path) -> int:
    """Write every chart of a saved atlas as PNG, SVG and CSV.

    Parameters
    ----------
    folder
        What `conceptlab map` wrote.
    to
        Folder for the files.
    """
    from conceptlab.cli.atlases import run_export

    return run_export(folder, to)


@app.command
def papers(
    id: str | None = None,
    *,
    family: str | None = None,
    state: Literal["works", "method", "planned"] | None = None,
    json: Flag = False,
) -> int:
    """List the published systems and what of them runs here, or show one: claim, our number, control, how to run it.

    Parameters
    ----------
    id
        One row. Default: the table of all.
    family
        Only the rows of one family (a column of the table).
    state
        Only rows in that state. works: a recipe runs it again; method: its method runs by another command; planned:
        not built yet.
    json
        Print exactly one JSON object on standard output.
    """
    from conceptlab.cli.papers import run_papers

    return run_papers(id, family, state, as_json=json)


@app.command
def reproduce(
    id: str,
    *,
    model: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
    trial: TrialOptions = TRIAL_DEFAULTS,
    loading: ModelOptions = MODEL_DEFAULTS,
    output: OutputOptions = OUTPUT_DEFAULTS,
) -> int:
    """Run one published system again: the claim, our numbers beside their controls, the verdict, the time.

    The exit code is 0 also when a finding does not hold; the table and the JSON say so.

    Parameters
    ----------
    id
        A row of `conceptlab papers` whose state is "works".
    model
        A Hugging Face id, a local folder, or "embedded", for rows that take one. Default: the row's planted world.
    data
        A file in the form that `conceptlab papers ID` names, for rows that take one. Default: the row's planted world.
    out
        Folder for the numbers, results and charts. Default: ./conceptlab-reproductions/<id>.
    """
    from conceptlab.cli.reproducing import run_reproduce

    return run_reproduce(id, model, data, out, trial, loading, output)


@app.command
def harvest(
    model: str,
    corpus: str,
    store: str,
    *,
    what: HarvestOptions = HARVEST_DEFAULTS,
    launch: LaunchOptions = LAUNCH_DEFAULTS,
    loading: ModelOptions = MODEL_DEFAULTS,
    output: OutputOptions = OUTPUT_DEFAULTS,
) -> int:
    """Store the activations of a corpus: planned and estimated first, in shards that are whole or absent, resumable at any moment.

    The same command goes on where it was stopped, also with other workers; several may run on one store at once.

    Parameters
    ----------
    model
        A Hugging Face id, a local folder, or "embedded".
    corpus
        A Parquet, JSONL, CSV or text file (also .gz), a folder or pattern of them, any fsspec URL, or datasets:NAME.
    store
        A folder or any fsspec URL such as s3://bucket/name.
    """
    from conceptlab.cli.harvesting import run_command

    return run_command(model, corpus, store, what, launch, loading, output)


@app.command
def view(
    *sources: str,
    model: str | None = None,
    concepts: Annotated[Path | None, Parameter(help=FILE_HELP)] = None,
    no_model: Flag = False,
    serving: ViewOptions = VIEW_DEFAULTS,
    loading: ModelOptions = MODEL_DEFAULTS,
    verbose: Flag = False,
) -> int:
    """Open atlases and the live model behind them in the browser, served from this machine to this machine only.

    Prints one line with the address. Ctrl-C ends it with exit code 0: nothing is lost, and every address opens the same view again.

    Parameters
    ----------
    sources
        Folders that conceptlab map, find or explain wrote, or one that holds some, and at most one model (a Hugging Face id or
        a local folder). Default: every atlas in ./conceptlab-atlas, else the embedded model alone.
    model
        The live model: a Hugging Face id, a local folder, or "embedded". Default: the model of the first atlas.
    no_model
        Look at atlases only; nothing is computed.
    verbose
        Let the server log on standard error, too.
    """
    from conceptlab.cli.viewing import run_view

    return run_view(sources, model, concepts, serving, loading, no_model=no_model, verbose=verbose)
