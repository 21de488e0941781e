"""Test every model type and write the table: `python -m tests.conformance.run --all --out docs/models.md`.

Each type runs in a process of its own, so that one crash does not stop the run; what is done is kept beside the temporary files
under the hash of the engine's and the tests' source, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging

import conceptlab

from .case import Record
from .examine import all_names, class_name, examine
from .table import counts, to_markdown

LIMIT_SECONDS = 120.0


def store_path() -> Path:
    """Where the records of this very source are kept."""
    digest = hashlib.sha256(f"{transformers.__version__} {torch.__version__}".encode())
    for folder in (Path(conceptlab.__file__).parent / "model", Path(conceptlab.__file__).parent / "results"):
        _add_sources(digest, folder)
    _add_sources(digest, Path(__file__).parent)
    return Path(tempfile.gettempdir()) / f"conceptlab-conformance-{digest.hexdigest()[:16]}.jsonl"


def _add_sources(digest: Any, folder: Path) -> None:
    for path in sorted(folder.glob("*.py")):
        if path.name not in ("run.py", "table.py"):
            digest.update(path.read_bytes())


def stored(path: Path) -> dict[str, Record]:
    """Records of an earlier run of the same source."""
    if not path.exists():
        return {}
    rows = [Record.from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return {row.model_type: row for row in rows}


def _child(name: str, connection: Any) -> None:
    torch.set_num_threads(1)
    connection.send(examine(name).to_json())
    connection.close()


def isolated(name: str) -> Record:
    """Examine one type in a process of its own; a crash or a run over the limit becomes the record's reason."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, sender))
    process.start()
    sender.close()
    try:
        if receiver.poll(LIMIT_SECONDS):
            return Record.from_json(receiver.recv())
        reason = f"stopped after {LIMIT_SECONDS:.0f} s"
    except EOFError:
        reason = "the process that tested it crashed"
    finally:
        process.kill() if process.is_alive() and not receiver.closed else None
        process.join()
        receiver.close()
    return Record(name, class_name(name), reason=reason)


def run(names: list[str], *, fresh: bool = False) -> list[Record]:
    """Records of these types in order, from the store where they are there."""
    path = store_path()
    if fresh:
        path.unlink(missing_ok=True)
    done = stored(path)
    if any(name not in done for name in names):
        examine("llama")  # imports what every type needs, once, before the processes part
    for name in names:
        if name not in done:
            done[name] = isolated(name)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[name].to_json()) + "\n")
        print(line(done[name]), flush=True)
    return [done[name] for name in names]


def line(record: Record) -> str:
    """One line for the terminal: type, verdict, and what fails."""
    verdict = "not read" if record.reason else "pass" if record.conforms else "FAIL"
    told = record.reason or "; ".join(
        f"{name}: {o.note or o.error}" for name, o in record.identities.items() if o.status == "FAIL"
    )
    return f"{record.model_type:26} {verdict:9} {record.seconds:6.1f} s  {told[:200]}"


def main(arguments: list[str]) -> int:
    """Entry point; 1 when any identity fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help='model types, "other:bert" for other kinds')
    parser.add_argument("--all", action="store_true", help="every causal-LM type and the other kinds")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run of this source found")
    parser.add_argument("--out", type=Path, help="write the table as Markdown")
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    start = time.perf_counter()
    records = run(all_names() if options.all else options.types, fresh=options.fresh)
    print(counts(records))
    print(f"{time.perf_counter() - start:.0f} s")
    if options.out:
        options.out.write_text(to_markdown(records), encoding="utf-8")
    return 0 if all(r.conforms or r.reason for r in records) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
