"""Makes what the documentation takes from the code and from measurements, then builds the site.

    python scripts/build_docs.py            # all made pages; then mkdocs, if installed
    python scripts/build_docs.py --check    # writes nothing; exit code 1 where a page is out of date

docs/gallery.md comes from `nearfar.list_methods()`, docs/claims.md from benchmarks/claims/results/*.json and
benchmarks/results/*.json, docs/speed.md from benchmarks/results/loss*.json and evaluation.json, docs/throughput.md from
benchmarks/results/text_encode.json, search.json, serve.json and growth.json, the table in README.md from
benchmarks/results/demo.json, those of docs/negatives.md and docs/composing.md from
benchmarks/results/compositions.json. None of them is typed by hand.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import throughput_tables  # noqa: E402
from markdown_tables import table  # noqa: E402

MADE = "<!-- Made by scripts/build_docs.py; do not edit. -->"
VERDICTS = {True: "holds", False: "does not hold", "undecided": "undecided", None: ""}


def percent(value: float | None, sign: bool = False) -> str:
    return "" if value is None else f"{100 * value:{'+' if sign else ''}.1f}"


def spread(bounds: Sequence[float] | None, show: Any = percent) -> str:
    return "" if not bounds else f"{show(bounds[0])} .. {show(bounds[1])}"


def between(text: str, begin: str, end: str, inside: str) -> str:
    """`text` with what stands between two marker lines replaced."""
    pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.S)
    if not pattern.search(text):
        raise SystemExit(f"The markers {begin} and {end} are missing.")
    return pattern.sub(lambda m: m.group(1) + inside.rstrip("\n") + "\n" + m.group(2), text)


# -- gallery ------------------------------------------------------------------------------------------------------


def gallery() -> str:
    """docs/gallery.md from the registry (the built-in methods only)."""
    sys.path.insert(0, str(ROOT / "src"))
    from nearfar import methods
    from nearfar.methods.registry import built_in

    found = [methods.describe(slug) for slug in built_in()]
    rows = [
        [f"[{m['slug']}](#{m['slug']})", m["family"], needs(m), m["paper"]["idea"], m["paper"]["venue"]] for m in found
    ]
    parts = [
        MADE,
        "",
        "# Method gallery",
        "",
        f"{len(found)} methods. `nearfar methods METHOD` shows the same on a "
        "terminal; `auto` follows a rule of the data that the meaning states.",
        "",
        table(["method", "family", "needs", "idea", "venue"], rows),
    ]
    for m in found:
        parts += ["", *section(m)]
    return "\n".join(parts) + "\n"


def needs(m: Mapping[str, Any]) -> str:
    from nearfar import modalities

    return modalities.needs_in_words(m["needs"])


def section(m: Mapping[str, Any]) -> list[str]:
    paper = m["paper"]
    title = f"[{paper['title']}]({paper['link']})" if paper["link"] else paper["title"]
    lines = [f"## {m['slug']}", "", f"{title}, {paper['venue']}.", "", paper["idea"], "", f"**Needs** {needs(m)}."]
    if (ROOT / "docs" / "assets" / "methods" / f"{m['slug']}.svg").exists():
        lines += ["", f"![{m['slug']}](assets/methods/{m['slug']}.svg)"]
    if paper["differs"]:
        lines += ["", f"**Differs** from the paper or its released code: {paper['differs']}."]
    if m["training"]:
        lines += ["", f"**Optimiser of the paper** (`--preset paper`): {trained(m['training'])}."]
    rows = [
        [f"`--{o['name'].replace('_', '-')}`", shown(o["default"]), shown(o.get("paper")), o["help"]]
        for o in m["options"]
    ]
    return [*lines, "", table(["option", "default", "paper", "meaning"], rows)]


def trained(training: Mapping[str, Any]) -> str:
    """The paper's optimiser in words."""
    per = f" at a batch of {training['lr_batch']}, in proportion" if "lr_batch" in training else ""
    betas = f", betas {training['betas'][0]:g} and {training['betas'][1]:g}" if "betas" in training else ""
    every = " of all parameters" if training.get("decay_all") else ""
    floor = f" down to {training['final']:.3g} of the peak" if training.get("final") else ""
    decay = f", weight decay {training['weight_decay']:g}{every}" if "weight_decay" in training else ""
    clipped = f", gradients no longer than {training['clip_norm']:g}" if "clip_norm" in training else ""
    return (
        f"{training['optimiser']}, learning rate {training['lr']:g}{per}{betas}{decay}, "
        f"{training.get('schedule', 'cosine')} schedule{floor}{clipped}"
    )


def shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return " ".join(str(v) for v in value.values())
    return str(value).lower() if isinstance(value, bool) else str(value)


# -- claims -------------------------------------------------------------------------------------------------------


def read_results(folder: Path) -> dict[str, Any]:
    """name -> JSON of every file of a folder; empty where there is none."""
    return {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))} if folder.is_dir() else {}


def claims(root: Path = ROOT) -> str:
    """docs/claims.md from what was measured; says so where nothing was yet."""
    checked = read_results(root / "benchmarks" / "claims" / "results")
    measured = read_results(root / "benchmarks" / "results")
    parts = [
        MADE,
        "",
        "# Claims",
        "",
        "What the papers claim, checked at small scale against a fair baseline with "
        "several seeds, and how fast nearfar is. *holds*: the 95 % interval of the paired difference lies on the "
        "claimed side of zero; *undecided*: it spans zero. A negative result stands here like a positive one.",
        "",
        "Every check trains the registered method through `fit`, beside the untrained encoder and raw features. "
        "It is repeated by `python benchmarks/claims SLUG` (`--all` for all). Rows marked *earlier* were measured "
        "by a training loop of the check's own and wait to be measured again.",
        "",
        "## Methods",
        "",
    ]
    parts.append(claims_table(checked) if checked else "No claim has been measured yet.")
    parts += ["", "## Demo", "", demo(measured["demo"]) if "demo" in measured else "Not measured yet."]
    if "text_pairs" in measured:
        parts += ["", "## A pretrained sentence encoder on one's own pairs", "", text_pairs(measured["text_pairs"])]
    if "layout" in measured:
        parts += ["", "## The layout of the small image encoder", "", layout(measured["layout"])]
    if "dense" in measured:
        parts += ["", "## Masks read from feature maps", "", dense(measured["dense"])]
    rates = {name: r for name, r in measured.items() if r.get("ratios")}
    parts += ["", "## Speed", "", "\n\n".join(speed(n, r) for n, r in rates.items()) if rates else "Not measured yet."]
    return "\n".join(parts) + "\n"


def claims_table(checked: Mapping[str, Any]) -> str:
    rows = []
    for slug, r in checked.items():
        d = r.get("difference")
        d = d if isinstance(d, Mapping) else {"mean": d, "interval": r.get("interval")}
        earlier = str(r.get("command", "")).endswith(".py")
        verdict = str(VERDICTS.get(r.get("holds"), r.get("holds"))) + (", earlier" if earlier else "")
        rows.append(
            [
                slug,
                r.get("claim", ""),
                r.get("data", ""),
                r.get("metric", ""),
                number(d.get("mean")),
                spread(d.get("interval"), number),
                verdict,
                f"`python benchmarks/claims {slug}`",
            ]
        )
    noted = {slug: r for slug, r in checked.items() if r.get("notes")}
    notes = [f"**{slug}** ({len(r.get('seeds', ()))} seeds): {r['notes']}" for slug, r in noted.items()]
    found = table(["method", "claim", "data", "metric", "difference", "95 %", "verdict", "command"], rows, (4, 5))
    return "\n\n".join([found, *notes])


def number(value: Any) -> str:
    return f"{value:+.3g}" if isinstance(value, (int, float)) else ""


