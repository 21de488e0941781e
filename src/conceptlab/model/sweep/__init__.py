"""Interventions at the cost of what they change: one call for any list of edits and any metric, exact and planned beforehand."""

from conceptlab.model.sweep.plan import Plan
from conceptlab.model.sweep.run import Sweep, plan_sweep, sweep
from conceptlab.model.sweep.sharded import Request, gather, sweep_job

__all__ = ["Plan", "Request", "Sweep", "gather", "plan_sweep", "sweep", "sweep_job"]
