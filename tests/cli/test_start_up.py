"""What only tells does not load what trains: modules are counted in a fresh process, not seconds."""

import subprocess
import sys

import pytest

from nearfar import methods, options
from nearfar.cli import COMMANDS, help
from nearfar.evaluation import tasks

HEAVY = (
    "torch",
    "lightning",
    "transformers",
    "torchvision",
    "torchmetrics",
    "scipy",
    "sklearn",
    "timm",
    "datasets",
    "pyarrow",
    "lancedb",
    "PIL",
)
COUNT = """
import sys
from nearfar import cli
try:
    code = cli.main({words!r})
except SystemExit as end:
    code = end.code
loaded = [name for name in {heavy!r} if name in sys.modules]
sys.stderr.write("loaded:" + ",".join(loaded))
sys.exit(code)
"""


@pytest.mark.parametrize(
    "words", [["--help"], ["methods"], *([command, "--help"] for command in COMMANDS)], ids=" ".join
)
def test_help_and_the_list_of_methods_load_nothing_heavy(words):
    code = COUNT.format(words=words, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.rsplit("loaded:")[-1] == ""
    assert len(done.stdout.splitlines()) > 3


def test_help_of_a_method_is_remembered_until_a_source_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path))
    words = ["fit", "dcl", "--help"]
    code = COUNT.format(words=words, heavy=HEAVY)
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)
    )
    assert second.stderr.rsplit("loaded:")[-1] == ""
    assert second.stdout == first.stdout
    for name in options.signature(methods.get("dcl")):
        assert f"--{name.replace('_', '-')} " in second.stdout
    kept = list((tmp_path / "help").iterdir())
    assert len(kept) == 1
    monkeypatch.setattr(help, "_state", lambda: "0" * 32)
    before = kept[0].read_text()
    assert help.method("dcl") == before
    assert [path.name for path in (tmp_path / "help").iterdir()] == [f"dcl-{'0' * 32}.txt"]


def test_the_list_that_is_read_equals_the_list_that_is_imported():
    imported = [{key: value for key, value in one.items() if key not in ("options", "training")}
                for one in methods.list_methods()]  # fmt: skip
    assert methods.overview() == imported


def test_a_method_lies_in_the_file_of_its_name():
    for slug in methods.slugs():
        cls = methods.get(slug)
        assert cls.__module__ == f"nearfar.methods.{cls.family}.{slug.replace('-', '_')}"


def test_a_method_in_another_file_is_refused():
    from nearfar.methods.image.simclr import SimCLR

    with pytest.raises(TypeError, match=r"belongs into nearfar/methods/image/sim_clr\.py"):
        methods.register("sim-clr", family="image")(SimCLR)
    assert SimCLR.slug == "simclr"


@pytest.mark.parametrize("name", tasks.names())
def test_the_options_of_a_task_that_are_read_equal_those_of_its_signature(name):
    cls = tasks.get(name)
    read = {key: text for key, text in help.task_source(name).options().items() if key != "modalities"}
    assert read == {
        key: "" if default is None or default is False else str(default)
        for key, (_, default) in options.signature(cls).items()
    }
    text = help.tasks()
    for key in read:
        assert f"--{key.replace('_', '-')} " in text
