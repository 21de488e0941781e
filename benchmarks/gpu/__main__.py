"""`python -m benchmarks.gpu --out FOLDER [--only checks harvest neurons sweeps] [--tiny]`: the first GPU, or a trial on the CPU."""

import argparse
from pathlib import Path

import torch

from .checks import run_checks
from .harvest import run_harvests
from .machine import peak_flops
from .neurons import run_neurons
from .record import Record
from .sweeps import run_sweeps

PARTS = ("checks", "harvest", "neurons", "sweeps")


def measure(record: Record, device: torch.device, parts: list[str], *, tiny: bool) -> None:
    """The named parts in the order of PARTS."""
    if "checks" in parts:
        run_checks(record, device, tiny=tiny)
    if "harvest" in parts:
        run_harvests(record, device, tiny=tiny)
    if {"neurons", "sweeps"} & set(parts):
        peak = peak_flops(device, size=256 if tiny else 8192)
        record.add("Peak", "product of two square bfloat16 matrices", size=256 if tiny else 8192, tflop_s=peak / 1e12)
    if "neurons" in parts:
        run_neurons(record, device, tiny=tiny, peak=peak)
    if "sweeps" in parts:
        run_sweeps(record, device, tiny=tiny, peak=peak)


def main() -> None:
    """Read the options and measure."""
    options = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    options.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), help="measure these parts alone")
    options.add_argument("--tiny", action="store_true", help="small models: whether it runs, not how fast")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--out", type=Path, required=True, help="folder of gpu.json and gpu.md")
    chosen = options.parse_args()
    device = torch.device(chosen.device)
    if device.type == "cpu" and not chosen.tiny:
        options.error("there is no GPU here; --tiny tries the program on the CPU")
    measure(Record(chosen.out, device), device, list(chosen.only), tiny=chosen.tiny)


if __name__ == "__main__":
    main()
