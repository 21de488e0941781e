"""The recipes that exist: one module a published system in `conceptlab/recipes`, known by its literal `RECIPE`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptlab.catalog.literals import literals
from conceptlab.errors import InputError

KEYS = ("id", "claim", "number", "control", "world", "model", "data", "methods")


@dataclass(frozen=True)
class Recipe:
    """How one row is run. `model` and `data` say what `--model` and `--data` take, empty where the recipe takes none.

    `methods` are files below the package without their ending; `run` is the command line.
    """

    id: str
    claim: str
    number: str
    control: str
    world: str
    model: str
    data: str
    methods: tuple[str, ...]
    run: str

    @property
    def module(self) -> str:
        """The name of the recipe's module."""
        return self.id.replace("-", "_")


def recipes() -> dict[str, Recipe]:
    """Every recipe by its id, found by walking the folder. Raises InputError where a `RECIPE` lacks a key."""
    import conceptlab.recipes as home  # light: only what a recipe is given

    found = [_recipe(path, said) for folder in home.__path__ for path, said in literals(Path(folder), "RECIPE")]
    return {recipe.id: recipe for recipe in found}


def _recipe(path: Path, said: dict[str, Any]) -> Recipe:
    missing = [key for key in KEYS if key not in said]
    if missing:
        raise InputError(f"{path}: RECIPE lacks {', '.join(missing)}; it needs {', '.join(KEYS)}")
    if path.stem != said["id"].replace("-", "_"):
        raise InputError(f"{path}: RECIPE has the id {said['id']!r}; name the file {said['id'].replace('-', '_')}.py")
    values = {key: said[key] for key in KEYS}
    return Recipe(**{**values, "methods": tuple(said["methods"])}, run=f"conceptlab reproduce {said['id']}")
