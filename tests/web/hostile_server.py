"""Every hostile text through the real server: as prompt, as token and target, and as the name of a concept, each back as it was.

A text that an address cannot hold (half a character, nothing, tens of thousands of characters) is answered by a line or shown
as what the address does hold; no text is answered by an error of the server.
"""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from conceptlab.plot.naming import visible
from conceptlab.web.limits import ADDRESS
from conceptlab.web.live.one_pass import shown_token
from tests.web.wire import Reply, Wire

HALVES = range(0xD800, 0xE000)
SENT = ADDRESS - 500  # bytes of an address that leave room for the rest of it
SEPARATOR = "¤"  # stands in no hostile text


def half(text: str) -> bool:
    """Whether it holds half a character, which neither an address nor a tokenizer can."""
    return any(ord(c) in HALVES for c in text)


def tokens_of(texts: Sequence[str]) -> list[str]:
    """Those that a tokenizer can hold as one token."""
    return [text for text in texts if text and not half(text)]


def sent(text: str) -> str:
    """The text in an address, half a character as the bytes it would have."""
    return quote(text, safe="", errors="surrogatepass")


def said_in_a_line(reply: Reply) -> None:
    """A refusal of the house: a status below 500 and one short line (as a page or as JSON, one sentence)."""
    assert 400 <= reply.status < 500, (reply.status, reply.line[:200])
    words = reply.line
    if reply.headers.get("content-type", "").startswith("application/json"):
        found = json.loads(words)
        words = found.get("said") or found["job"]["error"]
    assert words.strip() and "\n" not in words.strip() and "Traceback" not in words and len(words) < 800, words[:300]


def twin(wire: Wire, address: str) -> Any:
    """The JSON of an address that must answer."""
    reply = wire.ask("GET", address + ("&" if "?" in address else "?") + "as=json")
    assert reply.status == 200, (address[:200], reply.status, reply.line[:300])
    return json.loads(reply.body)


def as_prompts(wire: Wire, texts: Sequence[str]) -> dict[str, int]:
    """How many came back as they were, were refused in a line, or could not stand in an address."""
    counts = {"exact": 0, "refused": 0, "halved": 0}
    for text in texts:
        reply = wire.ask("GET", f"/panel/readouts?prompt={sent(text)}&as=json")
        if reply.status != 200:
            said_in_a_line(reply)
            assert len(text) > 500 or not text.strip(), text[:80]  # only an endless one, or nothing at all
            counts["refused"] += 1
        elif half(text) or not text:
            found = json.loads(reply.body)["prompt"]
            assert found and not half(found)
            counts["halved"] += 1
        else:
            found = json.loads(reply.body)
            assert found["prompt"] == text == "".join(found["tokens"])
            assert found["shown"] == [shown_token(token) for token in found["tokens"]]
            counts["exact"] += 1
    return counts


def in_batches(texts: Sequence[str], limit: int = SENT) -> list[list[str]]:
    """The texts in groups that each fit an address, separated; one that alone does not fit is left out."""
    found: list[list[str]] = [[]]
    size = 0
    for text in texts:
        more = len(sent(text + SEPARATOR))
        if more > limit:
            continue
        if size + more > limit:
            found.append([])
            size = 0
        found[-1].append(text)
        size += more
    return found


def prompt_of(batch: Sequence[str]) -> str:
    """One prompt in which every text is a token of its own, since the separator is part of none."""
    return SEPARATOR + "".join(text + SEPARATOR for text in batch)


def as_tokens(wire: Wire, texts: Sequence[str]) -> int:
    """How many texts were tokens of a prompt, and the targets that the lens names for the token before, exactly."""
    done = 0
    for batch in in_batches(texts):
        asked = urlencode({"prompt": prompt_of(batch)})
        found, grid = twin(wire, f"/panel/readouts?{asked}"), twin(wire, f"/panel/lens?{asked}")
        assert [t for t in found["tokens"] if t not in (SEPARATOR, "")] == batch
        targets = [i for i, token in enumerate(found["tokens"]) if token in set(batch)]
        assert len(targets) == len(batch)
        named = set(grid["names"].values())
        assert set(batch) <= named
        assert all(grid["shown_names"][i] == shown_token(text) for i, text in grid["names"].items())
        done += len(batch)
    return done


