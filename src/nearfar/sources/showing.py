"""`show`: what was understood of a data set, on the terminal."""

from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nearfar import terminal
from nearfar.sources.data import Data

UNEVEN = 1.5  # times the rows of the smallest class, from which on it is said


def show(data: Data, console: Console | None = None, samples: int = 3, problems: int = 10) -> None:
    """Prints rows, roles and why, sizes, duplicates and near copies, splits, samples and problems."""
    facts = terminal.visible_all(data.describe(samples))
    out: Console = console or terminal.console()
    out.print(Panel(_head(facts), title=f"[bold]{escape(facts['name'])}[/bold]", title_align="left", expand=False))
    out.print(_roles(facts))
    out.print(_content(facts))
    for column, label in facts["labels"].items():
        out.print(_label(column, label), soft_wrap=False)
    if facts["scores"] and "counts" in facts["scores"]:
        out.print(_scores(facts["scores"]), soft_wrap=False)
    if facts["target"]:
        out.print(_target(facts["roles"]["target"], facts["target"]), soft_wrap=False)
    if facts["compositions"]:
        out.print(_compositions(facts["compositions"]), soft_wrap=False)
    if facts["bags"]:
        out.print(_bags(facts["roles"]["bag"], facts["bags"]), soft_wrap=False)
    if facts["trees"]:
        out.print(_trees(facts["roles"]["tree"], facts["trees"]), soft_wrap=False)
    if facts["masks"]:
        out.print(_masks(facts["masks"]))
    out.print(_splits(facts))
    out.print(_samples(facts))
    _remarks(out, facts, problems)


def _head(facts: dict[str, Any]) -> Group:
    lines = [Text.assemble((f"{facts['rows']:,}", "bold"), " rows, read as ", (facts["kind"], "bold"))]
    if facts["path"]:
        lines.append(Text(facts["path"], style="dim", overflow="fold"))
    if facts["groups"]:
        g = facts["groups"]
        span = f"{g['least']}" if g["least"] == g["most"] else f"{g['least']} to {g['most']}"
        lines.append(Text(f"{g['count']:,} groups of {span} rows; rows of one group are positives of each other"))
    if facts["domains"]:
        lines.append(Text("domains: " + ", ".join(f"{n} {c:,}" for n, c in facts["domains"].items())))
    for role, count in facts["corpus"].items():
        lines.append(Text(f"{count:,} documents in the gallery ({role})"))
    lines.append(Text(f"data hash {facts['hash']}", style="dim"))
    return Group(*lines)


def _table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column, style=None, header_style="dim", justify="right" if column in right else "left", overflow="fold"
        )
    return table


def _roles(facts: dict[str, Any]) -> Table:
    table = _table("\nRoles", "role", "column", "why")
    for role, column in facts["roles"].items():
        names = column if isinstance(column, str) else _short(column, 8)
        table.add_row(Text(role, style="cyan"), Text(names), Text(facts["reasons"].get(role) or "the data set says so"))
    used = {c for v in facts["roles"].values() for c in ([v] if isinstance(v, str) else v)}
    rest = [c for c in facts["columns"] if c not in used]
    if rest:
        table.add_row(Text("no role", style="dim"), Text(_short(rest, 12), style="dim"), "")
    return table


def _short(names: list[str], count: int) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _content(facts: dict[str, Any]) -> Table:
    numbers = ("distinct", "repeats", "near copies", "across splits")
    table = _table("\nContents", "role", "type", "least / median / most", *numbers, right=numbers)
    for role, column in facts["content"].items():
        near = column["near_copies"]
        table.add_row(
            Text(role, style="cyan"), column["type"], column["sizes_in_words"],
            f"{column['distinct']:,}", f"{column['duplicates']:,}",
            f"{near['rows']:,}", f"{near['rows_across_splits']:,}",
        )  # fmt: skip
    return table


def _label(column: str, label: dict[str, Any]) -> Text:
    names = ", ".join(f"{name} {count:,}" for name, count in label["largest"].items())
    more = label["classes"] - len(label["largest"])
    tail = f" and {more} more, the smallest with {label['least']:,}" if more > 0 else ""
    told = [f"{label['missing']:,} rows without one"] if label["missing"] else []
    if label["ratio"] >= UNEVEN:
        told.append(f"the largest has {label['ratio']:.3g} times the rows of the smallest")
    if label["single"]:
        told.append(f"{label['single']:,} class{'es' * (label['single'] > 1)} of a single row")
    if not label["train"]:
        told.append("no training row has one")
    elif label["untrained"]:
        many = label["untrained"]
        told.append(f"{many:,} class{'es' * (many > 1)} of test rows that no training row has")
    rest = "".join(f"; {words}" for words in told)
    return Text.assemble("\n", ("Classes of ", "bold"), (column, "cyan"), f" ({label['classes']}): {names}{tail}{rest}")


def _scores(scores: dict[str, Any]) -> Text:
    """How many pairs have each score, in the splits that have some."""
    told = [
        f"{value}: " + ", ".join(f"{name} {count:,}" for name, count in parts.items() if count)
        for value, parts in scores["counts"].items()
    ]
    return Text.assemble("\n", ("Scores of ", "bold"), (scores["column"], "cyan"), "  " + "; ".join(told))


