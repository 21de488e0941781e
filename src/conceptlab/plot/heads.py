"""The head map: which attention heads carry a concept, with those that survive the false-discovery rate outlined."""

from conceptlab.plot.channels import quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.naming import visible
from conceptlab.plot.rows import number, rows_of
from conceptlab.results import Units

COLUMNS = {"score": "score", "control": "null, mean", "p": "p", "q": "q over all heads"}
LEAST = 0.2  # of score above the null's mean is what the darkest colour stands for at least: noise stays pale


def head_map(heads: Units, *, name: str = "", q_max: float = 0.05) -> Chart:
    """Layers x heads, coloured by score; outlined where q <= `q_max`."""
    data = heads.table
    rows = rows_of(data, ("layer", "index", *COLUMNS))
    for row in rows:
        row |= {"head": f"L{row['layer']}.H{row['index']}", "found": row.get("q") is not None and row["q"] <= q_max}
        del row["unit"]
    n_heads = 1 + max(int(row["index"]) for row in rows)
    low = min((row["control"] for row in rows if row.get("control") is not None), default=0)
    high = max([low + LEAST, *(row["score"] for row in rows if row.get("score") is not None)])
    ticks = {"labelAngle": 0, "labelOverlap": True, "ticks": False, "domain": False}
    legend = {"orient": "top", "direction": "horizontal", "gradientLength": 160, "gradientThickness": 8, "tickCount": 4}
    colour = quantity(
        "score",
        scale={"domain": [number(low), number(high)], "clamp": True, "nice": False, "interpolate": "rgb"},
        legend=legend,
    )
    cell = {"type": "rect", "cornerRadius": 2}
    tip = tooltip(COLUMNS, {"head": "head"}, rows)
    layers = [
        {"mark": {**cell, "style": "edge", "strokeWidth": 1.5}, "encoding": {"color": colour, "tooltip": tip}},
        {
            "transform": [{"filter": "datum.found"}],
            "mark": {**cell, "style": "outline", "fillOpacity": 0, "strokeWidth": 2},
            "encoding": {"tooltip": tip},
        },
    ]
    position = {
        "x": {"field": "layer", "type": "ordinal", "axis": ticks, "title": "layer"},
        "y": {"field": "index", "type": "ordinal", "axis": ticks, "title": "head"},
    }
    n_found = sum(row["found"] for row in rows)
    says = (
        f"Score of each head's own output. {_count(n_found, 'head', len(rows))} {'is' if n_found == 1 else 'are'} outlined: "
        f"q ≤ {q_max:g} over all of them. The palest colour is the mean of the null."
    )
    body = {"width": 420, "height": max(210, min(18 * n_heads, 420)), "encoding": position, "layer": layers}
    return Chart(f"{visible(name)}: heads" if name else "Heads", says, body, tuple(rows))


def _count(n: int, noun: str, total: int) -> str:
    return f"{'None' if n == 0 else n} of {total} {noun}s"
