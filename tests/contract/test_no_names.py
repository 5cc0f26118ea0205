"""The training knows methods by what they say, never by name, and looks for no attribute that may be missing."""

import ast
from pathlib import Path

import pytest

import nearfar
from nearfar import methods
from nearfar.training import building

FILES = sorted((Path(nearfar.__file__).parent / "training").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_training_names_no_method(path):
    """No string of the code is the slug of a method, but for what docstrings show."""
    tree = ast.parse(path.read_text())
    shown = {id(node.body[0].value) for node in ast.walk(tree)
             if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)}  # fmt: skip
    said = [node.value for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in shown]  # fmt: skip
    slugs = set(methods.registry.built_in()) - {"pairs"}  # which is a task as well
    assert not slugs & set(said)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_training_asks_a_method_for_no_attribute_that_may_be_missing(path):
    asked = [
        node.args[0] for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr")
    ]  # fmt: skip
    assert not {ast.unparse(one) for one in asked} & {"method", "setup.method", "self.method", "pl_module", "trained"}


@pytest.mark.parametrize(
    ("roles", "slug"),
    [
        ({"image": "a", "text": "b"}, "align"),
        ({"image": "a", "text": "b", "group": "g"}, "pairs"),
        ({"text": "a", "text_b": "b"}, "pairs"),
        ({"image": "a"}, "simclr"),
        ({"image": "a", "group": "g"}, "pairs"),
        ({"text": "a"}, "contriever"),
    ],
)
def test_a_method_is_chosen_by_what_it_says(roles, slug):
    class Rows:
        name = "rows"

    Rows.roles = Rows.training_roles = roles
    assert building.choose(Rows)[0] == slug
