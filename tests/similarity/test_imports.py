"""Which way imports go inside the package: ask -> answer -> exchange, and never in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import nearfar.similarity

ROOT = Path(nearfar.similarity.__file__).parent
# What is asked in: answers are made for these, and know them.
WORDS = {"relations", "reductions", "source"}


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.name != "__init__.py"}


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, wherever in it: at its head, in a function, for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nearfar.similarity"):
            base = (node.module or "").removeprefix("nearfar.similarity").lstrip(".")
            found |= {f"{base}.{x.name}".strip(".") for x in node.names} & set(MODULES) or {base}
    return found


GRAPH = {name: imported(path) for name, path in MODULES.items()}


def test_there_is_no_circle_and_the_door_is_never_imported_from_inside():
    assert not any("" in users for users in GRAPH.values())
    order = list(TopologicalSorter(GRAPH).static_order())
    assert order.index("layouts") > order.index("answer.plan") > order.index("exchange.ring")


def test_each_idea_knows_only_those_below_it():
    for name, used in GRAPH.items():
        idea = name.split(".")[0]
        roots = {x.split(".")[0] for x in used}
        if idea == "exchange":
            assert roots <= {"exchange"}, name
        elif idea == "answer":
            assert roots <= {"answer", "exchange", *WORDS}, name


def test_only_the_plan_chooses():
    """No algorithm asks which others there are: they are named in the plan and called in one place."""
    algorithms = {"answer.logsumexp", "answer.cross_entropy", "answer.closed_form", "answer.batched", "answer.ring"}
    for name, used in GRAPH.items():
        if name not in ("answer.run", *algorithms):
            assert not used & algorithms, name
    assert not GRAPH["answer.plan"] & (algorithms | {"answer.sweep", "answer.fused_sums"})
