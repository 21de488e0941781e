"""Interventions at the cost of what they change: one call for any list of edits and any metric, exact and planned beforehand."""

from conceptlab.model.sweep.plan import Plan
from conceptlab.model.sweep.run import Sweep, plan_sweep, sweep

__all__ = ["Plan", "Sweep", "plan_sweep", "sweep"]
