"""A viewer in a process of its own, and a browser that looks at it."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--enable-precise-memory-info")  # fmt: skip


@contextmanager
def viewer(*arguments: str, wait: float = 60.0) -> Iterator[str]:
    """`conceptlab view` with these arguments, ready to answer; gives its address with the token."""
    command = [str(Path(sys.executable).parent / "conceptlab"), "view", *arguments, "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield address_in(process, wait)
    finally:
        process.terminate()
        process.wait(10)


def address_in(process: "subprocess.Popen[str]", wait: float) -> str:
    """The first address that the process prints."""
    end, said = time.monotonic() + wait, []
    assert process.stdout is not None
    while time.monotonic() < end:
        line = process.stdout.readline()
        if not line and process.poll() is not None:
            break
        said.append(line)
        for word in line.split():
            if word.startswith("http://"):
                return word
    raise RuntimeError(f"the viewer printed no address: {''.join(said)}")


@contextmanager
def looking(address: str, **options: Any) -> Iterator[Any]:
    """A page of Chromium that has exchanged the token for its cookie; `page.base` is where the viewer is."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        raise RuntimeError("no Chromium on this machine (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(CHROMIUM))
        context = browser.new_context(viewport={"width": 1440, "height": 900}, **options)
        page = context.new_page()
        page.goto(address, wait_until="load")
        page.base = address.split("/?")[0]
        yield page
        browser.close()


def first_paint(page: Any, path: str) -> float:
    """Seconds from the click on an address to the first contentful paint."""
    page.goto(page.base + path, wait_until="load")
    return until(page, "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0", 30) / 1000


def until(page: Any, script: str, limit: float) -> float:
    """Ask the page until the answer is not nothing. (Playwright's own waiting evaluates text, which the page's policy forbids.)"""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found = page.evaluate(script)
        if found:
            return float(found)
        page.wait_for_timeout(50)
    raise RuntimeError(f"after {limit:.0f} s the page still says no to {script}")


def heap(page: Any) -> float:
    """Bytes of the page's JavaScript heap after a collection, its buffers included."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    held = session.send("Runtime.getHeapUsage")
    return float(held["usedSize"] + held.get("backingStorageSize", 0) + held.get("embedderHeapUsedSize", 0))


def cookie_of(page: Any) -> str:
    """The session's cookie as a header."""
    return "; ".join(f"{c['name']}={c['value']}" for c in page.context.cookies())
