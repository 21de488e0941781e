"""Rows of measurements, on the disk as soon as each is made: a run that is cut short leaves what it has measured."""

import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

Row = Mapping[str, Any]


@dataclass(eq=False)
class Record:
    """`rows` as they come; `gpu.json` and `gpu.md` in `folder` hold them all after every `add`."""

    folder: Path
    device: torch.device
    rows: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def add(self, section: str, what: str, **measured: Any) -> None:
        """Keep one row and write everything."""
        row = {"section": section, "what": what, **measured}
        self.rows.append(row)
        print(f"[{time.perf_counter() - self.started:6.1f} s] {section} | {_line(row)}", flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write("gpu.json", json.dumps({**self.machine, "rows": self.rows}, indent=1, default=str))
        self._write("gpu.md", markdown(self.rows, self.machine))

    def _write(self, name: str, text: str) -> None:
        with (self.folder / name).open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def guarded(self, section: str, what: str, measure: Callable[[], None]) -> None:
        """Measure; an error becomes a row, and the next measurement goes on."""
        try:
            measure()
        except Exception as error:  # noqa: BLE001 - a benchmark on a borrowed machine says what failed and goes on
            where = traceback.format_exc().splitlines()[-9:]
            print("\n".join(where), flush=True)
            said = " ".join(str(error).split())[:200]
            self.add(section, what, error=f"{type(error).__name__}: {said}", where=" / ".join(x.strip() for x in where))
        free_memory(self.device)

    @property
    def machine(self) -> dict[str, str]:
        """What it was measured on."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU (a trial of the program)"
        return {
            "device": name,
            "cores": str(os.cpu_count()),
            "python": platform.python_version(),
            "torch": version("torch"),
            "transformers": version("transformers"),
            "date": time.strftime("%Y-%m-%d"),
        }


def free_memory(device: torch.device) -> None:
    """Give back what torch holds of the device and nobody uses."""
    import gc

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _line(row: Row) -> str:
    return ", ".join(f"{name} {_cell(value)}" for name, value in row.items() if name not in ("section", "where"))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def markdown(rows: list[dict[str, Any]], machine: Mapping[str, str]) -> str:
    """One table a section."""
    lines = ["# On a GPU", "", ", ".join(f"{name}: {value}" for name, value in machine.items())]
    for section in dict.fromkeys(row["section"] for row in rows):
        mine = [row for row in rows if row["section"] == section]
        names = list(dict.fromkeys(n for row in mine for n in row if n not in ("section", "where")))
        lines += ["", f"## {section}", "", "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        lines += ["| " + " | ".join(_cell(row.get(n, "")).replace("|", "/") for n in names) + " |" for row in mine]
    return "\n".join(lines) + "\n"
