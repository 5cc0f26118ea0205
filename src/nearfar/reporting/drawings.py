"""Drawings of what is no image: the neighbourhood of a node."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from nearfar.graphs import Node, around, sampled_around
from nearfar.reporting.cells import thumbnail

MOST = 24  # nodes that are drawn around one
COLOURS = ((42, 111, 176), (194, 87, 26), (58, 140, 74), (136, 84, 160), (120, 120, 120), (176, 144, 32))


def neighbourhood(item: Node, size: int = 96) -> str:
    """A data-URI of a node (ringed) with what lies within two steps of it, at most ten neighbours of each; the colour
    of a node is its type."""
    import networkx

    near = around(item.graph, item.number, 1, MOST)
    if len(near.graph) <= MOST // 2:
        near = sampled_around(item.graph, item.number, [8, 2])
    graph, centre = near.graph, near.number
    drawn = networkx.Graph()
    drawn.add_nodes_from(range(len(graph)))
    drawn.add_edges_from(graph.edges.cpu().numpy().T.tolist())
    place = networkx.spring_layout(drawn, pos={centre: (0.0, 0.0)}, fixed=[centre], seed=0, iterations=40) if (
        len(graph) > 1) else {centre: np.zeros(2)}  # fmt: skip
    reach = max(1e-9, max(float(np.abs(p).max()) for p in place.values()))
    side = 2 * size  # drawn at twice the size, so that lines are smooth
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    spots = {k: tuple((side / 2 + p / reach * side * 0.44).tolist()) for k, p in place.items()}
    for a, b in drawn.edges:
        pen.line([*spots[a], *spots[b]], fill=(176, 176, 176), width=max(1, side // 96))
    for k, (x, y) in spots.items():
        radius = side / (22 if k == centre else 36)
        colour = COLOURS[int(graph.types[k]) % len(COLOURS)]
        if k == centre:
            pen.ellipse([x - radius * 1.7, y - radius * 1.7, x + radius * 1.7, y + radius * 1.7], outline=(20, 20, 20),
                        width=max(2, side // 64))  # fmt: skip
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    return thumbnail(np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)), size)
