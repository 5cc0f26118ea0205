"""One HTML page that holds everything about a comparison or a run, and needs no network."""

from nearfar.reporting.cells import thumbnail
from nearfar.reporting.images import examples_json, map_2d, map_json, masks_json, painted, shown_json
from nearfar.reporting.report import results_of_runs, write_report

__all__ = [
    "examples_json",
    "map_2d",
    "map_json",
    "masks_json",
    "painted",
    "results_of_runs",
    "shown_json",
    "thumbnail",
    "write_report",
]
