"""The report is one file, asks no network, says what the numbers say, and works with parts missing."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from nearfar.errors import InputError, NearfarError
from nearfar.evaluation.comparison import compare_rows
from nearfar.reporting import page as page_of
from nearfar.reporting import results_of_runs, write_report
from nearfar.reporting.report import parts_of, render, whole

from .sample import results, rows, two_kinds


class Outline(HTMLParser):
    """Open elements, ids, links and the visible words of a page."""

    void = ("meta", "img", "br", "circle", "link", "hr", "input")

    def __init__(self):
        super().__init__()
        self.stack, self.ids, self.links, self.words, self.elements = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.elements.append((tag, attrs))
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [value for name, value in attrs.items() if name in ("src", "href", "action", "data") and value]
        if tag not in self.void:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(html):
    outline = Outline()
    outline.feed(html)
    assert outline.stack == []
    return outline


def test_rows_that_see_labels_stand_apart():
    found = two_kinds()
    text = read(render(found)).text
    board = text[text.index("Leaderboard") :]
    apart = board.index("With labels, ranked apart")
    assert board.index("Without labels, ranked apart") < apart
    for row in found["rows"]:
        assert (board.index(row["label"]) > apart) == (row["slug"] == "pairs")
    pairs = next(row["label"] for row in found["rows"] if row["slug"] == "pairs")
    assert f"{pairs} wins with labels" in text
    assert "wins with labels" not in read(render(results())).text


def test_the_best_of_each_kind_is_a_fact_of_its_own():
    found = page_of.verdict(two_kinds())["facts"]
    assert [(fact["name"], fact["note"].split(",")[0]) for fact in found[:2]] == [
        ("best hit@1 without labels", "dcl"), ("best hit@1 with labels", "pairs")]  # fmt: skip
    assert page_of.verdict(results())["facts"][0]["name"] == "best hit@1"


def test_two_seeds_make_no_interval():
    """Student's t with one degree of freedom is as wide as the scale."""
    found = page_of.board(results(seeds=2))
    assert found["many_seeds"]
    assert not found["has_interval"]
    trained = [row for row in found["rows"] if row["trained"]]
    assert {(row["half"], row["whisker"], row["difference_between"], row["seeds"]) for row in trained} == {
        ("", None, "", 2)}  # fmt: skip
    html = render(results(seeds=2))
    assert "<small>2 seeds</small>" in html
    assert "± " not in read(html).text
    assert all(row["whisker"] for row in page_of.board(results())["rows"] if row["trained"])


@pytest.fixture(scope="module")
def full():
    return render(results())


@pytest.fixture(scope="module")
def page(full):
    return read(full)


def test_everything_is_there(page):
    assert {"leaderboard", "directions", "map", "examples", "diagnostics", "curves", "measured"} <= set(page.ids)
    for words in (
        "dcl or pairs: too close to call",
        "HOG",
        "hit@1",
        "different outlines",
        "shared outlines",
        "first right one at rank 14",
        "nearfar compare emoji --methods simclr,pairs,dcl",
        "ab12ab12ab12",
        "torch 2.14.1",
        "9,444 train",
        "did training pay?",
    ):
        assert words in page.text, words


def test_domains_stand_in_a_table_of_their_own():
    full = results()
    assert 'id="domains"' not in render(full)
    for row in full["rows"]:
        for one in row["seeds"]:
            one["domains"] = {"German": {"hit@1": 0.111}, "French": {"hit@1": 0.333}}
    page = read(render(full))
    assert "domains" in page.ids
    assert "By domain" in page.text
    assert "German 11.1" in page.text
    assert "mean 22.2" in page.text


def test_the_page_asks_no_network(full, page):
    for link in page.links:
        assert link.startswith(("data:image/", "#")), link
    policy = next(attrs["content"] for tag, attrs in page.elements if tag == "meta" and "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")
    styles = re.search(r"<style>(.*?)</style>", full, re.S)[1]
    assert "url(" not in styles
    assert "@import" not in styles


