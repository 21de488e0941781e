"""A page's HTML as a file can hold it: the panels that it waits for, the arrays it reads, the text without what asks a server."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser
from itertools import accumulate
from typing import Any

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
Attributes = list[tuple[str, str | None]]


@dataclass
class Waiting:
    """An element that htmx fills as soon as it is there: its place in the text, its address, and whether it is replaced itself."""

    start: int
    end: int
    url: str
    outer: bool


class _Elements(HTMLParser):
    """Elements with their places in the text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=False)
        self._lines = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]
        self._open: list[tuple[str, Waiting | None]] = []
        self.waiting: list[Waiting] = []
        self.blocks: list[str] = []
        self.values: list[str] = []
        self._in_block = False
        self.feed(text)
        self.close()

    def _here(self) -> int:
        line, column = self.getpos()
        return self._lines[line - 1] + column

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        found, here = dict(attrs), self._here()
        self.values += [value for _, value in attrs if value]
        self._in_block = tag == "script" and found.get("type") == "application/json"
        made = None
        if found.get("hx-get") and "load" in (found.get("hx-trigger") or "").replace(",", " ").split():
            outer = (found.get("hx-swap") or "").startswith("outerHTML")
            inner = here + len(self.get_starttag_text() or "")
            made = Waiting(here if outer else inner, inner, str(found["hx-get"]), outer)
            self.waiting.append(made)
        if tag not in VOID:
            self._open.append((tag, made))

    def handle_endtag(self, tag: str) -> None:
        while self._open:
            name, made = self._open.pop()
            if made is not None:
                made.end = self._here() + (len(f"</{tag}>") if made.outer else 0)
            if name == tag:
                return

    def handle_data(self, data: str) -> None:
        if self._in_block:
            self.blocks.append(data)
            self._in_block = False


def waiting(text: str) -> list[Waiting]:
    """The outermost elements that fill themselves, in order."""
    found: list[Waiting] = []
    for one in _Elements(text).waiting:
        if not found or one.start >= found[-1].end:
            found.append(one)
    return found


def slice_addresses(text: str) -> list[str]:
    """Addresses of arrays that stand in attributes and data blocks, each once."""
    elements = _Elements(text)
    told = list(elements.values)
    for block in elements.blocks:
        told += _strings(json.loads(block))
    return list(
        dict.fromkeys(value for value in told if value.startswith("/") and "as=slice" in value and "name=" in value)
    )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


class _Stripped(HTMLParser):
    """The same text without links to pages, without htmx, with what needs a server hidden."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=False)
        self.out: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        raw = self.get_starttag_text() or ""
        changed = _changed(tag, attrs)
        self.out.append(raw if changed == attrs else _written(tag, changed, closed=raw.rstrip().endswith("/>")))

    def handle_startendtag(self, tag: str, attrs: Attributes) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        self.out.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.out.append(data)

    def handle_entityref(self, name: str) -> None:
        self.out.append(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.out.append(f"&#{name};")


def _changed(tag: str, attrs: Attributes) -> Attributes:
    """The attributes that may stand in a file."""
    names = {name for name, _ in attrs}
    asks = any(name.startswith("hx-") for name in names)
    kept = [
        (n, v) for n, v in attrs if not n.startswith("hx-") and n not in ("data-keep", "action", "method", "download")
    ]
    if tag == "a":
        kept = [(n, v) for n, v in kept if n != "href" or (v or "").startswith("#")]
    useless = (tag == "form" and "data-heat-form" not in names) or (tag in ("button", "select", "input") and asks)
    if (useless or "data-online" in names) and "hidden" not in names:
        kept.append(("hidden", None))
    return kept


def _written(tag: str, attrs: Attributes, *, closed: bool) -> str:
    told = "".join(f" {name}" if value is None else f' {name}="{escape(value)}"' for name, value in attrs)
    return f"<{tag}{told}{'/' if closed else ''}>"


def stripped(text: str) -> str:
    """The page without what needs a server: links elsewhere become text, forms that ask it are hidden."""
    return "".join(_Stripped(text).out)
