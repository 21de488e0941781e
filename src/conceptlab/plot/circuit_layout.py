"""Where the nodes and edges of a circuit are drawn: layers from below, heads to the left, the MLP at the right and a little higher.

A row holds heads of one layer, at most `ROW` of them; where heads share keys and values, a row of key/value boxes lies under them.
embed and logits are bars over the whole width, so that their edges go straight. All lengths are in points, y goes up.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from conceptlab.plot.layered import FIXED, place
from conceptlab.results import Circuit

ROW = 14  # heads side by side
BOX, HEIGHT, GAP = 52.0, 30.0, 14.0  # of a node: its width, its height, the least distance between two
END, LAYER, CLOSE, RAISED = (
    76.0,
    92.0,
    62.0,
    60.0,
)  # from a bar to a row, layer to layer, row to row in one; MLP above its heads
LANE = 11.0  # what a passing edge takes
LEFT = 66.0  # for the names of layers
LEAST = 260.0  # the width of the bars
BEND = 26.0  # how far an edge keeps straight at a node
MARGIN = 12.0  # below the first layer and above the last, where there is no bar
PORTS = {"q": -15.0, "k": 0.0, "v": 15.0}

Point = tuple[float, float]


@dataclass
class Node:
    """A box: its middle `x`, `y`, its `kind` (embed, head, kv, mlp, logits) and which of its inputs an edge enters."""

    name: str
    kind: str
    layer: int
    head: int
    row: int = 0
    x: float = 0.0
    y: float = 0.0
    width: float = BOX
    ports: set[str] = field(default_factory=set)

    @property
    def is_bar(self) -> bool:
        """Whether it is drawn over the whole width."""
        return self.kind in ("embed", "logits")


@dataclass
class Wire:
    """An edge of the circuit between two boxes, with its x on every row that it passes."""

    source: Node
    target: Node
    port: str
    lanes: list[float] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    @property
    def passed(self) -> range:
        """The rows between its ends; on the way to an MLP from below also the heads of its layer."""
        return range(self.source.row + 1, self.target.row + (self.target.kind == "mlp"))

    @property
    def entry(self) -> float:
        """The x of the input that it enters."""
        return self.target.x + PORTS.get(self.port, 0.0)


@dataclass
class Drawing:
    """Nodes, one wire an edge, lines from a key/value box to its heads, and the size of the whole."""

    nodes: list[Node]
    wires: list[Wire]
    served: list[tuple[Point, Point]]
    width: float
    height: float


def layout(circuit: Circuit) -> Drawing:
    """Place every node that an edge touches, and lead the edges past the others."""
    nodes, wires = _boxes(circuit)
    y = _rows(nodes)
    pairs = _serving(nodes, circuit.shape.n_heads // circuit.shape.n_kv_heads)
    width = LEFT + _Columns(nodes, wires, pairs).place()
    for node in nodes:
        node.y = y[node.row] + (RAISED if node.kind == "mlp" else 0)
        if node.is_bar:
            node.x, node.width = (LEFT + width) / 2, width - LEFT
    _route(wires, y)
    served = [((box.x, box.y + HEIGHT / 2), (head.x, head.y - HEIGHT / 2)) for box, head in pairs]
    return Drawing(nodes, wires, served, width, max(y[-1] + HEIGHT / 2 + 2, 2 * HEIGHT))


def _boxes(circuit: Circuit) -> tuple[list[Node], list[Wire]]:
    senders, receivers = circuit.shape.senders, circuit.shape.receivers
    shared = ("k", "v") if circuit.shape.n_kv_heads != circuit.shape.n_heads else ()
    nodes: dict[str, Node] = {}

    def node(kind: str, layer: int, head: int) -> Node:
        written = {"mlp": f"L{layer}.mlp", "kv": f"L{layer}.KV{head}", "head": f"L{layer}.H{head}"}.get(kind, kind)
        return nodes.setdefault(written, Node(written, kind, layer, head))

    wires = []
    for s, t in circuit.edges.tolist():
        port = str(receivers.kind[t])
        kind = "kv" if port in shared else "head" if port in PORTS else port
        source = node(str(senders.kind[s]), int(senders.layer[s]), int(senders.head[s]))
        target = node(kind, int(receivers.layer[t]), int(receivers.head[t]))
        target.ports |= {port} & set(PORTS)
        wires.append(Wire(source, target, port))
    return list(nodes.values()), wires


def _serving(nodes: list[Node], group: int) -> list[tuple[Node, Node]]:
    """(key/value box, head) for each head that reads the box."""
    boxes, heads = ([node for node in nodes if node.kind == kind] for kind in ("kv", "head"))
    return [(b, h) for b in boxes for h in heads if (b.layer, b.head) == (h.layer, h.head // group)]


def _rows(nodes: list[Node]) -> list[float]:
    """Give every node its row; the y of each row, embed first and logits last (off the picture where no edge touches them)."""
    kinds = {node.kind for node in nodes}
    y, step = [HEIGHT / 2 if "embed" in kinds else 0.5 * HEIGHT + MARGIN - END], END
    for layer in sorted({node.layer for node in nodes if not node.is_bar}):
        own = [node for node in nodes if node.layer == layer]
        for row in _layer_rows(own):
            y.append(y[-1] + step)
            step = CLOSE
            for node in row:
                node.row = len(y) - 1
        mlp = [node for node in own if node.kind == "mlp"]
        for node in mlp:
            node.row = len(y) - 1
        step = LAYER + (RAISED if mlp else 0)
    for node in nodes:
        if node.kind == "logits":
            node.row = len(y)
    above = step + END - LAYER if "logits" in kinds else step - LAYER + MARGIN
    return [*y, y[-1] + above]


def _layer_rows(own: list[Node]) -> list[list[Node]]:
    """The rows of one layer: shared keys and values, then heads, in rows of nearly equal length; one at least, for the MLP."""
    rows = []
    for kind in ("kv", "head"):
        members = sorted((node for node in own if node.kind == kind), key=lambda node: node.head)
        n = -(-len(members) // ROW)
        rows += [members[i * len(members) // n : (i + 1) * len(members) // n] for i in range(n)]
    return rows or [[]]


class _Columns:
    """Gives nodes and lanes their x. MLPs stand in a column of their own; bars have no place, so their edges pull nowhere."""

    def __init__(self, nodes: list[Node], wires: list[Wire], pairs: list[tuple[Node, Node]]) -> None:
        self.mlps = [node for node in nodes if node.kind == "mlp"]
        self.nodes = [node for node in nodes if not node.is_bar]
        self.wires = wires
        self.level = [FIXED if node.kind == "mlp" else node.row for node in self.nodes]
        self.width = [BOX + GAP] * len(self.nodes)
        most = 1 + max((node.head for node in self.nodes), default=0)
        self.start = [1.0 if node.kind == "mlp" else (node.head + 0.5) / most for node in self.nodes]
        self.at = {node.name: i for i, node in enumerate(self.nodes)}
        self.links = [(self.at[box.name], self.at[head.name], 0.0) for box, head in pairs]
        self.links += [link for wire in wires if wire.source.row < wire.target.row for link in self._chain(wire)]

    def _chain(self, wire: Wire) -> list[tuple[int, int, float]]:
        """A lane on every row that the wire passes; the links (lower, upper, where it enters) from end to end."""
        ends = [self.at.get(node.name) for node in (wire.source, wire.target)]
        begin, end = (self.start[i] if i is not None else None for i in ends)
        begin, end = (begin if begin is not None else end), (end if end is not None else begin)
        lanes = range(len(self.level), len(self.level) + len(wire.passed))
        for i, row in enumerate(wire.passed):
            part = (i + 1) / (len(wire.passed) + 1)
            self.level.append(row)
            self.width.append(LANE)
            self.start.append(0.5 if begin is None or end is None else begin + part * (end - begin))
        chain = [i for i in (ends[0], *lanes, ends[1]) if i is not None]
        enters = {ends[1]: PORTS.get(wire.port, 0.0)}
        return [(low, high, enters.get(high, 0.0)) for low, high in zip(chain, chain[1:], strict=False)]

    def place(self) -> float:
        """Set every x; the width of the whole."""
        level, width = np.array(self.level, dtype=int), np.array(self.width)
        moved = level != FIXED
        span = max(LEAST, float(np.bincount(level[moved], width[moved]).max(initial=0)))
        start = np.where(moved, np.array(self.start) * span, span + GAP + BOX / 2)
        links = np.array(self.links, dtype=float).reshape(-1, 3)
        x = LEFT + place(level, width, start, links[:, :2].astype(int), links[:, 2], span)
        for node, its in zip(self.nodes, x.tolist(), strict=False):
            node.x = its
        lane = iter(x[len(self.nodes) :].tolist())
        for wire in self.wires:
            wire.lanes = [next(lane) for _ in wire.passed]
        return span + (GAP + BOX if self.mlps else 0)


def _route(wires: list[Wire], y: list[float]) -> None:
    """The points of each wire: straight up out of a box, straight through every lane, straight up into the other box."""
    begin = _fans(wires, lambda w: w.source, lambda w: w.lanes[0] if w.lanes else w.entry)
    end = _fans(wires, lambda w: w.target, lambda w: w.lanes[-1] if w.lanes else begin[id(w)])
    for wire in wires:
        low, high = wire.source.y + HEIGHT / 2, wire.target.y - HEIGHT / 2
        last = wire.entry if wire.port in PORTS else end[id(wire)]
        first = last if wire.source.is_bar and not wire.lanes else begin[id(wire)]
        passing = [(x, y[r] + d) for r, x in zip(wire.passed, wire.lanes, strict=True) for d in (-BEND, 0.0, BEND)]
        # from the heads of its own layer an MLP is near
        start, stop = (HEIGHT / 2, HEIGHT / 2) if wire.source.layer == wire.target.layer else (BEND, BEND)
        stop = HEIGHT / 2 if wire.target.kind == "mlp" and wire.lanes else stop
        points = [(first, low), (first, low + start), *passing, (last, high - stop), (last, high)]
        # between close rows the straight parts would overlap; an edge never turns down
        up = np.minimum(np.maximum.accumulate([height for _, height in points]), high)
        wire.points = [(x, height) for (x, _), height in zip(points, up.tolist(), strict=True)]


def _fans(wires: list[Wire], box: Callable[[Wire], Node], towards: Callable[[Wire], float]) -> dict[int, float]:
    """Where each wire touches its box: side by side in the order in which wires go on; at a bar right where they go."""
    bundles, x = defaultdict(list), {}
    for wire in wires:
        bundles[box(wire).name].append(wire)
    for bundle in bundles.values():
        node = box(bundle[0])
        reach = min(6.0 * (len(bundle) - 1), BOX - 20) / 2
        offsets = np.linspace(-reach, reach, len(bundle)).tolist()
        for wire, offset in zip(sorted(bundle, key=towards), offsets, strict=True):
            x[id(wire)] = towards(wire) if node.is_bar else node.x + offset
    return x
