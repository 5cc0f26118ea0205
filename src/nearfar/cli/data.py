"""`nearfar data`: what is understood of data, and a table of what is odd in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from nearfar import options, tabular
from nearfar.cli import tables
from nearfar.cli.common import Output, emit, read

if TYPE_CHECKING:
    from nearfar.auditing import Audit
    from nearfar.training.settings import DataSettings


@dataclass
class ReportedOptions:
    """What is written of the data.

    Args:
        report: FILE.csv, .tsv, .jsonl or .parquet for a table of duplicates, near copies, outliers and labels that are
            unlike those of the nearest rows.
    """

    report: str | None = None


def understood(path: str, report: str | None, settings: DataSettings, as_json: bool) -> dict[str, Any] | None:
    """Shows what is understood and writes the report; or returns both, for JSON. Raises InputError for a report that
    cannot be written or exists, before the data are read."""
    with tabular.output(report, option="--report") as out:
        from nearfar import sources

        opened = settings.open(path)
        if not as_json:
            sources.show(opened)
        found = None
        if out is not None:
            from nearfar.auditing import audit

            found = audit(opened)
            found.write(out)
    if found is not None and not as_json:
        show(found, report)
    if not as_json:
        return None
    return opened.describe() | ({} if found is None else {"report": {"path": str(report), "found": found.to_dict()}})


def show(found: Audit, out: str | None) -> None:
    """How much of each kind, beside what chance alone would give."""
    rows = []
    for one in found.to_dict():
        chance = "" if one["expected"] is None else f"{one['expected']:,.1f}"
        rows.append([f"{escape(one['role'])}: {one['what']}", f"{one['found']:,}", chance])
    console = tables.console()
    console.print()
    tables.print_columns(console, ["odd rows", "found", "by chance"], rows)
    console.print(f"\nreport: {escape(str(out))}", soft_wrap=True)


def run_data(words: list[str]) -> None:
    from nearfar.training.settings import DataSettings

    targets = [ReportedOptions, Output, DataSettings]
    places, checked = read(words, targets, (1,), "nearfar data PATH")
    found = understood(places[0], checked.report, options.build(DataSettings, checked), checked.json)
    if found is not None:
        emit(found)
