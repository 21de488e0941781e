"""Other tools on the same work: installed into an environment of their own under .bench/, each run in its own process.

The environment borrows torch and transformers from the project's, so that every ratio is to the same bare forward; what a peer
needs besides is its own.
"""

import importlib.metadata
import json
import os
import site
import subprocess
import sys
from pathlib import Path

from .table import Row

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".bench" / "peers"
PEERS = ("transformer-lens", "nnsight", "pyvene")
WORK = {
    "forward": "forward, all logits",
    "stream": "stream of all layers, last token (with logits, as they do by default)",
    "everything": "everything that the tool names",
    "steer": "64 tokens with one steering vector (bare generate = 1)",
}
GROUP = "Peers on the same work (gpt2, 8x128 tokens, bare Hugging Face = 1)"
Found = dict[str, object]


def peer_rows(ours: dict[str, str]) -> list[Row]:
    """One row a work, one column a tool; `ours` {work: cell} stands first. Why a tool was skipped stands in its cells."""
    problem = install()
    columns = {peer: {} if problem else run(peer) for peer in PEERS}
    heads = {peer: f"{peer} {version(peer)}".strip() for peer in PEERS}
    rows = []
    for work, what in WORK.items():
        cells = {"conceptlab": ours.get(work, "")}
        cells |= {heads[p]: cell(columns[p].get(work, columns[p].get("error", "not installed"))) for p in PEERS}
        rows.append(Row(GROUP, what, "", peers=cells, note=problem))
    return rows


PATCHING = {
    "patch_stream": "patch the stream at 12 x 32 (layer, position), 384 patches",
    "patch_heads": "patch 144 heads at all positions",
}
PATCHING_GROUP = "Peers: exact patching (gpt2, one 32-token prompt, its bare forward = 1)"


def patching_peer_rows() -> list[Row]:
    """Every patch of the same sweeps as whole forwards: a share of them is timed and scaled, since each costs the same."""
    problem = install()
    columns = {peer: {} if problem else run(f"patching:{peer}") for peer in PEERS[:2]}
    heads = {peer: f"{peer} {version(peer)}".strip() for peer in PEERS}
    rows = []
    for work, what in PATCHING.items():
        cells = {heads[p]: cell(columns[p].get(work, columns[p].get("error", "not installed"))) for p in PEERS[:2]}
        rows.append(Row(PATCHING_GROUP, what, "", peers=cells, note=problem))
    return rows


def cell(found: object) -> str:
    """`1.07 [1.05, 1.10]`, or the reason why there is none."""
    return found if isinstance(found, str) else "{:.3g} [{:.3g}, {:.3g}]".format(*found)  # type: ignore[misc]


def install() -> str:
    """Make the environment where it is missing; returns why it could not be made ("" where all is well)."""
    packages = HOME / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if all(version(peer) for peer in PEERS):
        return ""
    try:
        subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True, capture_output=True)
        (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
        pinned = [f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "transformers")]
        command = [str(HOME / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *pinned, *PEERS]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return "the peers could not be installed in 10 minutes"
    except subprocess.CalledProcessError as error:
        reason = [line for line in str(error.stderr or "").splitlines() if "ERROR" in line]
        return f"the peers could not be installed: {reason[0] if reason else error}"
    return ""


def version(peer: str) -> str:
    """The installed version of a peer, "" where it is not there."""
    found = list((HOME / "lib").glob(f"python*/site-packages/{peer.replace('-', '_')}-*.dist-info"))
    return found[0].name.split("-")[1].removesuffix(".dist") if found else ""


def run(peer: str) -> Found:
    """Ratios of one peer, or {"error": why}."""
    command = [str(HOME / "bin" / "python"), "-m", "benchmarks.speed.peer_rows", peer]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return {"error": "skipped: not done in 5 minutes"}
    if done.returncode:
        return {
            "error": f"skipped: {done.stderr.strip().splitlines()[-1][:120] if done.stderr.strip() else 'it failed'}"
        }
    return json.loads(done.stdout.strip().splitlines()[-1])
