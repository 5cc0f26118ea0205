"""What Embedding Atlas is told of the table: which columns are the map, the images, the charts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nearfar.evaluation.neighbours import Neighbours

if TYPE_CHECKING:
    from nearfar.exploring.facts import Facts

ROW, X, Y, NEAREST = "__row", "__x", "__y", "__nearest"  # two underscores: no chart
MAPPED = "near_copy_of"  # the column in whose place the map without WebGPU stands: its values are keys, no chart
CELL = "thumbnail"
CHARTED = 12  # columns that get a chart
POINTS = 5000  # most rows of a map without WebGPU that are drawn one by one


def hidden(near: Neighbours, places: np.ndarray) -> dict[str, pa.Array]:
    """Number, place and neighbours of each row, under names that get no chart."""
    count, there = len(near.indices), near.indices >= 0
    ends = np.concatenate([[0], there.sum(1).cumsum()]).astype(np.int32)
    ids = pa.ListArray.from_arrays(ends, pa.array(near.indices[there], pa.int64()))
    gaps = pa.ListArray.from_arrays(ends, pa.array((1 - near.scores[there]).astype(np.float32)))
    return {ROW: pa.array(np.arange(count)), X: pa.array(places[:, 0].astype(np.float32)),
            Y: pa.array(places[:, 1].astype(np.float32)),
            NEAREST: pa.StructArray.from_arrays([ids, gaps], ["ids", "distances"])}  # fmt: skip


def cell_of(names: list[str]) -> str:
    """The column of thumbnails: it has an underscore more than the columns of the index that are called so."""
    return max((name for name in names if name.rstrip("_") == CELL), key=len, default="")


def props(table: pa.Table, facts: Facts, label: str) -> dict[str, Any]:
    """The properties of the page: the map coloured by the label, else by what is odd; charts of what a filter is wanted
    of; texts for the search."""
    names = [name for name in table.column_names if not name.startswith("__")]
    text = text_of(table, facts)
    colour = label or "issue"
    data = {"x": X, "y": Y, "text": text, "neighbors": NEAREST, "category": colour}
    cell = cell_of(names) if facts.shown == "image" else ""
    if cell:
        data["image"] = cell
    shown = ["issue", label, "split", "label_around", "isolation", "trained_on"]
    rest = [name for name in names if name not in (*shown, "key", cell, "item", text)]
    charted = [MAPPED, *dict.fromkeys(name for name in [*shown, *rest] if name in names and name != MAPPED)][:CHARTED]
    return {
        "data": {"id": ROW, "projection": {"x": X, "y": Y}, "neighbors": NEAREST, "text": text}
        | ({"image": cell} if cell else {}),
        "defaultChartsConfig": {
            "include": charted,
            "embedding": {"data": data, "title": "Map"},
            "override": {MAPPED: plain_map(colour, table.num_rows)},
        },
    }


def text_of(table: pa.Table, facts: Facts) -> str:
    """The column of texts: that of a role, else the item's, else the key."""
    roles = [facts.columns.get(role) for role in ("text", "text_b")]
    return next((str(name) for name in [*roles, "item"] if isinstance(name, str) and name in table.column_names), "key")


def plain_map(colour: str, count: int) -> dict[str, Any]:
    """The map as a chart that needs no WebGPU: a point a row, of many rows how many stand in each cell."""
    x, y = ({"aggregate": "mean", "field": name} for name in (X, Y))
    points = {"mark": "point", "filter": "$filter",
              "style": {"fillColor": "$encoding", "fillOpacity": 0.6, "strokeColor": "$encoding"},
              "encoding": {"x": x, "y": y, "color": {"field": colour}, "group": {"field": ROW}}}  # fmt: skip
    cells = {"mark": "rect", "filter": "$filter", "zIndex": -1,
             "encoding": {"x": {"field": X}, "y": {"field": Y}, "color": {"aggregate": "count"}}}  # fmt: skip
    ground = {"mark": "rect", "zIndex": -2, "encoding": {"color": {"value": 0}}}
    return {
        "title": "Map without WebGPU",
        "layers": [points] if count <= POINTS else [cells, ground],
        "selection": {"brush": {"encoding": "xy"}},
        "widgets": [{"type": "scale.type", "channel": "x"}, {"type": "scale.type", "channel": "y"}],
    }
