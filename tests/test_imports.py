"""Which way imports go: the table of docs/architecture.md is the rule, every file of the package is held against it."""

import ast
import builtins
import dis
import importlib
import re
import types
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import nearfar

ROOT = Path(nearfar.__file__).parent
PAGE = ROOT.parents[1] / "docs" / "architecture.md"
EVERYWHERE = {"errors", "checks", "lazy"}
NAMES = re.compile(r"`([\w/]+)`")


def rows() -> Iterator[tuple[list[str], str]]:
    """The packages of each row of the table, and what they know nothing of, in its words."""
    for line in PAGE.read_text().split("## One step")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and NAMES.match(cells[0]):
            yield NAMES.findall(cells[0]), cells[-1]


def modules() -> dict[str, Path]:
    """Dotted name below the package -> file."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
PACKAGES = {name.split(".")[0] for name in MODULES} - {"", "__main__"}


def imported(path: Path) -> set[str]:
    """Modules of nearfar that a file imports, at its head or in a function; what is for types alone does not count."""
    tree, found = ast.parse(path.read_text()), set()
    guarded = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    types = {id(inner) for node in guarded for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nearfar":
            base = (node.module or "").removeprefix("nearfar").lstrip(".")
            inner = {f"{base}.{name.name}".strip(".") for name in node.names}
            found |= {name if name in MODULES else base for name in inner}
        elif isinstance(node, ast.Import):
            found |= {x.name.removeprefix("nearfar.") for x in node.names if x.name.startswith("nearfar.")}
    return found - {""}


def at_head(path: Path) -> set[str]:
    """What a file imports as soon as it is imported, as modules of nearfar."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nearfar":
            base = (node.module or "").removeprefix("nearfar").lstrip(".")
            names = {f"{base}.{name.name}".strip(".") for name in node.names}
            found |= {name if name in MODULES else base for name in names}
    return found - {""}


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def forbidden(own: list[str], words: str) -> set[str]:
    """The packages that those of a row must not import."""
    if words.startswith("everything else"):
        return PACKAGES - {name.split(".")[0] for name in own} - set(NAMES.findall(words)) - EVERYWHERE
    named = {"the command line": "cli", "each other": "", "the matrix and layouts": ""}
    parts = [word.strip() for word in re.split(",| and ", words.replace("the matrix and layouts", "")) if word.strip()]
    return {named.get(word, word) for word in parts} & PACKAGES


@pytest.mark.parametrize(("own", "words"), [pytest.param(*row, id=row[0][0]) for row in rows() if row[1]])
def test_nothing_is_imported_that_the_table_forbids(own, words):
    names = [name.replace("/", ".") for name in own]
    away = forbidden(names, words)
    assert away or "/" in own[0] or "layouts" in words, f"no package is called as in '{words}'"
    wrong = {f"{module} imports {used}" for module, path in MODULES.items()
             if any(inside(module, name) for name in names)
             for used in imported(path) if used.split(".")[0] in away}  # fmt: skip
    assert not wrong, sorted(wrong)


def test_every_package_stands_in_the_table():
    named = {name.split("/")[0] for own, _ in rows() for name in own}
    assert named == PACKAGES


def test_no_method_imports_another():
    """A paper's file knows the contract and the shared parts, never another paper."""
    papers = {m for m in MODULES if re.fullmatch(r"methods\.\w+\.\w+", m) and not inside(m, "methods.contrast")}
    wrong = {f"{module} imports {used}" for module in papers for used in imported(MODULES[module]) & papers}
    assert len(papers) > 10
    assert not wrong


def test_no_circle_of_files():
    """At their heads the files import each other in one order; only within functions may it be the other way round."""
    graph = {module: at_head(path) for module, path in MODULES.items()}
    TopologicalSorter(graph).prepare()


def test_every_global_name_is_defined():
    """By the code of every function; annotations, in which shapes of tensors stand, are none."""
    missing = []
    for name, path in MODULES.items():
        module = importlib.import_module(f"nearfar.{name}".rstrip(".")) if name != "__main__" else None
        known = set(dir(builtins)) | (set(vars(module)) if module is not None else set())
        waiting = [compile(path.read_text("utf-8"), str(path), "exec")] if module is not None else []
        while waiting:
            code = waiting.pop()
            waiting += [one for one in code.co_consts if isinstance(one, types.CodeType)]
            missing += [f"{path.name}:{code.co_firstlineno} {found.argval}" for found in dis.get_instructions(code)
                        if found.opname == "LOAD_GLOBAL" and found.argval not in known]  # fmt: skip
    assert not missing, missing


def test_functions_are_short():
    """At most 40 lines of body, beside signature and docstring (CONTRIBUTING.md)."""
    long = []
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                told = ast.get_docstring(node, clean=False) is not None
                begin = node.body[0].end_lineno + 1 if told else node.body[0].lineno
                if node.end_lineno - begin + 1 > 40:
                    long.append(f"{path.name}:{node.lineno} {node.name}")
    assert not long, long