def speed(name: str, r: Mapping[str, Any]) -> str:
    rows = []
    for other, ratio in r["ratios"].items():
        middle, bounds = (ratio["median"], ratio["interval"]) if isinstance(ratio, Mapping) else (ratio, None)
        rows.append([f"nearfar / {other}", f"{middle:.2f}", spread(bounds, lambda x: f"{x:.2f}")])
    facts = ", ".join(f"{k} {r[k]}" for k in ("unit", "batch", "steps", "threads") if k in r)
    return f"`python benchmarks/{name}.py` ({facts}); above 1: nearfar is faster.\n\n" + table(
        ["ratio", "median", "95 %"], rows, (1, 2)
    )


# -- speed of the losses ------------------------------------------------------------------------------------------


def losses(root: Path = ROOT) -> str:
    """docs/speed.md from benchmarks/results/loss.json, evaluation.json and, where it is there, loss_cuda.json."""
    source = importlib.util.spec_from_file_location("loss_tables", ROOT / "benchmarks" / "loss" / "tables.py")
    assert source is not None
    assert source.loader is not None
    tables = importlib.util.module_from_spec(source)
    source.loader.exec_module(tables)
    measured = read_results(root / "benchmarks" / "results")
    device = ["", tables.accelerator(measured["loss_cuda"])] if "loss_cuda" in measured else []
    return (
        "\n".join(
            [MADE, "", "# Speed of the losses", "", tables.page(measured.get("loss", {})), *device, *evaluators(root)]
        )
        + "\n"
    )


def throughput(root: Path = ROOT) -> str:
    """docs/throughput.md from benchmarks/results."""
    return f"{MADE}\n\n{throughput_tables.page(read_results(root / 'benchmarks' / 'results'))}\n"


ASKS = {
    "knn": "vote of the 20 nearest",
    "retrieval": "ranking, one relevant item a query",
    "labels": "ranking, a tenth of the gallery relevant",
    "mine": "16 hard negatives a row",
}


def evaluators(root: Path) -> list[str]:
    """Exact neighbours and rankings, one line a peer; nothing where nothing was measured."""
    found = root / "benchmarks" / "results" / "evaluation.json"
    if not found.exists():
        return []
    measured = json.loads(found.read_text())
    rows = []
    for cell, peers in measured["cells"].items():
        ask, n, d = cell.split("/")
        rows += [
            [ASKS[ask], f"{int(n):,} x {int(n):,}", d, peer, f"{x['processor']:.1f}", f"{x['mib']:,}"]
            for peer, x in peers.items()
            if peer != "before"
        ]
    versions = ", ".join(f"{k} {v}" for k, v in measured["versions"].items())
    return [
        "",
        "## Evaluators",
        "",
        f"Exact neighbours and rankings with {measured['threads']} thread(s); {versions}. "
        "Queries x gallery items; *seconds* of the processor; *MiB*: peak beyond the inputs. "
        "`python benchmarks/evaluation.py` measures it.",
        "",
        table(["question", "size", "width", "peer", "seconds", "MiB"], rows, (1, 2, 4, 5)),
    ]


# -- the README's table -------------------------------------------------------------------------------------------


def demo(results: Mapping[str, Any]) -> str:
    """One table a split, best first."""
    parts = []
    for name, split in results["splits"].items():
        rows = [demo_row(r) for r in sorted(split["rows"], key=lambda r: -(r["r1"] or 0))]
        steps, seeds = split.get("steps"), split.get("seeds")
        facts = f" ({steps} steps of 128 emoji, {seeds} seeds a method)" if steps and seeds else ""
        parts.append(
            f"**{name}**{facts}\n\n"
            + table(
                ["", "hit@1", "95 %", "hit@10", "hard hit@1", "vs simclr", "95 % of the difference", "s a run"],
                rows,
                range(1, 8),
            )
            + "".join(f"\n\n{text}" for text in (split.get("reason"), outlines(split), split.get("note")) if text)
        )
    return "\n\n".join(parts)