def test_plotly_is_inside_once_and_images_are_stored_once(full):
    assert full.count("plotly.js v") == 1
    payload = json.loads(re.search(r'id="payload">(.*?)</script>', full, re.S)[1])
    assert len(payload["pool"]) == len(set(payload["pool"])) == 240
    assert [len(one["thumb"]) for one in payload["maps"].values()] == [240, 240]
    assert list(payload["maps"]) == ["dcl", "pairs"]


def test_rows_stand_in_order_with_places_on_the_axis(full):
    board = full[full.index('<table class="board"') : full.index("</table>")]
    places = [board.index(f"{label}") for label in ("dcl", "pairs", "HOG", "raw pixels", "simclr")]
    assert places == sorted(places)
    widths = [float(width) for width in re.findall(r'class="bar" style="width:([\d.]+)%', board)]
    assert widths == sorted(widths, reverse=True)
    assert all(0 <= width <= 100 for width in widths)


def test_a_winner_is_named():
    changed = results() | compare_rows([row for row in rows() if row["slug"] != "pairs"], "simclr")
    page = read(render(changed))
    assert "dcl wins" in page.text
    assert "ahead of every other row" in page.text


def test_one_seed_names_no_winner():
    page = read(render(results(seeds=1)))
    assert "dcl leads, from one seed" in page.text
    assert "at least 3 seeds" in page.text


def test_a_proxy_names_no_winner():
    changed = results()
    changed["task"]["proxy"] = True
    changed |= compare_rows(rows(), "simclr", proxy=True)
    page = read(render(changed))
    assert "No winner: this is a proxy" in page.text
    assert "winner" not in page.text.replace("No winner", "").replace("no winner is named", "").replace(
        "a winner is named only", ""
    )


def test_failed_cells_and_rows_are_told():
    table = rows()
    table[4]["seeds"][1] |= {"status": "failed", "message": "loss is not finite at step 120", "primary": None}
    table.append(
        {
            "slug": "swav",
            "label": "swav",
            "kind": "method",
            "seeds": [{"seed": 0, "status": "failed", "message": "no space left", "primary": None}],
        }
    )
    page = read(render(results() | compare_rows(table, "simclr")))
    assert "seed 1 failed (loss is not finite at step 120)" in page.text
    assert "failed: no space left" in page.text


def test_nothing_finished():
    table = [{"slug": "a", "label": "a", "kind": "method", "seeds": [{"seed": 0, "status": "failed", "primary": None}]}]
    page = read(render({"task": {"primary": "hit@1"}, **compare_rows(table, "a")}))
    assert "Nothing finished" in page.text


@pytest.mark.parametrize(
    "part", ["map", "examples", "diagnostics", "curves", "commands", "versions", "plan", "data", "baseline", "seconds"]
)
def test_any_part_may_be_missing(part):
    changed = results()
    del changed[part]
    page = read(render(changed))
    assert "undefined" not in page.text.lower()
    if part in ("map", "examples", "diagnostics", "curves"):
        assert part not in page.ids


def test_without_plots_the_page_is_small():
    changed = results()
    del changed["map"], changed["curves"]
    assert len(render(changed)) < 400_000


def test_hostile_names_stay_words():
    changed = results(text=True)
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    changed["data"]["name"] = evil
    changed["map"]["dcl"]["text"][0] = changed["map"]["dcl"]["label"][0] = evil
    changed["examples"]["dcl"][0]["query"]["text"] = evil
    changed["commands"].append(evil)
    page, plain = read(render(changed)), read(render(results(text=True)))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == [tag for tag, _ in plain.elements].count("script")
    assert not any("onerror" in attrs for _, attrs in page.elements)
    assert evil in page.text


def test_numbers_that_are_not_finite_do_not_break_the_page():
    changed = results()
    changed["curves"]["dcl"]["0"][3]["loss"] = float("nan")
    changed["diagnostics"]["dcl"][0]["value"] = float("nan")
    assert "NaN" not in read(render(changed)).text


