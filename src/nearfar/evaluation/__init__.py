"""Scores of embeddings: pure functions on arrays first, tasks and references over them."""

from nearfar.evaluation.comparison import compare_rows, ranked_apart
from nearfar.evaluation.dense import DenseScores, Segmentation, dense_probe, segmentation_probe
from nearfar.evaluation.diagnostics import Diagnostic, diagnose
from nearfar.evaluation.factors import Readout, factor_diagnostics, read_factors
from nearfar.evaluation.fewshot import episodes, few_shot
from nearfar.evaluation.margin import margin_scores
from nearfar.evaluation.pairwise import average_precision, pearson, spearman, tell_apart
from nearfar.evaluation.probe import knn, linear_probe
from nearfar.evaluation.references import references
from nearfar.evaluation.retrieval import retrieval
from nearfar.evaluation.statistics import bootstrap, interval, paired_interval
from nearfar.evaluation.task import Part, Reference, Scores, Table, Task, register
from nearfar.evaluation.tasks import task_for
from nearfar.evaluation.transport import opta, soft_k_means, transport_plan
from nearfar.units import Metric

__all__ = [
    "DenseScores",
    "Diagnostic",
    "Metric",
    "Part",
    "Readout",
    "Reference",
    "Scores",
    "Segmentation",
    "Table",
    "Task",
    "average_precision",
    "bootstrap",
    "compare_rows",
    "dense_probe",
    "diagnose",
    "episodes",
    "factor_diagnostics",
    "few_shot",
    "interval",
    "knn",
    "linear_probe",
    "margin_scores",
    "opta",
    "paired_interval",
    "pearson",
    "ranked_apart",
    "read_factors",
    "references",
    "register",
    "retrieval",
    "segmentation_probe",
    "soft_k_means",
    "spearman",
    "task_for",
    "tell_apart",
    "transport_plan",
]
