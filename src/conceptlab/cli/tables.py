"""Tables on standard output, wide enough when nobody watches; text from files is printed as it is, never as markup."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from conceptlab.cli.failing import one_line

if TYPE_CHECKING:
    from rich.table import Table

PIPE_WIDTH = 180  # characters, where standard output is no terminal


@dataclass(frozen=True)
class Column:
    """A column's heading and which way it is aligned."""

    name: str
    justify: Literal["left", "right"] = "left"


def print_table(title: str, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print one table with a title."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(one_line(title)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.name, justify=column.justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    show(table)


def show(table: "Table") -> None:
    """Print a finished table; in a narrow terminal its cells fold, so that no number loses its end."""
    from rich.console import Console

    for column in table.columns:
        column.overflow = "fold"
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    Console(file=sys.stdout, width=width, highlight=False).print(table)
