"""A kind of data from one file of another package: every command works on it, and nothing else knows of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import nearfar
from nearfar import cli, modalities
from nearfar.errors import InputError
from nearfar.registry import MODALITIES
from nearfar.training.settings import DataSettings, TrainSettings

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "smiles.py"


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    """A package with one module and its entry point, as pip leaves it."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copy(EXAMPLE, folder / "smiles.py")
    info = folder / "smiles-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: smiles\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nearfar.modalities]\nsmiles = smiles:Smiles\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder
    MODALITIES.forget("smiles")


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    """Alcohols and amines: carbon chains of many forms with an O or an N at the end."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(120):
        chain = "".join(rng.choice(["C", "C", "C(C)", "C=C", "C(F)"], 4 + i % 5))
        rows.append(f"{chain}{'O' if i % 2 else 'N'},{'alcohol' if i % 2 else 'amine'}\n")
    path = tmp_path_factory.mktemp("data") / "molecules.csv"
    path.write_text("structure,label\n" + "".join(dict.fromkeys(rows)))
    return path


@pytest.fixture(scope="module")
def run(molecules, tmp_path_factory):
    """A model that the command line trained."""
    folder = tmp_path_factory.mktemp("run") / "run"
    words = ["fit", "simclr", str(molecules), "--steps", "20", "--smiles-dim", "32", "--views.p", "0.2", "--views",
             "forget", "--out", str(folder)]  # fmt: skip
    assert cli.main(words) == 0
    return folder


def told(capsys, *words):
    capsys.readouterr()
    assert cli.main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_its_column_is_found_by_its_values(molecules, capsys):
    facts = told(capsys, "data", molecules)
    assert facts["roles"]["smiles"] == "structure"
    assert facts["content"]["smiles"]["type"] == "molecule"
    assert facts["content"]["smiles"]["sizes_in_words"].endswith("signs")
    assert cli.main(["data", str(molecules)]) == 0


def test_a_bad_cell_is_told_by_file_and_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("smiles\nCCO\nnot a molecule!\nCCN\n")
    with pytest.raises(InputError, match=r"t\.csv, line 3: column 'smiles': 'not a molecule!' is not a SMILES string"):
        nearfar.data(path, roles={"smiles": "smiles"})


def test_its_options_are_flags(capsys):
    with pytest.raises(SystemExit):
        cli.main(["fit", "--help"])
    text = capsys.readouterr().out
    assert "--smiles-dim" in text
    assert "length of a molecule's vector" in text
    assert "--smiles-b" in text
    assert TrainSettings(smiles_dim=8).smiles_dim == 8
    assert DataSettings(smiles="structure").roles() == {"smiles": "structure"}
    with pytest.raises(InputError, match="'smiles_dim' must be a whole number"):
        TrainSettings(smiles_dim=0)


def test_fit_embeds_by_its_options(run, molecules):
    assert json.loads((run / "config.json").read_text())["settings"]["smiles_dim"] == 32
    model = nearfar.load(run / "model", verify=True)
    assert model.modalities == ["smiles"]
    assert model.embed(["CCO", "CCN"]).shape == (2, 32)
    assert json.loads((run / "scores.json").read_text())["scores"]["test"]["primary"] > 0.5


def test_the_way_on(run, molecules, tmp_path, capsys):
    found = told(capsys, "evaluate", run, molecules)
    assert [row["slug"] for row in found["rows"]] == ["model", "chance"]
    index = tmp_path / "index"
    assert told(capsys, "embed", run, molecules, "--out", index)["added"] == len(nearfar.data(molecules))
    first = nearfar.data(molecules).values("smiles", [0])[0]
    hits = told(capsys, "search", index, first, "--k", 3)
    assert hits[0]["structure"] == first
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    assert cli.main(["report", str(run)]) == 0
    assert first[:20] in (run / "report.html").read_text()


def test_compare(molecules, tmp_path, capsys):
    results = told(capsys, "compare", molecules, "--methods", "simclr,simclr --loss supcon,nnclr", "--seeds", 1,
                   "--steps", 3, "--out", tmp_path / "c")  # fmt: skip
    assert {row["slug"] for row in results["rows"]} >= {"simclr", "simclr-loss-supcon", "nnclr", "untrained", "chance"}
    assert all(cell["status"] == "done" for row in results["rows"] for cell in row["seeds"])


def test_the_method_is_chosen_by_the_kind(molecules):
    plan = nearfar.fit(None, molecules, dry_run=True, steps=10)
    assert plan.method == "simclr"


def test_a_name_that_stands_twice_is_refused():
    class Twice(modalities.Modality):
        options = modalities.get("smiles").options

    with pytest.raises(TypeError, match="'smiles_dim' of TrainSettings stands twice"):
        MODALITIES.add("twice", Twice)
    MODALITIES.forget("twice")
    assert TrainSettings().smiles_dim == 64
