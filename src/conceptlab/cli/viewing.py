"""`conceptlab view`: what is opened, where it is served, and the one line that says so; bad input is told before anything loads."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from conceptlab.cli.failing import one_line, state_folder
from conceptlab.cli.loading import EMBEDDED, open_model
from conceptlab.cli.mapping import HOME
from conceptlab.cli.options import ModelOptions, ViewOptions
from conceptlab.errors import InputError

if TYPE_CHECKING:
    import socket

    from conceptlab.data import ConceptSet
    from conceptlab.web.desk import Desk
    from conceptlab.web.guard import GuardSettings

RECORDS = ("manifest.json", "found.json", "explanation.json")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


class Opened(NamedTuple):
    """What the command names: folders of results, and the model (None: that of the first atlas)."""

    folders: list[Path]
    model: str | None


def run_view(  # noqa: PLR0913 - one argument a group of options
    sources: Sequence[str],
    model: str | None,
    concepts: Path | None,
    serving: ViewOptions,
    loading: ModelOptions,
    *,
    no_model: bool,
    verbose: bool,
) -> int:
    """Serve until Ctrl-C. Raises InputError for a wrong folder, model, host, port or token."""
    opened = sorted_sources(sources, model, no_model=no_model)
    concept_set = None if concepts is None else _labelled(concepts)

    from conceptlab.web.guard import GuardSettings, new_token
    from conceptlab.web.serving import Later, check_reach, listen, logged, run, server_of

    allowed = [name.strip().strip("[]").lower() for name in serving.allow_host or []]
    check_reach(serving.host, allowed, serving.token)
    with listen(serving.host, serving.port) as listener, logged(state_folder(), verbose=verbose):
        settings = GuardSettings(serving.token or new_token(), frozenset(allowed))
        later = Later(partial(made, opened, concept_set, loading, no_model=no_model))
        begin = partial(say_where, listener, settings, allowed, browser=not serving.no_browser)
        run(server_of(later, settings, on_start=begin), listener, later)
    return 0


def made(
    opened: Opened, concept_set: "ConceptSet | None", loading: ModelOptions, *, no_model: bool
) -> tuple[Any, Callable[[], None]]:
    """The application over what the command names, and what closes it."""
    from conceptlab.web.app import create_app

    desk = open_everything(opened, concept_set, loading, no_model=no_model)
    return create_app(desk), partial(desk.jobs.close, 1.0)


def _labelled(path: Path) -> "ConceptSet":
    from conceptlab.data import read_concepts

    return read_concepts(path)


def sorted_sources(sources: Sequence[str], model: str | None, *, no_model: bool) -> Opened:
    """Tell folders of results from a model. Raises InputError where one is neither, or there are two models."""
    folders = [Path(source) for source in sources if not is_model(source)]
    models = [source for source in sources if is_model(source)] + ([] if model is None else [model])
    if len(models) > 1:
        raise InputError(f"the viewer shows one live model, not {' and '.join(models)[:200]}; name one of them")
    if model is not None and not is_model(model):
        raise InputError(
            f"--model {model[:200]} is a folder without a config.json; give a model's folder or its Hugging Face id"
        )
    if models and no_model:
        raise InputError(f"--no-model excludes the model {models[0][:100]}; leave one of them out")
    if not sources and HOME.is_dir() and any((found / "manifest.json").is_file() for found in HOME.iterdir()):
        folders = [HOME]
    if no_model and not folders:
        raise InputError(
            f"there is no atlas in ./{HOME} and no model is wanted; make one with conceptlab map, or name one"
        )
    for folder in folders:
        if not holds_results(folder) and not any(holds_results(inside) for inside in folder.iterdir()):
            raise InputError(f"{folder} holds no atlas; give a folder that conceptlab map, find or explain wrote")
    return Opened(folders, models[0] if models else None)


def holds_results(folder: Path) -> bool:
    """Whether one of the commands wrote its record there."""
    return any((folder / name).is_file() for name in RECORDS)


def is_model(source: str) -> bool:
    """Whether a name means a model. Raises InputError for a name that is neither a folder nor like the id of a model."""
    path = Path(source)
    try:
        if path.is_dir():
            return (path / "config.json").is_file()
        exists = path.exists()
    except (OSError, ValueError):
        exists = False
    if exists:
        raise InputError(f"{source} is a file; give the folder of an atlas or of a model")
    if source == EMBEDDED or (_ID.fullmatch(source) and not Path(path.parts[0]).exists()):
        return True
    raise InputError(
        f"there is no folder {source[:200]!r}; give one that conceptlab map wrote, a model's folder or its Hugging Face id"
    )


def open_everything(
    opened: Opened, concept_set: "ConceptSet | None", loading: ModelOptions, *, no_model: bool
) -> "Desk":
    """The desk of the command: atlases, labelled texts, notes, and the model, which goes on loading in a thread of its own."""
    from conceptlab.web.desk import LiveModel, open_desk
    from conceptlab.web.notes import notes_beside

    desk = open_desk(opened.folders, concept_set=concept_set)
    desk.notes = notes_beside([shelf.folder for shelf in desk.atlases.values()], state_folder())
    source = opened.model or next((shelf.model_name for shelf in desk.atlases.values() if not shelf.said), EMBEDDED)
    if concept_set is None:
        from conceptlab.worlds.default import default_concepts

        ours = default_concepts()
        mapped = {shelf.provenance.data_hash for shelf in desk.atlases.values() if not shelf.said}
        desk.concept_set = ours if not desk.atlases or ours.data_hash in mapped else None
    if not no_model:
        desk.live = LiveModel(shown_name(source), partial(open_model, None if source == EMBEDDED else source, loading))
    return desk


def shown_name(source: str) -> str:
    """A model's name on the pages: of a folder its own name, not where it lies."""
    return Path(source).resolve().name if Path(source).is_dir() else source


def say_where(listener: "socket.socket", settings: "GuardSettings", allowed: list[str], *, browser: bool) -> None:
    """Print the address, and how to reach it from elsewhere; open the browser where there is one."""
    from conceptlab.web.guard import is_loopback
    from conceptlab.web.serving import address_of

    host, port = listener.getsockname()[:2]
    address = address_of(listener, settings.token, None if is_loopback(host) else allowed[0])
    far = f"; over SSH, first on your machine: ssh -N -L {port}:{host}:{port} {_here()}" if is_loopback(host) else ""
    sys.stdout.write(f"{one_line(f'conceptlab view: {address} (Ctrl-C ends it{far})')}\n")
    sys.stdout.flush()
    if browser and has_browser(os.environ):
        _open(address_of(listener, settings.ticket(), None if is_loopback(host) else allowed[0]))


def _here() -> str:
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # an account without a name
        user = "USER"
    return f"{user}@{socket.gethostname()}"


def has_browser(environment: Any) -> bool:
    """Whether a browser with windows can be opened here: not over SSH, and not where there is no display."""
    if "BROWSER" in environment:
        return True
    if "SSH_CONNECTION" in environment:
        return False
    return sys.platform in ("darwin", "win32") or bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def _open(address: str) -> None:
    """Open the browser in a thread of its own; where that fails the printed line is enough."""
    import threading
    import webbrowser

    opener: Callable[[str], Any] = webbrowser.open
    threading.Thread(target=opener, args=(address,), name="open-browser", daemon=True).start()
