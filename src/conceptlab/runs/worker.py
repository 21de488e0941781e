"""One process of a job: `python -m conceptlab.runs.worker RANK WORLD_SIZE`, the job as a line on standard input.

Reports go to standard output, a JSON object a line: `{"shard": 3, …}` for each finished shard, and one last line
`{"end": "done"}` or `{"end": "failed", "exit_code": 1, "message": "…"}`. When standard input ends, whoever started the process is
gone, and the process ends at once: what it has finished is kept, and nobody goes on unseen.
"""

import json
import os
import sys
import threading

from conceptlab.errors import ConceptlabError
from conceptlab.runs.failures import as_run_error
from conceptlab.runs.job import Job, listen, work
from conceptlab.runs.reports import DONE, Report, failed
from conceptlab.runs.threads import threads


def main() -> int:
    """Work until nothing is left; the exit code is that of the command line."""
    rank, world_size = int(sys.argv[1]), int(sys.argv[2])
    reports = os.fdopen(os.dup(1), "w")  # what libraries print must not mix with the reports
    os.dup2(2, 1)

    def report(line: Report) -> None:
        reports.write(json.dumps(dict(line)) + "\n")
        reports.flush()

    try:
        job = Job.from_json(sys.stdin.readline())
        threading.Thread(target=_end_with_standard_input, daemon=True).start()
        with threads(job.threads):
            worker = job.worker()
            listen(worker, report)
            for done in work(worker, rank, world_size):
                report(done)
    except (Exception, KeyboardInterrupt) as error:  # told to who started the process, which raises it there
        said = failed(error)
        report(said)
        if not isinstance(error, ConceptlabError | KeyboardInterrupt) and as_run_error(error) is None:
            raise
        return said["exit_code"]
    report(DONE)
    return 0


def _end_with_standard_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
