"""The viewer's speed as rows of docs/benchmarks.md: `python -m benchmarks.speed --only viewer`.

First paint is Chromium's first contentful paint, from the click on the address, median of five. The lens' floor is one forward and
one unembedding of every layer's every token. A client waits a second between two clicks, as a person hardly would.
"""

import http.client
import random
import statistics
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
import torch

from benchmarks.speed.table import Row
from benchmarks.viewer.opened import cookie_of, first_paint, heap, looking, until, viewer
from tests.web.flood import flooded
from tests.web.hovering import HOVER

GROUP = "Viewer (headless Chromium and server on the same machine)"
PAGES = {
    "Home": "/", "Concept": "/concept", "Prompt": "/prompt", "Steer": "/steer", "Unit": "/unit?layer=1&head=0",
    "Compare": "/compare", "Papers": "/papers", "Circuit": "/circuit",
}  # fmt: skip
LONG, LAYERS, HEADS = 1024, 12, 12
CLIENTS, SECONDS, FLOOD = 20, 60, 1000


def viewer_rows(*, tiny: bool = False) -> list[Row]:
    """Every bar that a clock can show. `tiny` keeps the same steps at a size of seconds."""
    with tempfile.TemporaryDirectory(prefix="viewer-bench-") as folder:
        rows = embedded_rows(Path(folder), tiny)
        rows += large_rows(Path(folder), tiny)
        return rows + prompt_rows(Path(folder), tiny)


def embedded_rows(folder: Path, tiny: bool) -> list[Row]:
    """First paint of every page, many clients, and a flood of garbage, over an atlas of the embedded model."""
    from conceptlab import default_concepts, default_model_path, load_model, map_concepts

    model = load_model(str(default_model_path()))
    model.name = "embedded"
    map_concepts(model, default_concepts(), out=folder / "embedded", quick=True)
    with viewer(str(folder / "embedded")) as address, looking(address) as page:
        page.wait_for_selector(".live-ready", timeout=60_000)
        rows = [paint_row(page, f"{name}, embedded atlas", path, 1.0, tiny) for name, path in PAGES.items()]
        cookie = cookie_of(page)
        rows.append(clients_row(page.base, cookie, 5 if tiny else SECONDS))
        rows.append(flood_row(page.base, cookie, 2 if tiny else SECONDS))
    return rows


def large_rows(folder: Path, tiny: bool) -> list[Row]:
    """Home and a concept of an atlas of 1,000 concepts and 48 layers, the server just started."""
    from benchmarks.viewer.atlas import synthetic_atlas

    n_concepts, n_layers = (40, 6) if tiny else (1000, 48)
    synthetic_atlas(n_concepts, n_layers).save(folder / "large")
    with viewer(str(folder / "large"), "--no-model") as address:
        start = time.perf_counter()
        with looking(address) as page:
            opened = time.perf_counter() - start
            name = f"{n_concepts:,} concepts x {n_layers} layers"
            first = Row(
                GROUP, f"Home, {name}, first request of the server, browser's start included", f"{opened:.2f} s"
            )
            found = [paint_row(page, f"{word}, {name}", PAGES[word], 2.0, tiny) for word in ("Home", "Concept")]
    return [first, *found]


def paint_row(page: object, what: str, path: str, target: float, tiny: bool) -> Row:
    """Median first paint of a page."""
    found = [first_paint(page, path) for _ in range(1 if tiny else 5)]
    return below(f"first paint: {what}", statistics.median(found), target, f"worst of {len(found)}: {max(found):.2f} s")


def below(what: str, seconds: float, target: float | None, note: str = "") -> Row:
    """A row of seconds."""
    return Row(GROUP, what, f"{seconds:.3g} s", seconds, None, target, "", note)


# -- one long prompt --------------------------------------------------------------------------------------------------
def prompt_rows(folder: Path, tiny: bool) -> list[Row]:
    """Attention of 12 x 12 heads over 1,024 tokens, and the lens beside the forward it needs (GPT-2-small's size)."""
    n = 64 if tiny else LONG
    source = saved_model(folder / "model", tiny)
    words = random.Random(0)
    query = urlencode({"prompt": " ".join(f"w{words.randrange(1, 90)}" for _ in range(n))})
    with viewer(source) as address, looking(address) as page:
        page.wait_for_selector(".live-ready", timeout=120_000)
        cookie = cookie_of(page)
        fetched(page.base, f"/panel/attention?{query}&as=slice&name=tiles", cookie)  # the pass, aside
        page.goto(f"{page.base}/prompt?{query}", wait_until="load")
        page.wait_for_selector(".prompt-attention[data-painted]", timeout=120_000)
        painted = float(page.get_attribute(".prompt-attention", "data-painted")) / 1000
        until(page, "document.querySelectorAll('.waiting').length === 0", 240)
        until(
            page, "document.querySelector('.prompt-attention').dataset.shown !== undefined", 60
        )  # the head at full size
        hover, held = page.evaluate(HOVER), heap(page) / 1e6
        name = f"attention of {LAYERS} x {HEADS} heads, {n:,} tokens"
        rows = [
            below(f"{name}: painted, the pass aside", painted, 1.0, "all heads as 8-bit tiles, one at full size"),
            below(f"{name}: a hover, median of 30", hover[15] / 1000, 0.05, f"worst {hover[-1]:.0f} ms"),
            Row(GROUP, f"{name}: heap of the page", f"{held:.0f} MB", held, None, 300.0),
        ]
        return rows + [lens_row(source, page.base, cookie, n=32 if tiny else 256, times=1 if tiny else 5)]


