"""Figures as SVG: every point and bar is there, texts are escaped, and wrong input is told."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from nearfar.errors import InputError
from nearfar.reporting.figures import Points, bars_svg, scatter_svg

NS = "{http://www.w3.org/2000/svg}"


def test_a_map_holds_every_point_inside_its_frame():
    places = np.random.default_rng(0).standard_normal((50, 2)) * 100
    text = scatter_svg([Points("real <keys>", places, 2), Points("mixed", places[:10])], "A & B", "about")
    root = ET.fromstring(text)
    circles = [c for c in root.iter(f"{NS}circle") if c.get("r") != "5"]
    assert len(circles) == 60
    assert all(0 <= float(c.get("cx")) <= 760 and 0 <= float(c.get("cy")) <= 460 for c in circles)
    assert "real &lt;keys&gt;" in text
    with pytest.raises(InputError):
        scatter_svg([], "x", "y")


def test_bars_are_as_long_as_their_means():
    values = {"one": {"a": [1.0, 3.0], "b": [4.0]}, "two": {"a": [4.0, 4.0], "b": [0.0]}}
    root = ET.fromstring(bars_svg(values, "t", "d"))
    widths = [float(r.get("width")) for r in root.iter(f"{NS}rect") if r.get("fill") in ("#4f46e5", "#f59e0b")]
    assert widths[0] * 2 == pytest.approx(widths[2], abs=0.2)
    assert widths[1] == widths[2] > widths[3] == 0
    with pytest.raises(InputError):
        bars_svg({"one": {"a": [1.0]}, "two": {"b": [1.0]}}, "t", "d")


def test_lines_join_places_beneath_the_points():
    places = np.array([[0.0, 0.0], [1.0, 2.0]])
    svg = scatter_svg([Points("end", places)], "Joined", "Two ends.", lines=places[None])
    assert svg.count("<line") == 1
    assert svg.index("<line") < svg.index('fill-opacity="0.8"')
    x1, y1 = re.findall(r'<line x1="([\d.]+)" y1="([\d.]+)"', svg)[0]
    assert f'cx="{x1}" cy="{y1}"' in svg


def test_long_labels_of_bars_are_not_cut():
    label = "both, mean, softmax, all terms, and more"
    root = ET.fromstring(bars_svg({label: {"a": [1.0, 3.0]}, "two": {"a": [4.0, 4.0]}}, "t", "d"))
    (end,) = (float(t.get("x")) for t in root.iter(f"{NS}text") if t.text == label)
    assert end - 7 * len(label) > 0
    ends = [float(r.get("x")) + float(r.get("width")) for r in root.iter(f"{NS}rect") if r.get("x")]
    assert max(ends) < 760
