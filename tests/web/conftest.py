"""A viewer as it runs: a real server on a free port over an atlas of the embedded model, and a browser that forgives nothing.

The atlas is made once (two concepts, quick) and kept beside pytest's cache. `page` fails its test when the console says an error or
when anything is asked of another machine.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import is_loopback

FEW = 3  # concepts of the atlas
WAIT = 30_000  # ms that a page may take on a busy machine


@pytest.fixture(scope="session")
def atlas_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick atlas of the embedded model over a few of its concepts; the workers of one run share it."""
    from conceptlab import default_concepts, default_model_path, load_model, map_concepts

    root = tmp_path_factory.getbasetemp()
    shared = root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root
    folder = shared / "viewer-atlas" / "embedded-few"
    with _alone(shared / "viewer-atlas.lock"):
        if not (folder / "manifest.json").exists():
            full = default_concepts()
            few = few_of(full)
            model = load_model(str(default_model_path()))
            model.name = "embedded"
            map_concepts(model, few, out=folder, quick=True, permutations=60)
    return folder


def few_of(full):  # noqa: ANN001, ANN201
    """The same set with its first concepts only."""
    from dataclasses import replace

    return replace(full, concepts=full.concepts[:FEW], data_hash="")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that other processes wait for."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Served:
    """A running viewer: `url`, `desk`."""

    def __init__(self, desk):  # noqa: ANN001
        import uvicorn

        from conceptlab.web.app import create_app
        from conceptlab.web.guard import secured

        self.desk = desk
        pages = create_app(desk)

        async def under_policy(scope, receive, send):  # noqa: ANN001 - as any ASGI application
            await pages(scope, receive, secured(send))

        self.app = under_policy
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: 40 ms an answer
        self.socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(self.app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.desk.jobs.close()


@pytest.fixture(scope="session")
def desk(atlas_folder: Path):
    """The atlas with the live embedded model and its texts."""
    from conceptlab import default_concepts, default_model_path, load_model
    from conceptlab.web.desk import LiveModel, open_desk

    def load():
        model = load_model(str(default_model_path()))
        model.name = "embedded"
        return model

    return open_desk([atlas_folder], live=LiveModel("embedded", load), concept_set=few_of(default_concepts()))


@pytest.fixture(scope="session")
def server(desk) -> Iterator[Served]:
    served = Served(desk)
    yield served
    served.close()


@pytest.fixture
def page(browser, server):
    """A fresh page; `page.go("/path")` opens an address of the server."""
    with opened(browser, server.url) as page:
        yield page


@contextlib.contextmanager
def opened(browser, url: str, **options):
    """A page whose errors fail the test that looks at it; `allowed` lists what a test expects."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
    context.set_default_timeout(WAIT)
    page = context.new_page()
    page.problems = []
    page.on("console", lambda m: page.problems.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: page.problems.append(str(e)))
    page.on("request", lambda r: page.problems.append(f"asked for {r.url}") if _leaves(r.url) else None)
    page.go = lambda path: page.goto(url + path, wait_until="load")
    try:
        yield page
        assert not page.problems, page.problems
    finally:
        context.close()


def _leaves(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https", "ws", "wss") and not is_loopback((parts.hostname or "",))