def dense(results: Mapping[str, Any]) -> str:
    """mIoU of every row, the differences paired by seed, and what validation data chose."""
    found = sorted(results["table"], key=lambda r: -r["miou"])
    rows = [
        [
            f"**{r['label']}**" if r["kind"] == "method" else r["label"],
            percent(r["miou"]),
            spread(r["interval"]),
            spread(r["items"]),
            percent(r["pixel accuracy"]),
            len(r["values"]),
        ]
        for r in found
    ]
    apart = [
        [
            f"{d['a']} - {d['b']}",
            percent(d["mean"], True),
            spread(d["interval"], lambda x: percent(x, True)),
            VERDICTS[d["holds"]],
        ]
        for d in results["differences"]
    ]
    tried = "; ".join(
        f"{arm} " + ", ".join(f"{percent(v)} at {rate}" for rate, v in rates.items())
        for arm, rates in results["rates on validation"].items()
    )
    classes = [[r["label"], *map(percent, r["classes"].values())] for r in found]
    return "\n\n".join(
        [
            "Scenes of emoji on photographs, five classes, emoji and photographs of the test scenes in no training "
            f"scene (`python benchmarks/dense.py`; small encoder, 64 pixels, {results['steps']} steps of "
            f"{results['batch']} "
            f"images, {2 * results['steps'] * results['batch']:,} views a run). "
            "A linear probe reads the class of each pixel from the frozen map.",
            table(["", "mIoU", "95 %, seeds", "95 %, images", "pixel accuracy", "seeds"], rows, range(1, 6)),
            table(["difference in mIoU, paired by seed", "points", "95 %", "the first is better"], apart, (1, 2)),
            table(["IoU by class", *found[0]["classes"]], classes, range(1, 6)),
            f"Learning rates by mIoU on validation scenes, seed 0: {tried}.",
            *([results["note"]] if results.get("note") else []),
        ]
    )


WAYS = {"frozen": "a linear head on frozen features", "whole": "the whole encoder, 64 tokens of a text"}


def text_pairs(results: Mapping[str, Any]) -> str:
    """nDCG@10 before and after training, beside what needs none, for each way of training."""
    parts = [
        "Summaries of documented functions find the functions' code, split by module; packaged all-MiniLM-L6-v2 "
        "(`python benchmarks/text_pairs.py`)."
    ]
    for way in dict.fromkeys(r["way"] for r in results["table"]):
        found = sorted((r for r in results["table"] if r["way"] == way), key=lambda r: -r["ndcg@10"])
        rows = [[r["label"], percent(r["ndcg@10"]), spread(r["interval"]), len(r["values"])] for r in found]
        parts.append(f"**{WAYS.get(way, way)}**\n\n" + table(["", "nDCG@10", "95 %", "seeds"], rows, (1, 2, 3)))
    return "\n\n".join(parts)


def outlines(split: Mapping[str, Any]) -> str:
    """What gradient orientations add to plain colours, and where the best trained row stands against HOG and pixels."""
    rows = {r["label"]: r for r in split["rows"]}
    mine, plain, hog = rows.get("pairs"), rows.get("pairs, plain colours"), rows.get("HOG")
    if mine is None or plain is None or hog is None or not mine["interval"]:
        return ""
    low, high = (percent(x - hog["r1"], sign=True) for x in mine["interval"])
    ahead, over, more = (percent(mine["r1"] - r["r1"], sign=True) for r in (hog, rows["raw pixels"], plain))
    return (
        "All trained rows but the one on plain colours see gradient orientations as further input "
        f"(`--channels orientation`, what HOG sees). pairs lies {ahead} points from HOG (95 % interval {low} to "
        f"{high}), {over} from raw pixels and {more} from itself on plain colours."
    )


