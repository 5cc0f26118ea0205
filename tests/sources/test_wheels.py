"""Data inside the wheels of other packages."""

import zipfile

import pytest

import nearfar
from nearfar.errors import InputError
from nearfar.sources.wheels import inside

LINES = ["@univariate true", "@classLabel true a b", "@data", *(f"{k},{k + 1}:{'ab'[k % 2]}" for k in range(12))]


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "aeon-1.6.0-py3-none-any.whl", "w") as file:
        for part in ("TRAIN", "TEST"):
            file.writestr(f"aeon/datasets/data/BasicMotions/BasicMotions_{part}.ts", "\n".join(LINES))
    monkeypatch.setenv("NEARFAR_WHEELS", str(tmp_path))
    return tmp_path


def test_a_set_is_read_from_a_wheel(wheel, tmp_path):
    data = nearfar.data("motions", cache=tmp_path / "cache")
    assert len(data) == 24
    assert len(data.splits["test"]) == 12
    assert data.name == "motions"


def test_without_a_wheel_the_command_is_named(wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("NEARFAR_WHEELS", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"pip download --no-deps -d .*none aeon==1\.6\.0"):
        nearfar.data("vowels", cache=tmp_path / "cache")
    monkeypatch.setenv("NEARFAR_WHEELS", str(wheel))
    with pytest.raises(InputError, match="cannot be read"):
        inside("aeon", "1.6.0", "aeon/nothing.ts", tmp_path)
