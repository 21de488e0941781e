"""Runs `on_gpu.py`, which registers a device with torch, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path


def test_everything_finds_its_tensors_on_the_models_device() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("on_gpu.py"))], capture_output=True, text=True, timeout=600,
        env=environment, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert done.stdout.count(".") >= 7, done.stdout