def run(method="simclr", seed=0, **changes):
    curve = [{"step": step, "loss": 2.0 - step / 100} for step in range(0, 100, 10)]
    config = {
        "method": method,
        "data": "shoes/",
        "data_hash": "d",
        "split_hash": "s",
        "seed": seed,
        "steps": 100,
        "batch_size": 64,
        "versions": {"nearfar": "0.1.0"},
        "command": f"nearfar fit {method} shoes --seed {seed}",
    }
    scores = {
        "primary_name": "knn",
        "primary": 0.8 + seed / 100,
        "metrics": {"knn": 0.8, "probe": 0.85},
        "directions": {},
        "split": "test",
    }
    return {"config": config, "curve": curve, "scores": scores, "path": f"runs/{method}"} | changes


def test_a_single_run():
    page = read(render(results_of_runs([run()])))
    assert "simclr: 80.0 % kNN accuracy" in page.text
    assert "nearfar fit simclr shoes --seed 0" in page.text
    assert "shoes" in page.text
    assert "curves" in page.ids


def test_runs_of_several_methods_and_seeds_stand_in_one_table():
    found = results_of_runs([run(seed=seed) for seed in (0, 1)] + [run("dcl", seed=seed) for seed in (0, 1)])
    assert [(row["slug"], len(row["seeds"])) for row in found["rows"]] == [("simclr", 2), ("dcl", 2)]
    assert found["rows"][0]["mean"] == pytest.approx(0.805)
    read(render(found))


def test_runs_fill_in_what_results_lack():
    lacking = results()
    del lacking["curves"], lacking["map"], lacking["examples"], lacking["diagnostics"]
    assert "curves" not in read(render(lacking)).ids
    assert parts_of([run(seed=1), run(seed=2), run("dcl", map={"x": []}, diagnostics=[1])]) == {
        "curves": {"simclr": {"1": run()["curve"], "2": run()["curve"]}, "dcl": {"0": run()["curve"]}},
        "diagnostics": {"dcl": [1]},
        "map": {"dcl": {"x": []}},
    }


def test_a_run_without_scores():
    page = read(render(results_of_runs([run(scores=None)])))
    assert "Nothing finished" in page.text
    assert "the run has no scores yet" in page.text


@pytest.mark.parametrize(("name", "words"), [("data_hash", "different data"), ("split_hash", "different splits")])
def test_runs_of_other_data_are_refused(name, words):
    other = run()
    other["config"] = other["config"] | {name: "x"}
    with pytest.raises(InputError, match=words):
        results_of_runs([run(), other])


def test_the_file_is_written_whole_or_not_at_all(tmp_path):
    path = write_report(tmp_path / "deep" / "report.html", results(text=True))
    assert path.read_text(encoding="utf-8").endswith("</html>")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    before = path.read_bytes()
    with pytest.raises(InputError, match="nothing to report"):
        write_report(path, {}, [])
    assert path.read_bytes() == before
    with pytest.raises(NearfarError, match="cannot be written"):
        write_report(path / "inside.html", results())


def test_long_curves_are_thinned():
    changed = results()
    changed["curves"] = {"dcl": {"0": [{"step": step, "loss": float(np.exp(-step / 9e3))} for step in range(40_000)]}}
    payload = json.loads(re.search(r'id="payload">(.*?)</script>', render(changed), re.S)[1])
    x = payload["curves"][0]["seeds"][0]["x"]
    assert len(x) < 310
    assert (x[0], x[-1]) == (0, 39_999)


def test_images_come_from_inside_the_page_only():
    from nearfar.reporting.report import image

    good = "data:image/webp;base64,UklGRg=="
    assert image(good) == good
    for source in ["javascript:alert(1)", "https://example.org/x.png", "data:text/html;base64,PGI+",
                   'data:image/png;base64,"', "data:image/svg+xml;base64,PHN2Zz4=", "//x", None, 3,
                   ["data:image/png;base64,"]]:  # fmt: skip
        assert image(source) == ""


def test_options_in_an_advice_are_not_divided_and_nothing_else_is_markup():
    found = str(whole("a lower --temperature & <b>more</b> -- (--batch-size)"))
    assert '<span class="option">--batch-size</span>)' in found
    assert "&lt;b&gt;more&lt;/b&gt; --" in found
    assert found.count("<span") == 2
