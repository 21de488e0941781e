"""Results draw themselves in a notebook.

`results` lies below `plot` and knows no charts, so the link is made from here: IPython is told, by the names of the types
and without importing them, to ask `chart_of`. `conceptlab.atlas` calls `register` when it is imported; whoever uses `measure`
alone calls it once. Outside IPython it does nothing.
"""

import sys
from typing import Any

TYPES = (
    ("conceptlab.results.circuit", "Circuit"),
    ("conceptlab.results.scores", "Scores"),
    ("conceptlab.results.units", "Units"),
)


def register() -> bool:
    """Tell the running IPython, if there is one, to draw `Scores`, `Units` and `Circuit`. Says whether it did."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None:
        return False
    formatter = shell.display_formatter.mimebundle_formatter
    for module, name in TYPES:
        formatter.for_type_by_name(module, name, bundle)
    return True


def bundle(result: Any, **_: object) -> dict[str, Any]:
    """The mimebundle of a result: its chart where its kind has one, else its table."""
    from conceptlab.plot.choose import chart_of

    chart = chart_of(result)
    if chart is not None:
        return chart._repr_mimebundle_()
    return result._repr_mimebundle_()
