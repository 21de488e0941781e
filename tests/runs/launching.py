"""A process that launches the toy job over two workers and says what they report: `python -m tests.runs.launching FOLDER`."""

import json
import sys
from pathlib import Path

from conceptlab.runs import Interrupted, interruptible
from conceptlab.runs.launch import processes
from tests.runs.toy_job import toy


def main() -> int:
    job = toy(Path(sys.argv[1]), n_shards=400, seconds=0.1)
    try:
        with interruptible("finished shards are kept"):
            for report in processes(job, 2):
                print(json.dumps(dict(report)), flush=True)
    except Interrupted as error:
        print(json.dumps({"interrupted": str(error)}), flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
