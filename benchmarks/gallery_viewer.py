"""Last part of the gallery: the viewer's pages as pictures, over the embedded model and over a small real language model.

    python -m benchmarks.gallery_viewer

The texts are the embedded concepts' own; the real model is found in ../shared and left out where it is absent. Pictures and
docs/gallery/viewer/README.md are written.
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks.gallery_data import SHARED
from benchmarks.viewer.opened import looking, until, viewer
from conceptlab import default_concepts, default_model_path, load_model, map_concepts
from conceptlab.atlas.saving import slug

DOCS = Path(__file__).resolve().parents[1] / "docs" / "gallery" / "viewer"
REAL = SHARED / "models" / "tinystories-656k"
ON_REAL = ("sentiment", "category", "subject number", "coin")
STORY = "One day a little girl named Lily found a big red ball. She was very"
WIDTH, HEIGHT, TALLEST = 1360, 900, 2300
HEAD = """# The viewer in pictures

Made by `python -m benchmarks.gallery_viewer`: every page of `conceptlab view` in headless Chromium. Each picture is what a reader
sees after the page has filled itself; long pages are cut.
"""


def embedded_pages(prompt: str) -> dict[str, tuple[str, str]]:
    """Name -> (address, what is seen)."""
    read = urlencode({"prompt": prompt})
    steer = urlencode({"concept": "sentiment", "strength": "1.5", "prompt": "The review said the film was", "seed": 1})
    return {
        "home": ("/", "Home: every concept at every layer, beside its control; the same in words below."),
        "concept": (f"/concept?concept={slug('negated sentiment')}", "One concept: depth, parts, use, relations, tokens, texts."),
        "prompt": (f"/prompt?{read}&concept=recipient", "One prompt: a concept in its tokens, lens, heads, attribution."),
        "steer": (f"/steer?{steer}", "Plain, steered, and pushed at random by as much."),
        "unit": ("/unit?layer=3&head=6", "One head: what detectors and concepts say of it, its weights, its top texts."),
        "compare": ("/compare", "Two models over the same texts, concept by concept."),
        "papers": ("/papers?state=works", "The literature's systems that run here, their numbers beside their controls."),
    }  # fmt: skip


def real_pages() -> dict[str, tuple[str, str]]:
    """The same of a language model that others trained."""
    return {
        "real-home": ("/", "tinystories-656k over four of the embedded concepts (texts of another world than its stories)."),
        "real-prompt": (f"/prompt?{urlencode({'prompt': STORY, 'concept': 'category'})}", "A prompt in tinystories-656k."),
    }  # fmt: skip


def main() -> int:
    """Map, open, look, write."""
    parser = argparse.ArgumentParser(prog="benchmarks.gallery_viewer", description=__doc__)
    parser.add_argument("--atlas", type=Path, help="an atlas of the embedded model that conceptlab map wrote")
    given = parser.parse_args().atlas
    DOCS.mkdir(parents=True, exist_ok=True)
    start, said = time.perf_counter(), [HEAD]
    with tempfile.TemporaryDirectory(prefix="viewer-gallery-") as folder:
        ours = str(given or embedded_atlas(Path(folder)))
        real = [real_atlas(Path(folder))] if REAL.is_dir() else []
        pages = embedded_pages(default_concepts()["recipient"].texts[0])
        with viewer(ours, *real) as address:
            said += pictures(address, pages)
            said += pictures(address, {"prompt": pages["prompt"]}, dark=True)
            said += pictures(address, {"home": pages["home"]}, width=400)
        if real:
            with viewer(*real, "--model", str(REAL)) as address:
                said += pictures(address, real_pages())
    said.append(f"\nMade in {time.perf_counter() - start:.0f} s on {os.cpu_count()} cores.\n")
    (DOCS / "README.md").write_text("".join(said), encoding="utf-8")
    return 0


def embedded_atlas(folder: Path) -> Path:
    """The embedded model over its own concepts."""
    model = load_model(str(default_model_path()))
    model.name = "embedded"
    map_concepts(model, default_concepts(), out=folder / "embedded")
    return folder / "embedded"


def real_atlas(folder: Path) -> str:
    """A real model over some of our own concepts."""
    concepts = default_concepts()
    some = replace(concepts, concepts=tuple(concepts[name] for name in ON_REAL), data_hash="")
    model = load_model(str(REAL))
    model.name = "tinystories-656k"
    map_concepts(model, some, out=folder / "tinystories-656k", quick=True)
    return str(folder / "tinystories-656k")


def pictures(address: str, pages: dict[str, tuple[str, str]], *, dark: bool = False, width: int = WIDTH) -> list[str]:
    """Take each page's picture; the lines of the README that show them."""
    lines = []
    with looking(address, color_scheme="dark" if dark else "light") as page:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        page.wait_for_selector(".live-ready", timeout=120_000)
        for name, (path, says) in pages.items():
            name = f"{name}{'-dark' if dark else ''}{'-narrow' if width < WIDTH else ''}"
            page.goto(page.base + path, wait_until="load")
            if path.startswith("/steer"):
                page.get_by_role("button", name="Run").click()
                page.wait_for_timeout(1000)
                until(page, "document.querySelector('[data-role=stop]').disabled", 120)
            filled(page)
            take(page, DOCS / f"{name}.png", width)
            lines.append(f"\n## {name.replace('-', ', ')}\n\n{says}\n\n![{says}]({name}.png)\n")
    return lines


def filled(page: Any) -> None:
    """Scroll once through the page, so that everything is drawn, and wait until no panel waits."""
    until(page, "document.querySelectorAll('.waiting').length === 0", 240)
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_timeout(800)
    until(page, "document.querySelectorAll('.waiting').length === 0", 240)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(800)


def take(page: Any, path: Path, width: int) -> None:
    """The page from its top, cut where it gets long, in few colours."""
    tall = min(TALLEST, int(page.evaluate("document.documentElement.scrollHeight")))
    page.screenshot(path=str(path), full_page=True, clip={"x": 0, "y": 0, "width": width, "height": tall})


if __name__ == "__main__":
    raise SystemExit(main())
