"""An object store in a process of its own: moto's server on a free port, one request at a time, so that its conditional puts are as
atomic as those of a real store."""

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]


class ObjectServer:
    """The server's handle, a context manager; `environment` is what a client needs."""

    def __init__(self) -> None:
        line = [sys.executable, "-m", "tests.reliability.object_server"]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.process.stdout is not None
        self.address = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }

    def __enter__(self) -> "ObjectServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def kill(self) -> None:
        """The store is gone."""
        self.process.kill()
        self.process.wait()

    def bucket(self, name: object) -> str:
        """A new bucket's URL, with a prefix for a store."""
        plain = f"trial-{name}".replace("_", "-").lower()
        self.put(f"/{plain}", b"")
        return f"s3://{plain}/store"

    def put(self, path: str, content: bytes) -> None:
        """Put an object (or make a bucket) without any library."""
        request = urllib.request.Request(self.address + path, data=content, method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200


def one_at_a_time(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """A WSGI application that answers one request at a time."""
    lock = threading.Lock()

    def answer(environment: dict[str, Any], start: Any) -> list[bytes]:
        with lock:
            return list(app(environment, start))

    return answer


def main() -> None:
    """Serve until killed; the port is the first line of standard output."""
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = one_at_a_time(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(json.dumps(server.server_port), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