def layout(r: Mapping[str, Any]) -> str:
    """What keeping where things are gives, on validation data of other sets than the demo's."""
    grids = list(r["means"])
    rows = [
        [
            name,
            one["rows"]["val"],
            *(percent(one["grids"][g]["mean"]) for g in grids),
            *(percent(one["references"][f"untrained, grid {g}"]) for g in grids),
        ]
        for name, one in r["sets"].items()
    ]
    heads = ["set", "val rows", *(f"grid {g}" for g in grids), *(f"untrained, {g}" for g in grids)]
    means = "; ".join(f"grid {g}: {percent(m)}" for g, m in r["means"].items())
    return (
        f"SimCLR, {r['steps']} steps, {r['seeds']} seeds, kNN accuracy on validation data in % (`python "
        "benchmarks/layout.py`). The last map of the small image encoder is averaged over grid x grid parts.\n\n"
        + table(heads, rows, range(1, len(heads)))
        + f"\n\nMeans: {means}. Within half a point of the best the smallest is the default: {r['chosen']}. "
        "The demo takes what is best on its validation emoji (pairs, gradient orientations, 300 steps, hit@1): "
        + ", ".join(f"grid {g} {percent(v)}" for g, v in r["demo"].items())
        + "."
    )


def demo_row(r: Mapping[str, Any]) -> list[str]:
    d = r.get("difference") or {}
    label = f"**{r['label']}**" if r["kind"] == "method" else r["label"]
    seconds = f"{r['seconds']:.0f}" if r["kind"] == "method" and r.get("seconds") else ""
    return [
        label,
        percent(r["r1"]),
        spread(r.get("interval")),
        percent(r.get("r10")),
        percent(r.get("hard_r1")),
        percent(d.get("mean"), True),
        spread(d.get("interval"), lambda x: percent(x, True)),
        seconds,
    ]


def readme(root: Path = ROOT) -> str:
    path = root / "benchmarks" / "results" / "demo.json"
    missing = "Not measured yet: run `python benchmarks/demo.py`."
    inside = demo(json.loads(path.read_text())) if path.exists() else missing
    return between((root / "README.md").read_text(), "<!-- demo:begin -->", "<!-- demo:end -->", inside)


# -- what composing gives ----------------------------------------------------------------------------------------


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def gap_cells(gap: Mapping[str, Any]) -> list[str]:
    return [percent(gap["mean"], True), spread(gap["interval"], lambda x: percent(x, True))]


def side(interval: Sequence[float]) -> str:
    """On which side of zero an interval lies."""
    return "ahead" if interval[0] > 0 else "behind" if interval[1] < 0 else "undecided"


def run_facts(r: Mapping[str, Any]) -> str:
    return f"{r['steps']} steps of {r['batch']} images, seeds {', '.join(map(str, range(r['seeds'])))}"


def composed(r: Mapping[str, Any]) -> str:
    """The rows of the retrieval part, best first, and the differences between neighbours."""
    ordered = sorted(r["table"], key=lambda row: -row["r1"])
    rows = [
        [
            f"`{t['label']}`" if t["kind"] == "method" else t["label"],
            percent(t["r1"]),
            spread(t["interval"]),
            percent(t["r10"]),
            percent(t["hard_r1"]),
        ]
        for t in ordered
    ]
    gaps = [[f"`{g['one']}`", f"`{g['other']}`", *gap_cells(g), side(g["interval"])] for g in r["gaps"]]
    return (
        f"{run_facts(r)}; emoji that were never trained on, in another style.\n\n"
        + table(["", "hit@1", "95 %", "hit@10", "hard hit@1"], rows, range(1, 5))
        + "\n\n"
        + table(["", "against", "points of hit@1", "95 %", ""], gaps, (2, 3))
        + "\n\n"
        + r["reason"]
    )


