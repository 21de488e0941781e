"""The viewer from Python or a notebook: the server of `conceptlab view` in a thread of its own, on this machine only."""

import threading
import webbrowser
from functools import partial
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from conceptlab.atlas import Atlas
from conceptlab.errors import InputError, RunError
from conceptlab.model import Model
from conceptlab.web.app import create_app
from conceptlab.web.desk import LiveModel, open_desk
from conceptlab.web.guard import GuardSettings, new_token
from conceptlab.web.serving import Later, address_of, listen, run, server_of

if TYPE_CHECKING:
    from conceptlab.data import ConceptSet
    from conceptlab.web.desk import Desk

START = 30.0  # seconds


class Viewer:
    """A running viewer: `url` opens it, `close()` ends it; a context manager, and a link in a notebook."""

    def __init__(self, desk: "Desk", port: int | None, folder: "TemporaryDirectory[str] | None" = None) -> None:
        self.desk, self._folder = desk, folder
        listener, settings, answers = listen("127.0.0.1", port), GuardSettings(new_token()), threading.Event()
        self.url = address_of(listener, settings.token)
        later = Later(lambda: (create_app(desk), partial(desk.jobs.close, 1.0)))
        self._server = server_of(later, settings, on_start=answers.set)
        given = (self._server, listener, later)
        self._thread = threading.Thread(target=run, args=given, name="conceptlab viewer", daemon=True)
        self._thread.start()
        if not answers.wait(START):
            self.close()
            raise RunError("the viewer did not start; try conceptlab view in a terminal, which says more")

    @property
    def running(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the server and its work; a second time nothing happens."""
        self._server.stop()
        self._thread.join(10)
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Viewer({self.url})" if self.running else "Viewer(closed)"

    def _repr_html_(self) -> str:
        at = escape(self.url, quote=True)
        return f'<a href="{at}" target="_blank" rel="noopener">{at}</a>' if self.running else "closed"


def view(
    *shown: "Atlas | Model | Path | str",
    concepts: "ConceptSet | None" = None,
    open_browser: bool = True,
    port: int | None = None,
) -> Viewer:
    """Show atlases (made, or folders that `map_concepts` wrote) and at most one loaded model; `concepts` are the labelled texts.

    The server listens on 127.0.0.1 only and its address holds a random token. Close it, or use it in a `with`.
    Raises InputError for anything else that is to be shown, for two models, a folder without results, or a taken port.
    """
    models = [one for one in shown if isinstance(one, Model)]
    odd = [one for one in shown if not isinstance(one, (Atlas, Model, Path, str))]
    if odd or not shown or len(models) > 1:
        what = type(odd[0]).__name__ if odd else f"{len(models)} models" if models else "nothing"
        raise InputError(f"view shows atlases, folders of atlases and one model, not {what}; give at least one of them")
    kept = TemporaryDirectory(prefix="conceptlab-view-")
    folders = [_folder_of(one, i, Path(kept.name)) for i, one in enumerate(shown) if not isinstance(one, Model)]
    live = LiveModel(models[0].name, lambda: models[0]) if models else None
    viewer = Viewer(open_desk(folders, live=live, concept_set=concepts), port, kept)
    if open_browser:
        threading.Thread(target=webbrowser.open, args=(viewer.url,), name="open-browser", daemon=True).start()
    return viewer


def _folder_of(one: "Atlas | Path | str", number: int, kept: Path) -> Path:
    """Where an atlas lies; one that is only in memory is written into `kept` first."""
    if isinstance(one, Atlas):
        at = kept / f"atlas-{number + 1}"
        one.save(at)
        return at
    if not Path(one).is_dir():
        raise InputError(f"there is no folder {str(one)[:200]!r}; give an atlas, or a folder that map_concepts wrote")
    return Path(one)
