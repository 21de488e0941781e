"""Rows of the one table, and how they are printed and written."""

from dataclasses import dataclass, field

from .pairs import Timing


@dataclass(frozen=True)
class Row:
    """One line: `value` as text, `target` the issue's bound (None: no bound), `number` what is compared with it."""

    group: str
    what: str
    value: str
    number: float | None = None
    low: float | None = None
    target: float | None = None
    wall: str = ""
    note: str = ""
    peers: dict[str, str] = field(default_factory=dict)
    high: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the bound is met; where the interval holds the bound, on which side of it the median is."""
        if self.target is None or self.number is None:
            return ""
        if self.number <= self.target:
            return "yes" if self.high is None or self.high <= self.target else "at the median"
        return "not resolved" if self.low is not None and self.low <= self.target else "no"


def timed(group: str, what: str, timing: Timing, *, target: float | None = None, unit: str = "", note: str = "") -> Row:
    """A row of a measured ratio (or of milliseconds)."""
    value = f"{timing.value:.3g}{unit}" + (f" [{timing.low:.3g}, {timing.high:.3g}]" if timing.n > 1 else "")
    pairs = f"{timing.n} pair{'s' * (timing.n > 1)}" + (f"; {note}" if note else "")
    return Row(group, what, value, timing.value, timing.low, target, f"{timing.wall:.3g}{unit}", pairs,
               high=timing.high if timing.n > 1 else None)  # fmt: skip


def markdown(rows: list[Row]) -> str:
    """All rows as Markdown tables, one a group."""
    lines = []
    for group in dict.fromkeys(r.group for r in rows):
        mine = [r for r in rows if r.group == group]
        names = list(dict.fromkeys(name for r in mine for name in r.peers))
        head = ["what", "CPU [95 %]", "wall", "target", "met", *names, "note"]
        lines += ["", f"## {group}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for r in mine:
            target = "" if r.target is None else f"≤ {r.target:g}"
            cells = [r.what, r.value, r.wall, target, r.verdict, *(r.peers.get(n, "") for n in names), r.note]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def merged(old: str, rows: list[Row], when: str) -> str:
    """An earlier page with the sections of these rows put in place of its own, or at its end; each says when it was measured."""
    head, *sections = old.split("\n## ")
    kept = {section.split("\n", 1)[0]: section for section in sections}
    for group in dict.fromkeys(r.group for r in rows):
        table = markdown([r for r in rows if r.group == group]).split("\n\n", 1)[1]
        kept[group] = f"{group}\n\nMeasured {when}.\n\n{table}"
    return "\n## ".join([head.rstrip("\n") + "\n", *(text.rstrip("\n") + "\n" for text in kept.values())])


def plain(rows: list[Row]) -> str:
    """The same for a terminal."""
    wide = max((len(r.what) for r in rows), default=0)
    out = []
    for group in dict.fromkeys(r.group for r in rows):
        out.append(f"\n{group}")
        for r in (r for r in rows if r.group == group):
            target = "" if r.target is None else f"target {r.target:g}: {r.verdict}"
            beside = ", ".join(f"{k} {v}" for k, v in r.peers.items())
            out.append("  ".join(x for x in (f"  {r.what:<{wide}}", r.value, target, beside, r.note) if x))
    return "\n".join(out)
