"""One file per published system: data, methods, settings, and the number beside its control.

A recipe is a module named by its row's id (hyphens become underscores) with a literal `RECIPE` and `reproduce(setup)`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlab.runs import SILENT, Progress

if TYPE_CHECKING:
    from conceptlab.model import Model


@dataclass(frozen=True)
class Setup:
    """How a recipe is run: on its planted world, or on the user's `model` and `data`.

    `quick` asks for the form of at most ten seconds; `cache` is where trained models are kept (None: the user's cache).
    """

    quick: bool = False
    seed: int = 0
    model: "Model | None" = None
    data: Path | None = None
    cache: Path | None = None
    progress: Progress = field(default=SILENT)
