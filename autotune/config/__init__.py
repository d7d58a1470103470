"""Study files: the typed tables, the loader with errors that name file, line and key, and the user's task."""

from __future__ import annotations

from autotune.config.amounts import Asked, idle, impossible, read_budget
from autotune.config.families import Family, LeftOut, families_of, worth_telling
from autotune.config.leaving_out import without
from autotune.config.loader import LoadedStudy, load_study, override
from autotune.config.tables import (
    FinalistsTable,
    GroupTable,
    JudgeTable,
    PatienceTable,
    QuantizeTable,
    RecoverTable,
    SearchTable,
    StudyConfig,
    WorkloadTable,
    not_on_hardware,
    tightest,
)
from autotune.config.task import load_workload

__all__ = [
    "Asked",
    "Family",
    "FinalistsTable",
    "GroupTable",
    "JudgeTable",
    "LeftOut",
    "LoadedStudy",
    "PatienceTable",
    "QuantizeTable",
    "RecoverTable",
    "SearchTable",
    "StudyConfig",
    "WorkloadTable",
    "families_of",
    "idle",
    "impossible",
    "load_study",
    "load_workload",
    "not_on_hardware",
    "override",
    "read_budget",
    "tightest",
    "without",
    "worth_telling",
]
