"""The page of the causal gallery, written from the numbers and pictures of its folders."""

import json
from pathlib import Path
from typing import Any

from benchmarks.gallery_causal_data import TASKS

CHANCE = 0.25  # of a pair that is right on both sides when both are guessed
PICTURES = {
    "stream-noising": "effect of patching the stream, clean rows changed",
    "stream-denoising": "effect of patching the stream, corrupted rows changed",
    "heads-noising": "effect of patching each head, clean rows changed",
    "heads-denoising": "effect of patching each head, corrupted rows changed",
    "lens": "what every layer would say on one prompt",
    "rank": "rank of answer and distractor by layer",
    "direct": "direct contributions to the difference of the two answers",
    "circuit": "the circuit of the difference",
}
HEAD = """# Causal methods on small real models

Made by `make gallery` ({seconds} on one core of {cores}).
Each model is asked something simple; the prompts are our own. Clean
and corrupted prompts of a pair differ in one place, the right answer of each is the wrong one of the other, and only pairs are
kept that the model gets right on both sides and that share one token layout (guessing gets a quarter right). All numbers are about
the difference of the two answers' logits on these pairs, so they say how a model does what it does, and not how often.

How to read the pictures. **Patching**: noising puts corrupted values into clean rows (is the place needed?), denoising clean ones
into corrupted rows (is it enough?); 1 is the whole change. The control moves the same place as far in a random direction, and only
outlined cells do more than it (q ≤ 0.05 over all cells, at least 0.01). **Lens**: the unembedding read at every layer, with random
tokens as control. **Direct contributions**: what heads and MLPs write into the answer themselves, with random pairs of tokens as
control. **Circuit**: edges ranked by EAP-IG and patched exactly on half of the pairs; their effects, and what they carry together,
are measured on the other half, beside random circuits with as many edges into each layer. Edges that were chosen and do no more
there than turned copies of the same change (q > 0.05) are dashed: together they may carry much, and none alone is sure.

| model | right / asked | kept | logit difference, clean / corrupted | stream cells found | heads found, both ways | circuit |
|---|---|---|---|---|---|---|
{table}
"""


def page(folder: Path) -> str:
    """docs/gallery/causal/README.md from the folders in `folder`."""
    records = {
        n: json.loads((folder / n / "numbers.json").read_text())
        for n in TASKS
        if (folder / n / "numbers.json").exists()
    }
    seconds = ", ".join(f"{n} {r['seconds']:.0f} s" for n, r in records.items() if "seconds" in r)
    cores = next((r["machine"] for r in records.values() if "machine" in r), "an unnamed machine")
    head = HEAD.format(seconds=seconds, cores=cores, table="\n".join(row(n, r) for n, r in records.items()))
    return head + "".join(part(n, r, folder / n) for n, r in records.items())


def row(name: str, record: dict[str, Any]) -> str:
    """One line of the table."""
    if "cannot" in record:
        return f"| {name} | cannot do it: {record['cannot']} | – | – | – | – | – |"
    pairs, found = record["pairs"], record["patching"]
    stream = f"{found['stream noising']['found']} of {found['stream noising']['cells']}"
    heads = " / ".join(str(found[f"heads {d}"]["found"]) for d in ("noising", "denoising"))
    return (
        f"| {name} | {pairs['right']} / {pairs['tried']} | {pairs['kept']} | {pairs['logit_diff_clean']:+.2f} / "
        f"{pairs['logit_diff_corrupted']:+.2f} | {stream} | {heads} of {found['heads noising']['cells']} | "
        f"{in_short(record['circuit'])} |"
    )


def in_short(circuit: dict[str, Any]) -> str:
    """How much how many edges carry."""
    if not circuit["edges"]:
        return "none found"
    return f"{circuit['edges']} of {circuit['of']:,} edges carry {percent(circuit['score'])} (random {percent(circuit['control'])})"


def part(name: str, record: dict[str, Any], folder: Path) -> str:
    """One model: its task, what was found, and its pictures."""
    lines = [f"\n## {name}\n", f"Asked: {TASKS[name].words}."]
    if "cannot" in record:
        return "\n".join([*lines, f"The model cannot do it: {record['cannot']}.", ""])
    pictures = [f"![{name}: {says}]({name}/{f}.png)" for f, says in PICTURES.items() if (folder / f"{f}.png").exists()]
    return "\n".join([*lines, *sentences(record), "", "\n\n".join(pictures), ""])


def sentences(record: dict[str, Any]) -> list[str]:
    """What the numbers say, in words."""
    pairs, share = record["pairs"], record["pairs"]["right"] / record["pairs"]["tried"]
    able = f"It gets {share:.0%} of the pairs right on both sides (guessing: {CHANCE:.0%})"
    weak = (
        ", so it can do it only now and then, and what follows is about the pairs where it did"
        if share < 2 * CHANCE
        else ""
    )
    said = [f"{able}{weak}; {pairs['kept']} pairs of {pairs['positions']} tokens are used.", ""]
    for called in ("stream", "heads"):
        for direction in ("noising", "denoising"):
            said.append(
                f"* {called.capitalize()}, {direction}: {strongest(record['patching'][f'{called} {direction}'])}"
            )
    return [
        *said,
        f"* Direct contributions: {writers(record['contributions'])}",
        f"* {circuit_words(record['circuit'])}",
    ]


def strongest(cells: dict[str, Any], most: int = 3) -> str:
    """The largest cells of a map that are found."""
    held = [
        (at, c)
        for at, c in cells["largest"].items()
        if c["q"] is not None and c["q"] <= 0.05 and abs(c["score"]) >= 0.01
    ]
    named = [
        f"{at} {c['score']:+.2f} [{c['low']:.2f}, {c['high']:.2f}] (random {c['control']:+.2f})"
        for at, c in held[:most]
    ]
    return f"{cells['found']} of {cells['cells']} cells found" + (f"; strongest {'; '.join(named)}." if named else ".")


def writers(found: dict[str, Any], most: int = 3) -> str:
    """The largest components that are found."""
    held = [(at, c) for at, c in found["largest"].items() if c["q"] is not None and c["q"] <= 0.05]
    named = [
        f"{at} {c['score']:+.2f} (random pairs {c['control_low']:+.2f} to {c['control_high']:+.2f})"
        for at, c in held[:most]
    ]
    return f"{found['found']} of {found['components']} components found" + (f"; {'; '.join(named)}." if named else ".")


def percent(share: float) -> str:
    """A share in per cent, never as -0 %."""
    return f"{round(float(share), 2) + 0.0:.0%}"


def circuit_words(found: dict[str, Any]) -> str:
    """What the circuit carries, and what limits it."""
    notes = "".join(f" Note: {note}." for note in found["notes"])
    if not found["edges"]:
        return f"Circuit: no edge was found.{notes}"
    score, low, high, control, least, most = (
        percent(found[c]) for c in ("score", "low", "high", "control", "control_low", "control_high")
    )
    whole = "" if found["whole_paths"] else " The edges make no whole path from embed to logits."
    return (
        f"Circuit: {found['edges']} of {found['of']:,} edges carry {score} [{low}, {high}] of the difference on "
        f"{found['held_out_pairs']} pairs that did not choose them, {found['sure']} with q ≤ 0.05 "
        f"each; random circuits of that size carry {control} ({least} to {most}).{whole}{notes}"
    )
