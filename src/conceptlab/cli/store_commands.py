"""The commands about stores of activations, as cyclopts reads them; nothing heavy is imported before one runs."""

from pathlib import Path
from typing import Literal

from cyclopts import App

from conceptlab.cli.options import MODEL_DEFAULTS, OUTPUT_DEFAULTS, Flag, ModelOptions, OutputOptions

store = App(name="store", help="Look at, check, repair and export stores of activations.", help_format="plaintext")


@store.command
def info(store: str, *, json: Flag = False) -> int:
    """Say what a store holds and how much of it is finished.

    Parameters
    ----------
    store
        A folder or URL that `conceptlab harvest` wrote.
    json
        Print exactly one JSON object on standard output.
    """
    from conceptlab.cli.stores import run_info

    return run_info(store, as_json=json)


@store.command
def statistics(store: str, unit: str | None = None, *, output: OutputOptions = OUTPUT_DEFAULTS) -> int:
    """Say what the units of a store did: a line a layer, or all of one unit with the texts in which it was largest.

    Parameters
    ----------
    store
        A folder or URL that `conceptlab harvest` wrote with --statistics.
    unit
        One unit as site/layer/unit: resid_post/3/17, or embed/17.
    """
    from conceptlab.cli.store_statistics import run_statistics

    return run_statistics(store, unit, output)


@store.command
def verify(store: str, *, output: OutputOptions = OUTPUT_DEFAULTS) -> int:
    """Read every byte of a store and compare it with what was written. The exit code is 1 where anything is damaged.

    Parameters
    ----------
    store
        A folder or URL that `conceptlab harvest` wrote.
    """
    from conceptlab.cli.stores import run_verify

    return run_verify(store, output)


@store.command
def repair(
    store: str,
    *,
    model: str | None = None,
    corpus: str | None = None,
    loading: ModelOptions = MODEL_DEFAULTS,
    output: OutputOptions = OUTPUT_DEFAULTS,
) -> int:
    """Verify a store, and compute again what is damaged and nothing else.

    Parameters
    ----------
    store
        A folder or URL that `conceptlab harvest` wrote.
    model
        Where the model is now. Default: where it was when the store was made.
    corpus
        Where the corpus is now, needed only where tokens or the plan are damaged. Default: where it was.
    """
    from conceptlab.cli.stores import run_repair

    return run_repair(store, model, corpus, loading, output)


@store.command(name="export")
def export_store(
    store: str,
    to: Path,
    *,
    layout: Literal["parquet", "npy", "saelens", "statistics"] = "parquet",
    output: OutputOptions = OUTPUT_DEFAULTS,
) -> int:
    """Write a store in another layout.

    Parameters
    ----------
    store
        A folder or URL that `conceptlab harvest` wrote.
    to
        A new folder.
    layout
        parquet, npy (one array a layer), saelens (its folder of cached activations, one a layer), or statistics (a Parquet file a
        layer with one row a unit: moments, quantiles, the largest values and their tokens).
    """
    from conceptlab.cli.stores import run_export_store

    return run_export_store(store, to, layout, output)
