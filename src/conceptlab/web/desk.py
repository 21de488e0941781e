"""What the viewer has open: atlases, the live model, labelled texts, circuits, notes and jobs, each found by its id."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from conceptlab.errors import ConceptlabError, ModelError

if TYPE_CHECKING:
    from conceptlab.model import Model


class LiveModel:
    """The model behind the pages, loaded by another thread so that the first page comes at once.

    `state`: loading, ready or failed; `said`: one line for the reader.
    """

    def __init__(self, name: str, load: "Callable[[], Model]") -> None:
        self.name, self.state, self.said = name, "loading", "is being loaded"
        self._model: Model | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, args=(load,), name="load-model", daemon=True).start()

    @property
    def model(self) -> "Model":
        """The model; for jobs only, since it waits until it is loaded. Raises ModelError where it could not be."""
        self._done.wait()
        if self._model is None:
            raise ModelError(f"the model {self.name} could not be loaded: {self.said}")
        return self._model

    def _run(self, load: "Callable[[], Model]") -> None:
        try:
            self._model = load()
            self.state, self.said = "ready", "ready"
        except ConceptlabError as error:
            self.state, self.said = "failed", str(error)
        except Exception as error:  # noqa: BLE001 - whatever it was, the pages say so and the atlas stays readable
            self.state, self.said = "failed", f"{type(error).__name__}: {error}"
        finally:
            self._done.set()


@dataclass(eq=False)
class Desk:
    """Everything that pages look at. Ids are looked up here and never become part of a path."""

    jobs: Any
    live: LiveModel | None = None
    atlases: dict[str, Any] = field(default_factory=dict)
    concept_set: Any = None
    circuits: dict[str, Any] = field(default_factory=dict)
    findings: dict[str, Any] = field(default_factory=dict)
    notes: Any = None

    def atlas(self, id: str | None = None) -> Any:
        """The atlas of that id; without one the first. Raises a 404 that lists those there are."""
        if not self.atlases:
            raise HTTPException(404, "no atlas is open; give one to conceptlab view, or make one with conceptlab map")
        if not id:
            return next(iter(self.atlases.values()))
        if id not in self.atlases:
            raise HTTPException(404, f"there is no atlas {id[:60]!r}; open are {', '.join(self.atlases)}")
        return self.atlases[id]

    def model(self) -> LiveModel:
        """The live model. Raises a 404 where the viewer was started without one."""
        if self.live is None:
            raise HTTPException(404, "there is no live model: conceptlab view was started with --no-model")
        return self.live
