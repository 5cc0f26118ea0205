"""Scores of embeddings: pure functions on arrays first, tasks and references over them."""

from nearfar.evaluation.comparison import compare_rows
from nearfar.evaluation.diagnostics import Diagnostic, diagnose
from nearfar.evaluation.factors import factor_diagnostics, read_factors
from nearfar.evaluation.probe import knn, linear_probe
from nearfar.evaluation.references import references
from nearfar.evaluation.retrieval import retrieval
from nearfar.evaluation.statistics import bootstrap, interval, paired_interval
from nearfar.evaluation.tasks import Scores, Task, task_for

__all__ = ["Diagnostic", "Scores", "Task", "bootstrap", "compare_rows", "diagnose", "factor_diagnostics", "interval",
           "knn", "linear_probe", "paired_interval", "read_factors", "references", "retrieval", "task_for"]