def _trees(column: str, trees: dict[str, Any]) -> Text:
    """How many rows have a tree, and of how many names the trees are made."""
    rows = ", ".join(f"{name} {count:,}" for name, count in trees["rows"].items())
    names = ", ".join(f"{count:,} {level}s" for level, count in trees["names"].items())
    return Text.assemble("\n", ("Trees of ", "bold"), (column, "cyan"), f": rows with one {rows}; {names}")


def _compositions(facts: dict[str, Any]) -> Text:
    """How many compositions there are, and how many of them are only tested."""
    parts = "; ".join(f"{name} {seen:,} of them and {new:,} unseen" for name, (seen, new) in facts["parts"].items())
    left = f"; {facts['without']:,} rows have none" if facts["without"] else ""
    head = f" ({facts['pairs']:,}): {facts['attributes']:,} attributes, {facts['objects']:,} objects"
    return Text.assemble("\n", ("Compositions", "bold"), f"{head}; {facts['seen']:,} are trained on; {parts}{left}")


def _bags(column: str, bags: dict[str, Any]) -> Text:
    """How large the bags are and how they are labelled, and what a method of bags would refuse or leave out."""
    size = f"{bags['least']:,}" if bags["least"] == bags["most"] else f"{bags['least']:,} to {bags['most']:,}"
    told = [f"{name} {count:,}" for name, count in bags["classes"].items()][:8]
    rest = [f"{bags['without']:,} without a label"] if bags["without"] and bags["labelled_by"] else []
    if bags["mixed"]:
        rest.append(f"{bags['mixed']:,} with two labels or more: '{bags['labelled_by']}' is of rows, not of bags")
    if bags["alone"]:
        rest.append(f"{bags['alone']:,} rows without a bag, each one of its own")
    by = "" if bags["labelled_by"] else "; without labels"
    if any(bags["classes"].values()):
        by = f"; by '{bags['labelled_by']}': {', '.join(told)}"
    return Text.assemble("\n", ("Bags of ", "bold"), (column, "cyan"), f" ({bags['bags']:,}): {size} rows each{by}"
                         + "".join(f"; {words}" for words in rest))  # fmt: skip


def _target(column: str, target: dict[str, Any]) -> Text:
    if "classes" in target:
        return _label(column, target)
    missing = f"; {target['missing']:,} rows without one" if target["missing"] else ""
    head = Text.assemble("\n", ("Numbers of ", "bold"), (column, "cyan"), f" ({target['numbers']:,}): ")
    if not target["numbers"]:
        return head.append(f"none{missing}")
    if target["distinct"] == 1:
        return head.append(f"all {target['least']:g}{missing}")
    words = {name: f"{value:.4g}" for name, value in target.items()}
    return head.append(f"{words['least']} to {words['most']}, median {words['median']}, mean {words['mean']} +- "
                       f"{words['deviation']}; {target['distinct']:,} different{missing}")  # fmt: skip


def _masks(found: dict[str, Any]) -> Text:
    most = sorted(found["classes"].items(), key=lambda pair: -pair[1])
    names = ", ".join(f"{name} {count:,}" for name, count in most[:8])
    more = f" and {len(most) - 8} more, the rarest in {most[-1][1]:,}" if len(most) > 8 else ""
    bare = f"; {found['without']:,} images without one" if found["without"] else ""
    left = "; pixels of 255 are left out" if found["ignore"] else ""
    return Text.assemble("\n", ("Masks ", "bold"), f"{found['images']:,}; {len(most)} classes, by the number of "
                         f"images that hold them: {names}{more}{bare}{left}")  # fmt: skip


def _splits(facts: dict[str, Any]) -> Text:
    parts = ", ".join(f"{name} {count:,}" for name, count in facts["splits"].items())
    units = f"; {facts['units']:,} units, none on two sides" if facts["units"] and not facts["shared"] else ""
    text = Text.assemble("\n", ("Split ", "bold"), f"{parts}{units} ", (f"(hash {facts['split_hash'][:12]})", "dim"))
    for one in facts["shared"]:
        text.append(f"\n{one['text']}", style="yellow")
    return text


def _samples(facts: dict[str, Any]) -> Table:
    table = _table("\nSamples", "row", *facts["content"])
    columns = [column["samples"] for column in facts["content"].values()]
    for cells in zip(*columns, strict=True):
        shown = [Text(c["value"] if len(c["value"]) <= 160 else c["value"][:157] + "...") for c in cells]
        table.add_row(Text(cells[0]["key"], style="dim"), *shown)
    return table


def _remarks(console: Console, facts: dict[str, Any], count: int) -> None:
    for role, column in facts["content"].items():
        for a, b in column["near_copies"]["examples"]:
            console.print(Text.assemble(("near copies ", "dim"), (role, "cyan"), f": {a}  ~  {b}"))
    for note in facts["notes"]:
        console.print(Text(f"Note: {note}"), style="yellow")
    found = facts["problems"]
    if found:
        console.print(Text(f"\n{len(found):,} row{'s' * (len(found) != 1)} skipped", style="bold red"))
        for problem in found[:count]:
            console.print(Text(f"  {problem}"))
        if len(found) > count:
            console.print(Text(f"  and {len(found) - count:,} more", style="dim"))
