"""A fork server for the tests of this folder, begun when the first of them asks."""

from collections.abc import Iterator

import pytest

from tests.reliability.faults import folder
from tests.reliability.fork_server import ForkServer
from tests.reliability.kills import Trials


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """The one fork server of this process."""
    with ForkServer() as found:
        yield found


@pytest.fixture(scope="session")
def trials(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Trials:
    """Trials on this machine's disk."""
    return Trials(server, folder(tmp_path_factory.mktemp("trials")))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]):
    """Print a line that is seen."""

    def line(text: object) -> None:
        with capsys.disabled():
            print(f"\nreliability: {text}")

    return line
