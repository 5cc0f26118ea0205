"""`nearfar compare`: several methods under the same conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from nearfar import options
from nearfar.checks import PositiveInt, Range
from nearfar.cli import tables
from nearfar.cli.common import Output, emit, read, speaker, written
from nearfar.training.settings import DataSettings, TrainSettings


@dataclass
class CompareOptions:
    """What is compared, how often, for how long.

    Args:
        methods: methods divided by commas, each with options of its own if wanted: "simclr,dcl --views members"; all:
            every one that fits; default at most four that suit the data.
        auto: halve the methods (default all that fit) by validation, in rounds of one seed, until two are left, which
            are compared with all seeds; the rounds have two fifths of the time.
        seeds: how many seeds a method.
        budget: time for all training, from which the steps are fixed once: 90s, 30m, 2h. Default 30m.
        least_steps: where the time gives a method fewer steps than this, say so and train nothing.
        baseline: the row that the others are compared with.
        out: folder, or a URL (s3://...); default runs/compare-DATA. What is finished there is not run again.
        on: where cells are trained, several at once: ray (the cluster of RAY_ADDRESS or of `ray start`, else processes
            of this machine) or ray://HOST:PORT; default this process, one after the other.
    """

    methods: str | None = None
    auto: bool = False
    seeds: Annotated[int, Range(1, 1000)] = 3
    budget: str | None = None
    least_steps: PositiveInt = 100
    baseline: str | None = None
    out: str | None = None
    on: str | None = None


def run_compare(words: list[str]) -> None:
    targets = [CompareOptions, Output, TrainSettings, DataSettings]
    places, checked = read(words, targets, (1,), "nearfar compare DATA")
    from nearfar.training.comparing import compare

    done = compare(
        places[0],
        methods=checked.methods,
        auto=checked.auto,
        seeds=checked.seeds,
        budget=checked.budget,
        least_steps=checked.least_steps,
        baseline=checked.baseline,
        out=checked.out,
        on=checked.on,
        settings=options.build(TrainSettings, checked),
        data_settings=options.build(DataSettings, checked),
        say=speaker(checked.json),
        command=written("compare", words),
    )
    if checked.json:
        emit(done.results)
        return
    tables.leaderboard(done.results)
    tables.next_steps(done)
