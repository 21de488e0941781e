"""Nothing that the viewer shows asks anything of another machine: Chromium's own log of its network says so.

The browser has housekeeping of its own (accounts, updates), which the log tells apart by who began a request: pages have an origin.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import CHROMIUM, is_loopback

PAGES = ("/", "/concept", "/prompt?prompt=the%20cat%20sat", "/steer", "/unit?layer=1&head=0", "/compare", "/papers")


def asked_by_pages(log: dict, origin: str) -> list[str]:
    """Every address that a page of `origin` asked for, or that it was led to."""
    started = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    said = [event["params"] for event in log["events"] if event["type"] == started and "url" in event.get("params", {})]
    return [p["url"] for p in said if p.get("initiator", "") == origin or p["url"].startswith(origin)]


def host_of(address: str) -> str:
    """The machine in `http://127.0.0.1:80/x` or `http://[::1]:80`."""
    rest = address.split("://")[-1].split("/")[0]
    return rest[1:].split("]")[0] if rest.startswith("[") else rest.rsplit(":", 1)[0]


def logged(browser_path: str, log: Path, visit) -> dict:  # noqa: ANN001
    """Chromium's log while `visit` uses a page. In a thread: the browser of other tests lives in this one's loop."""
    from playwright.sync_api import sync_playwright

    def look() -> None:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=[*CHROMIUM, f"--log-net-log={log}"])
            visit(browser.new_page())
            browser.close()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(look).result()
    return json.loads(log.read_text())


@pytest.fixture(scope="module")
def chromium() -> str:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    return found


def test_a_page_that_asks_another_machine_would_be_noticed(server, chromium: str, tmp_path: Path):
    def visit(page) -> None:  # noqa: ANN001
        page.route(
            "**/papers",
            lambda route: route.fulfill(body='<img src="http://192.0.2.7/x.png">', content_type="text/html"),
        )
        page.goto(f"{server.url}/papers", wait_until="domcontentloaded")
        page.wait_for_timeout(300)

    asked = asked_by_pages(logged(chromium, tmp_path / "net.json", visit), server.url)
    assert [a for a in asked if not is_loopback((host_of(a),))] == ["http://192.0.2.7/x.png"]


def test_pages_ask_only_this_machine(server, chromium: str, tmp_path: Path):
    def visit(page) -> None:  # noqa: ANN001
        for path in PAGES:
            page.goto(server.url + path, wait_until="load")
            page.wait_for_timeout(500)

    asked = asked_by_pages(logged(chromium, tmp_path / "net.json", visit), server.url)
    assert len(asked) > 3 * len(PAGES)
    assert [a for a in asked if not is_loopback((host_of(a),))] == []
