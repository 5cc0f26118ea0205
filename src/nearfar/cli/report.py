"""`nearfar report`: a page of runs or a comparison."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from nearfar import terminal
from nearfar.cli.common import Output, emit, read, speaker


@dataclass
class ReportOptions:
    """Where the page goes.

    Args:
        out: path or URL of the page; default report.html in the first folder.
    """

    out: str | None = None


def run_report(words: list[str]) -> None:
    targets = [ReportOptions, Output]
    places, checked = read(words, targets, range(1, 1000), "nearfar report RUN...")
    from nearfar import using

    path = using.report(*places, out=checked.out, say=speaker(True))
    emit({"path": path}) if checked.json else terminal.say(f"report: {path}", sys.stdout)
