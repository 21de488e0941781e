"""Nothing that the viewer shows asks anything of another machine: Chromium's own log of its network says so."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import CHROMIUM, is_loopback

PAGES = ("/", "/concept", "/prompt?prompt=the%20cat%20sat", "/steer", "/unit?layer=1&head=0", "/compare", "/papers")
LOUD = ("URL_REQUEST_START_JOB", "TCP_CONNECT_ATTEMPT", "HOST_RESOLVER_MANAGER_REQUEST", "UDP_CONNECT", "SOCKET_OPEN")


def addresses(log: dict) -> list[str]:
    """Every URL, host and address that stands in the log's events."""
    names = {number: name for name, number in log["constants"]["logEventTypes"].items()}
    found = []
    for event in log["events"]:
        said = event.get("params", {})
        if names.get(event["type"]) in LOUD:
            found += [str(said[key]) for key in ("url", "host", "address") if key in said]
    return found


def host_of(address: str) -> str:
    """The machine in `http://127.0.0.1:80/x`, `127.0.0.1:80` or `[::1]:80`."""
    rest = address.split("://")[-1].split("/")[0]
    return rest[1:].split("]")[0] if rest.startswith("[") else rest.rsplit(":", 1)[0]


def test_a_log_with_another_machine_would_be_noticed():
    kinds = {"URL_REQUEST_START_JOB": 1, "TCP_CONNECT_ATTEMPT": 2}
    events = [{"type": 1, "params": {"url": "https://example.org/x"}}, {"type": 2, "params": {"address": "[::1]:9"}}]
    found = addresses({"constants": {"logEventTypes": kinds}, "events": events})
    assert [is_loopback((host_of(a),)) for a in found] == [False, True]


def test_pages_ask_only_this_machine(server, tmp_path: Path):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    log = tmp_path / "net.json"
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*CHROMIUM, f"--log-net-log={log}"])
        page = browser.new_page()
        for path in PAGES:
            page.goto(server.url + path, wait_until="load")
            page.wait_for_timeout(500)
        browser.close()
    asked = addresses(json.loads(log.read_text()))
    assert len([a for a in asked if a.startswith(server.url)]) >= len(PAGES)
    away = [a for a in asked if a.startswith(("http", "ws")) or "." in a or "[" in a]
    assert [a for a in away if not is_loopback((host_of(a),))] == []
