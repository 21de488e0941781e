"""`make gallery` calls this: the README's picture, a screenshot of the embedded model's own report in Chromium."""

import argparse
from pathlib import Path

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "report.png"


def screenshot(report: Path, picture: Path, *, width: int = 1280, height: int = 1180) -> None:
    """Write the top of `report` as it looks in Debian's Chromium. Raises playwright's error where there is no Chromium."""
    from playwright.sync_api import sync_playwright

    picture.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(report.resolve().as_uri())
        page.wait_for_timeout(1500)
        page.screenshot(path=picture)
        browser.close()


def main() -> int:
    """Draw the picture from a finished atlas folder, `conceptlab-atlas/…` by default the only one there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="report.html of an atlas of the embedded model")
    screenshot(parser.parse_args().report, PICTURE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
