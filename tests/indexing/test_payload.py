"""What travels beside vectors: a file that knows words alone says by them what is a number."""

import csv
import json

import pyarrow as pa
import pytest

import nearfar
from nearfar.errors import InputError
from nearfar.indexing import open_index
from tests.conftest import SENTENCES

ROWS = 12


def table(path, changed=()):
    """Columns: id, text, whole, decimal (with gaps), name (zeros in front), mixed, empty, version."""
    gaps = {3: "", 4: " ", 5: "NaN"}
    rows = [{"id": f"r{n}", "text": SENTENCES[n], "whole": str(n - 4), "decimal": gaps.get(n, f"{n / 4}"),
             "name": f"{n:03d}", "mixed": "n/a?" if n == 7 else str(n), "empty": "", "version": f"1.{n}.0"}
            for n in range(ROWS)]  # fmt: skip
    rows += [rows[0] | one for one in changed]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row | {"whole": int(row["whole"])}) for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_numbers_of_a_file_of_words_are_numbers(ending, text_index, tmp_path):
    nearfar.embed(text_index.meta["model"], table(tmp_path / f"t.{ending}"), out=tmp_path / "i", text="text")
    schema = open_index(tmp_path / "i").schema
    types = {
        name: schema.field(name).type for name in ("whole", "decimal", "name", "mixed", "empty", "version", "text")
    }
    assert types == {"whole": pa.int64(), "decimal": pa.float64()} | dict.fromkeys(
        ("name", "mixed", "empty", "version", "text"), pa.string()
    )
    asked = {
        "whole > 3 and whole <= 6": {8, 9, 10},
        "decimal is null": {3, 4, 5},
        "decimal > 2": {9, 10, 11},
        "name = '007'": {7},
        "mixed = '8'": {8},
    }
    for where, rows in asked.items():
        hits = nearfar.search(tmp_path / "i", "red boats", where=where, k=50)
        assert {hit["id"] for hit in hits} == {f"r{row}" for row in rows}, where
    assert next(hit["decimal"] for hit in hits if hit["id"] == "r8") == 2.0


def test_new_rows_keep_the_types(text_index, tmp_path):
    model, out = text_index.meta["model"], tmp_path / "i"
    nearfar.embed(model, table(tmp_path / "a.csv"), out=out, text="text")
    later = table(tmp_path / "b.csv", [{"id": "new", "text": "a new one", "decimal": "7"}])
    done = nearfar.embed(model, later, out=out, text="text", append=True)
    assert (done.added, done.replaced, done.left) == (1, 0, ROWS)
    assert [hit["key"] for hit in nearfar.search(out, "red", where="decimal = 7")] == ["new"]
    wrong = table(tmp_path / "c.csv", [{"id": "worse", "text": "another", "decimal": "seven"}])
    with pytest.raises(InputError, match=r"column 'decimal' of c\.csv does not fit the output, which holds double"):
        nearfar.embed(model, wrong, out=out, text="text", append=True)
    assert len(open_index(out)) == ROWS + 1
