"""Run one published system again: find its recipe by the row's id, check what it is given, run it, take the time."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlab.catalog.papers import paper
from conceptlab.catalog.recipes import Recipe
from conceptlab.errors import DataError, InputError, ResultError
from conceptlab.runs import SILENT, Progress

if TYPE_CHECKING:
    from conceptlab.model import Model
    from conceptlab.results import Reproduction

SECONDS_FILE = Path(__file__).parent / "seconds.json"
EMBEDDED = "embedded"  # the name of the embedded model where a model is asked for


def reproduce(  # noqa: PLR0913 - one experiment, fully stated
    id: str,
    *,
    model: "Model | str | None" = None,
    data: Path | str | None = None,
    quick: bool = False,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> "Reproduction":
    """Run the recipe of one row; every number comes beside its control.

    `model` (a loaded model, a Hugging Face id, a folder, or "embedded") and `data` replace the planted world where the
    recipe takes them; `quick` asks for the form of at most ten seconds; trained models are kept in `cache` (None: the
    user's cache). Raises InputError: an id that is unknown or not built, a model or data that the recipe does not take,
    a file that is not there.
    """
    data = None if data is None else Path(data)
    recipe = checked_recipe(id, takes_model=model is not None, data=data)
    run = runner(recipe)
    from conceptlab.recipes import Setup

    loaded = _loaded(model) if isinstance(model, str) else model
    setup = Setup(quick=quick, seed=seed, model=loaded, data=data, cache=cache, progress=progress)
    started = time.perf_counter()
    done: Reproduction = run(setup)
    if done.id != id:
        raise ResultError(f"the recipe of {id} returned the numbers of {done.id!r}; correct {recipe.module}.py")
    return replace(done, seconds=time.perf_counter() - started)


def checked_recipe(id: str, *, takes_model: bool = False, data: Path | None = None) -> Recipe:
    """The recipe of a row that is given what it takes. Raises InputError otherwise; nothing heavy is imported."""
    row = paper(id)
    if row.recipe is None:
        raise InputError(
            f"{id} is not built: it has a row in the catalogue and no recipe yet; conceptlab papers --state works lists what runs"
        )
    if row.state == "method":
        raise InputError(f"{id} has no recipe yet; its method runs with: {row.recipe.run}")
    if takes_model and not row.recipe.model:
        raise InputError(f"{id} takes no model: it runs on {row.recipe.world}; leave --model out")
    if data is not None:
        _check_data(row.recipe, data)
    return row.recipe


def runner(recipe: Recipe) -> "Callable[[Any], Reproduction]":
    """The function `reproduce(setup)` of the recipe's module, which is imported here."""
    return import_module(f"conceptlab.recipes.{recipe.module}").reproduce


def expected_seconds(id: str, *, quick: bool) -> float | None:
    """How long the form took on the planted world when it was last measured, None where it was not."""
    return _measured().get(id, {}).get("quick" if quick else "full")


@cache
def _measured() -> dict[str, dict[str, float]]:
    return json.loads(SECONDS_FILE.read_text(encoding="utf-8"))


def _check_data(recipe: Recipe, data: Path) -> None:
    if not recipe.data:
        raise InputError(f"{recipe.id} takes no data file: it runs on {recipe.world}; leave --data out")
    try:
        there = data.exists()
    except (OSError, ValueError) as error:
        raise DataError(f"{str(data)[:100]!r}: cannot be opened ({error}); check the path") from error
    if not there:
        raise DataError(f"{data}: no such file; {recipe.id} expects {recipe.data}")


def _loaded(name: str) -> "Model":
    from conceptlab.model import load_model

    if name == EMBEDDED:
        from conceptlab.worlds.default import default_model_path

        model = load_model(str(default_model_path()))
        model.name = EMBEDDED
        return model
    return load_model(name)
