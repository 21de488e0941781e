"""What starting costs, each in a fresh process: import, --help, loading and wrapping a model, and its memory."""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .models import make_module
from .table import Row

COMMAND = str(Path(sys.executable).with_name("conceptlab"))

_LOADING = """
import json, pathlib, sys, time
import torch, transformers
kind, folder = sys.argv[1:]
status = pathlib.Path("/proc/self/status")  # ru_maxrss would count the parent's memory at the fork
high = lambda: next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
peak = lambda: high() / 1024 if status.exists() else float("nan")
ids = torch.arange(1, 9)[None]
start = time.thread_time()
module = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
loaded, wrapped = time.thread_time() - start, 0.0
with torch.no_grad():
    module(ids)
if kind == "conceptlab":
    from conceptlab.model import Batch, load_model
    start = time.thread_time()
    model = load_model(module)
    wrapped = time.thread_time() - start
    model.capture(Batch((tuple(range(1, 9)),)), "resid_post")
print(json.dumps({"load": loaded, "wrap": wrapped, "peak": peak()}))
"""


def starting_rows(*, runs: int = 5) -> list[Row]:
    """Median seconds of `import conceptlab` and of `conceptlab --help`, CPU and wall."""
    cases = [
        ("import conceptlab", [sys.executable, "-c", "import conceptlab"], 0.3),
        ("conceptlab --help", [COMMAND, "--help"], 0.5),
    ]
    floor = _run([sys.executable, "-c", "pass"], runs)
    rows = []
    for what, command, target in cases:
        cpu, wall = _run(command, runs)
        note = f"median of {runs}; an empty Python takes {floor[0]:.2f} s"
        rows.append(Row("Starting", what, f"{cpu:.2f} s", cpu, cpu, target, f"{wall:.2f} s", note))
    return rows


def _run(command: list[str], runs: int) -> tuple[float, float]:
    found = []
    for _ in range(runs):
        before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found.append((cpu, time.perf_counter() - wall))
    return statistics.median(c for c, _ in found), statistics.median(w for _, w in found)


def loading_rows(kind: str, *, runs: int = 2) -> list[Row]:
    """Seconds to load with Hugging Face, to wrap (anatomy found and its identities tested), and peak memory over it."""
    with tempfile.TemporaryDirectory() as folder:
        make_module(kind).save_pretrained(folder)
        bare = [_loading("bare", folder) for _ in range(runs)]
        ours = [_loading("conceptlab", folder) for _ in range(runs)]
    load, wrap = (min(r[key] for r in ours) for key in ("load", "wrap"))
    over = statistics.median(r["peak"] for r in ours) - statistics.median(r["peak"] for r in bare)
    group = "Loading and wrapping (a fresh process each, seconds of main-thread CPU)"
    peak = statistics.median(r["peak"] for r in bare)
    return [
        Row(group, f"{kind}: load with Hugging Face", f"{load:.2f} s"),
        Row(group, f"{kind}: wrap", f"{wrap:.2f} s", note="anatomy found by asking, every sum tested"),
        Row(group, f"{kind}: peak memory over Hugging Face", f"{over:+.0f} MiB", note=f"of {peak:.0f} MiB"),
    ]


def _loading(kind: str, folder: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", _LOADING, kind, folder], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])
