"""One process of a job: `python -m conceptlab.runs.worker RANK WORLD_SIZE`, the job as a line on standard input.

Reports go to standard output, a JSON object a line: `{"shard": 3, …}` for each finished shard, and one last line
`{"end": "done"}` or `{"end": "failed", "exit_code": 1, "message": "…"}`.
"""

import json
import os
import sys
from typing import Any

from conceptlab.errors import ConceptlabError
from conceptlab.runs.failures import as_run_error
from conceptlab.runs.job import Job, work
from conceptlab.runs.threads import threads


def main() -> int:
    """Work until nothing is left; the exit code is that of the command line."""
    rank, world_size = int(sys.argv[1]), int(sys.argv[2])
    reports = os.fdopen(os.dup(1), "w")  # what libraries print must not mix with the reports
    os.dup2(2, 1)

    def report(line: dict[str, Any]) -> None:
        reports.write(json.dumps(line) + "\n")
        reports.flush()

    try:
        job = Job.from_json(sys.stdin.readline())
        with threads(job.threads):
            for done in work(job.worker(), rank, world_size):
                report(dict(done))
    except KeyboardInterrupt:
        report({"end": "failed", "exit_code": 130, "message": "interrupted"})
        return 130
    except Exception as error:
        known = error if isinstance(error, ConceptlabError) else as_run_error(error)
        if known is None:
            report({"end": "failed", "exit_code": 1, "message": f"{type(error).__name__}: {error}"})
            raise
        report({"end": "failed", "exit_code": known.exit_code, "message": str(known)})
        return known.exit_code
    report({"end": "done"})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
