"""Mutex groups as code: describe them in a file, plan the changes, apply the plan.

There is no state file: a plan compares the desired state with the live groups, which costs one listing. YAML files need
PyYAML (``pip install 'aiomutex[cli]'``); JSON files need no extra package.
"""

from aiomutex.plan.apply import ApplyReport, PlanBlockedError, Step, apply
from aiomutex.plan.changes import Counts, FieldChange, GroupPlan, ListChange, Plan, after, fingerprint
from aiomutex.plan.desired import Desired, DesiredGroup, DesiredSlot, Thresholds
from aiomutex.plan.diff import plan
from aiomutex.plan.dump import desired_from, dump_constants, dump_desired
from aiomutex.plan.experiments import AffectedExperiment, check_running, read_experiments
from aiomutex.plan.formats import DesiredFileError
from aiomutex.plan.lint import RULES, Finding, lint, new_findings
from aiomutex.plan.reading import load_desired, parse_desired
from aiomutex.plan.render import Review, markdown, plan_json, render, report
from aiomutex.plan.saved import StalePlanError, load_plan, remaining, save_plan

__all__ = [
    "RULES", "AffectedExperiment", "ApplyReport", "Counts", "Desired", "DesiredFileError", "DesiredGroup",
    "DesiredSlot", "FieldChange", "Finding", "GroupPlan", "ListChange", "Plan", "PlanBlockedError", "Review",
    "StalePlanError", "Step", "Thresholds", "after", "apply", "check_running", "desired_from", "dump_constants",
    "dump_desired", "fingerprint", "lint", "load_desired", "load_plan", "markdown", "new_findings", "parse_desired",
    "plan", "plan_json", "read_experiments", "remaining", "render", "report", "save_plan",
]  # fmt: skip
