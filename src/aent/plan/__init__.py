"""What a reproduction will take, before it is started: memory, hours, disk, samples.

Estimates from shapes and from the assumptions of `aent.config.plan`; nothing runs, nothing is
downloaded, no torch is imported.
"""

from aent.plan.estimate import Plan, RunPlan, assume, make_plan
from aent.plan.shape import PlanError
from aent.plan.text import notes, plan_table, render

__all__ = [
    "Plan",
    "PlanError",
    "RunPlan",
    "assume",
    "make_plan",
    "notes",
    "plan_table",
    "render",
]