def as_targets(wire: Wire, texts: Sequence[str]) -> int:
    """How many texts could be asked for as target (lens) and distractor (contributions) by themselves, and came back exactly."""
    done = 0
    for text in texts:
        if len(sent(text)) > SENT // 2 or text[:1] == "#":
            continue
        found = twin(wire, f"/panel/lens?prompt=ab&target={sent(text)}")["target"]
        assert (found["text"], found["shown"]) == (text, shown_token(text))
        done += 1
    return done


def as_names(wire: Wire, names: Sequence[str], ids: Sequence[str], step: int = 1) -> int:
    """Home, its table, the map and every `step`-th Concept page: each name in the JSON as it is, in the page as `visible`."""
    shown = [visible(name) for name in names]
    assert [c["name"] for c in twin(wire, "/?sort=order")["heat"]["concepts"]] == shown
    rows: list[str] = []
    for page in range(1, -(-len(names) // 50) + 1):
        found = twin(wire, f"/concepts?sort=order&page={page}")["table"]
        assert not found["broken"]
        rows += [row["anchor"] for row in found["rows"]]
    assert rows[: len(ids)] == list(ids)
    for name, id in list(zip(names, ids, strict=True))[::step]:
        one = twin(wire, f"/concept?concept={id}")
        assert one["concept"]["name"] == name
        assert one["concept"]["class_names"] == [name, f"not {name}"]
        assert one["concept"]["warnings"] == [name]
        page = wire.ask("GET", f"/concept?concept={id}")
        assert page.status == 200
    return len(names)


def as_steered(wire: Wire, texts: Sequence[str]) -> int:
    """How many prompts of the Steer page came back exactly, with three texts of a token each, plain text in the page."""
    head = "kind=head&layer=0&head=0&strength=3&tokens=1&temperature=1"
    done = 0
    for text in texts:
        reply = wire.ask("GET", f"/steer?{head}&prompt={sent(text)}&as=json")
        if reply.status != 200:
            said_in_a_line(reply)
            continue
        found = json.loads(reply.body)
        if half(text) or not text:
            continue
        assert found["asked"]["prompt"] == text.replace("\r\n", "\n")  # as a form sends it
        if found["result"] is None:
            assert found["job"]["error"] and len(text) > 500, found["job"]
            continue
        assert [column["name"] for column in found["result"]["columns"]] == ["plain", "steered", "random"]
        done += 1
    return done


def as_pairs(wire: Wire, texts: Sequence[str]) -> int:
    """How many pairs of prompts, a hostile one clean and the next corrupted, were patched: each named as it is in the map.

    Both are answers, too. A pair whose texts are not one token each here is refused in a line.
    """
    done = 0
    for clean, corrupted in zip(texts, texts[1:], strict=False):
        if len(sent(clean + corrupted)) > SENT // 2:
            continue
        asked = {"prompt": f"a{clean} ", "corrupted": f"a{corrupted} ", "answer": clean, "distractor": corrupted}
        asked = {name: text.replace("\r\n", "\n") for name, text in asked.items()}
        form = twin(wire, f"/panel/patching?{urlencode(asked)}")
        assert (form["asked"]["pair"]["clean"], form["asked"]["pair"]["corrupted"]) == (
            asked["prompt"],
            asked["corrupted"],
        )
        reply = wire.ask("GET", f"/panel/patching/map?{urlencode(asked)}&as=json")
        found = json.loads(reply.body)
        if reply.status != 200:
            said_in_a_line(reply)
            continue
        assert {"text": corrupted, "other": clean} in found["map"]["across"], (clean, corrupted, found["map"]["across"])
        assert wire.ask("GET", f"/panel/patching/map?{urlencode(asked)}").status == 200
        done += 1
    return done
