"""The learning curve for the tools that others look at curves with: TensorBoard, Weights & Biases, MLflow, csv.

All of them write into the run's folder and ask no network; curve.jsonl is written beside them all the same.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nearfar.errors import InputError, did_you_mean

FOLDER = "logs"
NEEDS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "csv": ""}


def names_of(given: str | None) -> list[str]:
    """ "tensorboard,csv" -> names. Raises InputError for one that is not known."""
    names = [name.strip() for name in (given or "").split(",") if name.strip()]
    for name in names:
        if name not in NEEDS:
            raise InputError(
                f"The logger '{name}' is not known.{did_you_mean(name, NEEDS)}", f"Known: {', '.join(NEEDS)}."
            )
    return list(dict.fromkeys(names))


class Loggers:
    """Lightning's loggers of a run, in FOLDER/logs. Each gets what the curve gets, its options, and its scores."""

    def __init__(self, names: Sequence[str], folder: Path, title: str):
        self.loggers = [made(name, folder / FOLDER, title) for name in names]

    def described(self, facts: Mapping[str, Any]) -> None:
        """The options of the run."""
        for one in self.loggers:
            one.log_hyperparams(
                {name: value for name, value in facts.items() if isinstance(value, str | int | float | bool)}
            )

    def log(self, line: Mapping[str, Any]) -> None:
        """A line of the curve."""
        values = {name: value for name, value in line.items() if name != "step" and isinstance(value, int | float)}
        for one in self.loggers:
            one.log_metrics(values, int(line["step"]))
            one.save()

    def finished(self, scores: Mapping[str, Any], step: int) -> None:
        """The scores of the finished run by split."""
        values = {f"{split}/{name}": float(value) for split, one in scores.items()
                  for name, value in one["metrics"].items() if value is not None}  # fmt: skip
        for one in self.loggers:
            if values:
                one.log_metrics(values, step)
            one.save()
            one.finalize("success")


def made(name: str, folder: Path, title: str) -> Any:
    from lightning.pytorch import loggers

    kinds: dict[str, Callable[[], Any]] = {
        "tensorboard": lambda: loggers.TensorBoardLogger(folder, name="tensorboard", version=""),
        "wandb": lambda: loggers.WandbLogger(name=title, save_dir=folder, project="nearfar", offline=True),
        "mlflow": lambda: loggers.MLFlowLogger("nearfar", title, f"sqlite:///{folder.absolute() / 'mlflow.db'}",
                                               artifact_location=str(folder.absolute() / "mlflow")),
        "csv": lambda: loggers.CSVLogger(folder, name="csv", version=""),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    return kinds[name]()


def check_loggers(names: Sequence[str]) -> None:
    """Raises InputError where the package of a logger is not installed."""
    for name in names:
        if (needed := NEEDS[name]) and importlib.util.find_spec(needed) is None:
            raise InputError(f"--logger {name} needs the package '{needed}', which is not installed.",
                             f"pip install {needed}")  # fmt: skip
