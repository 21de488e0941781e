"""The suite runs offline, and would notice if it did not."""

import os
import socket

import pytest

from conftest import NetworkUsed


def test_a_connection_that_leaves_the_machine_is_refused() -> None:
    with socket.socket() as outward, pytest.raises(NetworkUsed):
        outward.connect(("192.0.2.1", 80))
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())


def test_the_hub_is_offline() -> None:
    from huggingface_hub import constants

    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert constants.HF_HUB_OFFLINE
