"""Long work that knows nothing of models: progress, estimate, finished parts, interruption, and what failed."""

from conceptlab.runs.checkpoint import Checkpoint
from conceptlab.runs.estimate import Estimate
from conceptlab.runs.failures import as_run_error
from conceptlab.runs.interrupt import Interrupted, interruptible
from conceptlab.runs.part import Part
from conceptlab.runs.progress import SILENT, Progress, Task

__all__ = [
    "SILENT",
    "Checkpoint",
    "Estimate",
    "Interrupted",
    "Part",
    "Progress",
    "Task",
    "as_run_error",
    "interruptible",
]
