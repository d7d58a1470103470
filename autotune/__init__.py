"""Compress a model for named hardware: per-layer recipes, really built, really measured, judged slice by
slice.

`optimize` is the one-call entry; the nouns beside it are for those who want control. Everything is loaded on
first use: `import autotune` alone loads neither torch nor onnxruntime nor optuna nor a database.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.api import Result, optimize
    from autotune.bundle import export_bundle, verify_bundle
    from autotune.config import StudyConfig, load_study, load_workload
    from autotune.errors import AutotuneError, ConfigError, DataError, Infeasible, UsageError
    from autotune.evaluation import Evaluation
    from autotune.judge.models import ModelJudgement, judge_models
    from autotune.keys import MetricKey, parse_key
    from autotune.layers import Inspection, Layer
    from autotune.recipe import Recipe
    from autotune.search.study import Study
    from autotune.slices import Declaration
    from autotune.trial import Trial
    from autotune.workload import Dataset, Sample, Task, Workload

__version__ = "0.1.0"

_HOME = {  # public name -> module that defines it
    "AutotuneError": "autotune.errors",
    "ConfigError": "autotune.errors",
    "DataError": "autotune.errors",
    "Dataset": "autotune.workload",
    "Declaration": "autotune.slices",
    "Evaluation": "autotune.evaluation",
    "Infeasible": "autotune.errors",
    "Inspection": "autotune.layers",
    "Layer": "autotune.layers",
    "MetricKey": "autotune.keys",
    "ModelJudgement": "autotune.judge.models",
    "Recipe": "autotune.recipe",
    "Result": "autotune.api",
    "Sample": "autotune.workload",
    "Study": "autotune.search.study",
    "StudyConfig": "autotune.config",
    "Task": "autotune.workload",
    "Trial": "autotune.trial",
    "UsageError": "autotune.errors",
    "Workload": "autotune.workload",
    "export_bundle": "autotune.bundle",
    "judge_models": "autotune.judge.models",
    "load_study": "autotune.config",
    "load_workload": "autotune.config",
    "optimize": "autotune.api",
    "parse_key": "autotune.keys",
    "verify_bundle": "autotune.bundle",
}

__all__ = [
    "AutotuneError",
    "ConfigError",
    "DataError",
    "Dataset",
    "Declaration",
    "Evaluation",
    "Infeasible",
    "Inspection",
    "Layer",
    "MetricKey",
    "ModelJudgement",
    "Recipe",
    "Result",
    "Sample",
    "Study",
    "StudyConfig",
    "Task",
    "Trial",
    "UsageError",
    "Workload",
    "__version__",
    "export_bundle",
    "judge_models",
    "load_study",
    "load_workload",
    "optimize",
    "parse_key",
    "verify_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'autotune' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