def transported(r: Mapping[str, Any]) -> str:
    """Few-shot accuracy with and without transport."""

    def ends(each: Sequence[Sequence[float]]) -> str:
        return f"{percent(mean([e[0] for e in each]))} .. {percent(mean([e[1] for e in each]))}"

    rows = []
    for t in r["table"]:
        if t["label"] != "chance":
            name = f"`{t['label']}`" if t["kind"] == "method" else t["label"]
            rows.append(
                [
                    name,
                    t["shots"],
                    percent(mean(t["plain"])),
                    ends(t["episodes"][0]),
                    percent(mean(t["opta"])),
                    ends(t["episodes"][1]),
                    *gap_cells(t),
                ]
            )
    heads = [
        "",
        "shots",
        "without",
        "95 % of the episodes",
        "with",
        "95 % of the episodes",
        "transport adds",
        "95 % over seeds",
    ]
    return f"{run_facts(r)}. {r['task']}\n\n" + table(heads, rows, range(1, 8))


def suppressed(r: Mapping[str, Any]) -> str:
    """What each stage of mcl shows of each factor, beside simclr of as many steps."""
    count = len(r["table"][0]["alone"])
    rows = [
        [
            t["factor"],
            percent(t["commonest"]),
            *(percent(mean(a)) for a in t["alone"]),
            *gap_cells(t["gain"]),
            percent(mean(t["joined"])),
            percent(mean(t["simclr"])),
            *gap_cells(t["over_simclr"]),
        ]
        for t in r["table"]
    ]
    heads = [
        "factor",
        "commonest class",
        *(f"stage {k}" for k in range(count)),
        "last - first",
        "95 %",
        "together",
        "simclr",
        "together - simclr",
        "95 %",
    ]
    told = f"{run_facts(r)}; accuracy of a linear probe on test emoji, %."
    return told + "\n\n" + table(heads, rows, range(1, len(heads)))


COMPOSITIONS = {
    "negatives.md": {"retrieval": composed, "stages": suppressed},
    "composing.md": {"few-shot": transported},
}


def with_compositions(page: str, root: Path = ROOT) -> str:
    """A page of docs with the tables of benchmarks/results/compositions.json between its markers."""
    path = root / "benchmarks" / "results" / "compositions.json"
    found, text = json.loads(path.read_text()) if path.exists() else {}, (root / "docs" / page).read_text()
    for part, show in COMPOSITIONS[page].items():
        missing = f"Not measured yet: run `python benchmarks/compositions.py --parts {part}`."
        text = between(
            text,
            f"<!-- {part}:begin -->",
            f"<!-- {part}:end -->",
            "\n" + (show(found[part]) if part in found else missing) + "\n",
        )
    return text


def adding(root: Path = ROOT) -> str:
    """The page with the files that it includes as they are now."""
    page = (root / "docs" / "adding.md").read_text()
    for name in re.findall(r"<!-- include: (\S+) -->", page):
        code = (root / "docs" / name).resolve().read_text()
        page = between(page, f"<!-- include: {name} -->", "<!-- end include -->", f"```python\n{code}```")
    return page


# -----------------------------------------------------------------------------------------------------------------


def pages() -> dict[Path, str]:
    """Every page that is made, as it should be now."""
    return {
        ROOT / "docs" / "gallery.md": gallery(),
        ROOT / "docs" / "claims.md": claims(),
        ROOT / "docs" / "speed.md": losses(),
        ROOT / "docs" / "throughput.md": throughput(),
        **{ROOT / "docs" / page: with_compositions(page) for page in COMPOSITIONS},
        ROOT / "README.md": readme(),
        ROOT / "docs" / "adding.md": adding(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say which pages are out of date")
    given = parser.parse_args()
    stale = [p for p, text in pages().items() if not p.exists() or p.read_text() != text]
    if given.check:
        for p in stale:
            print(f"out of date: {p.relative_to(ROOT)} (run python scripts/build_docs.py)")
        return 1 if stale else 0
    made = pages()
    for p in stale:
        p.write_text(made[p])
        print(f"written: {p.relative_to(ROOT)}")
    if importlib.util.find_spec("mkdocs") is None:
        print("mkdocs is not installed (pip install .[docs]): the site is not built")
        return 0
    return subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