def saved_model(folder: Path, tiny: bool) -> str:
    """A random model of GPT-2-small's size with one token a word, in a folder."""
    from benchmarks.speed.models import make_module, word_tokenizer

    module = make_module("gpt2", tiny=tiny, **({"n_layers": LAYERS} if tiny else {}))
    module.save_pretrained(folder)  # type: ignore[operator]
    word_tokenizer(module.config.vocab_size).save_pretrained(folder)  # type: ignore[union-attr, arg-type]
    return str(folder)


def lens_row(source: str, base: str, cookie: str, *, n: int, times: int) -> Row:
    """A new prompt's lens, asked of the server, beside a forward and the unembeddings in this process: 1.2 times and 100 ms."""
    from conceptlab import load_model

    model, words = load_model(source), random.Random(1)
    prompts = [" ".join(f"w{words.randrange(1, 90)}" for _ in range(n)) for _ in range(times + 1)]
    ours, floor = [], []
    for prompt in prompts:
        start = time.perf_counter()
        fetched(base, f"/panel/lens?{urlencode({'prompt': prompt})}&as=slice&name=top_prob", cookie)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        with torch.no_grad():
            stream = model.capture([prompt], "resid_post", positions="all")["resid_post"]
            model.lens(stream[:, :-1])
            model.logits([prompt], positions="all")
        floor.append(time.perf_counter() - start)
    over = [a - 1.2 * b for a, b in zip(ours[1:], floor[1:], strict=True)]
    note = f"{statistics.median(ours[1:]):.2f} s; forward and unembeddings {statistics.median(floor[1:]):.2f} s"
    return below(f"lens of a new prompt of {n} tokens: time over 1.2 x its floor", statistics.median(over), 0.1, note)


# -- many clients, and no clients at all ------------------------------------------------------------------------------
def clients_row(base: str, cookie: str, seconds: float) -> Row:
    """Twenty people clicking: every answer's time; anything but a 200 is an error."""
    times: list[float] = []
    errors: list[str] = []
    paths = ["/", "/concept?concept=truth&as=json", "/concept?concept=category", "/papers", "/unit?layer=2&head=1", "/concepts",
             "/panel/lens?prompt=the+cat+sat&as=json", "/panel/readouts?prompt=the+dog+ran&as=json", "/steer"]  # fmt: skip

    def click(seed: int) -> None:
        draw, end = random.Random(seed), time.monotonic() + seconds
        while time.monotonic() < end:
            start = time.perf_counter()
            status, _ = fetched(base, draw.choice(paths), cookie)
            times.append(time.perf_counter() - start)
            if status != 200:
                errors.append(str(status))
            time.sleep(1)

    together([threading.Thread(target=click, args=(i,)) for i in range(CLIENTS)])
    p95 = float(np.quantile(times, 0.95))
    note = f"{len(times):,} answers, {len(errors)} errors, median {statistics.median(times) * 1000:.0f} ms"
    return below(f"{CLIENTS} clients clicking for {seconds:.0f} s: 95th percentile", p95, None, note)


def flood_row(base: str, cookie: str, seconds: float) -> Row:
    """A thousand pieces of garbage a second, and a page asked for ten times a second meanwhile."""
    port = urlsplit(base).port or 0
    headers = {"Host": f"127.0.0.1:{port}", "Cookie": cookie}
    found = flooded(port, headers, per_second=FLOOD, seconds=seconds, path="/papers?id=retrieval-heads")
    said = f"{found.per_second:,.0f} pieces of garbage a second for {seconds:.0f} s"
    note = f"{said}; {len(found.looks):,} looks, {found.failed} failed, median {statistics.median(found.looks) * 1000:.0f} ms"
    return below("a page while garbage floods in: the worst answer", found.slowest, 1.0, note)


def fetched(base: str, path: str, cookie: str) -> tuple[int, bytes]:
    """Status and content of one address on a connection of its own."""
    parts = urlsplit(base)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=240)
    with closing(connection):
        connection.request("GET", path, headers={"Cookie": cookie, "Accept": "*/*"})
        answer = connection.getresponse()
        return answer.status, answer.read()


def together(threads: list[threading.Thread]) -> None:
    """Start all, wait for all."""
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
