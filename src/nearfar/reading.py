"""Reads classes from their source without importing it: which method a file holds, what it needs, what a task takes.

Only what is written as a value can be read (numbers, words, tuples, sets, constants of the same file or of one that it
imports from); anything else raises `Unread`, and the caller imports the module.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any


class Unread(Exception):
    """The source does not say it as a plain value."""


class Module:
    """A parsed module. `classes` and `constants`: the statements at its top level; `imports`: name -> module and name
    there, those under `if TYPE_CHECKING:` included."""

    def __init__(self, name: str):
        path = _path(name)
        if path is None:
            raise Unread(name)
        self.name, self.package = name, name if path.name == "__init__.py" else name.rpartition(".")[0]
        body = list(_statements(ast.parse(path.read_text(encoding="utf-8")).body))
        self.classes = {node.name: ClassSource(self, node) for node in body if isinstance(node, ast.ClassDef)}
        self.constants = {name: value for node in body for name, value in _assigned(node).items()}
        self.imports = {
            alias.asname or alias.name: (self._from(node), alias.name)
            for node in body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }

    @staticmethod
    @cache
    def of(name: str) -> Module:
        return Module(name)

    def _from(self, node: ast.ImportFrom) -> str:
        above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1] if node.level else []
        return ".".join([*above, *([node.module] if node.module else [])])

    def find_class(self, name: str) -> ClassSource:
        if name in self.classes:
            return self.classes[name]
        if name not in self.imports:
            raise Unread(name)
        module, original = self.imports[name]
        return Module.of(module).find_class(original)

    def constant(self, name: str, known: Mapping[str, Any]) -> Any:
        if name in self.constants:
            return self.value(self.constants[name], known)
        if name not in self.imports:
            raise Unread(name)
        module, original = self.imports[name]
        return Module.of(module).constant(original, known)

    def value(self, node: ast.expr, known: Mapping[str, Any]) -> Any:
        """What an expression gives, with the functions and classes in `known` and constants alone."""
        names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
        if any(isinstance(one, ast.Attribute | ast.Lambda | ast.Await | ast.Yield) for one in ast.walk(node)):
            raise Unread(ast.unparse(node))
        scope = {name: known[name] if name in known else self.constant(name, known) for name in names}
        return eval(compile(ast.Expression(node), self.name, "eval"), {"__builtins__": {}}, scope)


class ClassSource:
    """A class as it is written: its name, docstring, own attributes and constructor."""

    def __init__(self, module: Module, node: ast.ClassDef):
        self.module, self.node, self.__name__ = module, node, node.name
        self.__doc__ = ast.get_docstring(node)

    @cached_property
    def bases(self) -> list[ClassSource]:
        """Those whose source is found."""
        found = []
        for base in self.node.bases:
            try:
                found.append(self.module.find_class(ast.unparse(base)))
            except Unread:
                continue
        return found

    @property
    def line(self) -> list[ClassSource]:
        """The class and its bases, the nearest first: one that several share stands behind all of them."""
        found = [self, *(one for base in self.bases for one in base.line)]
        return list(dict.fromkeys(reversed(found)))[::-1]

    def attribute(self, name: str, known: Mapping[str, Callable[..., Any]]) -> Any:
        """The value of a class attribute, its own or that of the nearest base. Raises Unread."""
        for one in self.line:
            for node in one.node.body:
                if name in _assigned(node):
                    return one.module.value(_assigned(node)[name], known)
        raise Unread(name)

    def options(self) -> dict[str, str]:
        """Keyword arguments of the constructor -> their defaults as text ("" for None and False)."""
        for one in self.line:
            for node in one.node.body:
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                    return {argument.arg: _text(default) for argument, default in pairs}
        return {}


def decorated(module: str, name: str) -> ClassSource | None:
    """The class of a module that bears a decorator, `@name` or `@name(...)`."""
    for one in Module.of(module).classes.values():
        for mark in one.node.decorator_list:
            called = mark.func if isinstance(mark, ast.Call) else mark
            if isinstance(called, ast.Name) and called.id == name:
                return one
    return None


def of_entry(value: str) -> ClassSource:
    """The class that an entry point "module:Class" names. Raises Unread."""
    module, _, name = value.partition(":")
    return Module.of(module.strip()).find_class(name.strip())


def _path(name: str) -> Path | None:
    if name.partition(".")[0] == "nearfar":
        place = Path(__file__).parent.joinpath(*name.split(".")[1:])
        found = place.with_suffix(".py") if place.with_suffix(".py").exists() else place / "__init__.py"
    else:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return None
        found = Path(spec.origin) if spec and spec.origin else Path()
    return found if found.suffix == ".py" and found.exists() else None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements at the top level, those under an `if` included."""
    for node in body:
        yield from _statements(node.body) if isinstance(node, ast.If) else [node]


def _assigned(node: ast.stmt) -> dict[str, ast.expr]:
    """The names that a statement gives a value."""
    if isinstance(node, ast.Assign):
        return {one.id: node.value for one in node.targets if isinstance(one, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        return {node.target.id: node.value}
    return {}


def _text(default: ast.expr | None) -> str:
    if default is None:
        return ""
    try:
        value = ast.literal_eval(default)
    except ValueError:
        return ast.unparse(default)
    return "" if value is None or value is False else str(value)
