"""Times of tables, against the calendar of the standard library."""

import datetime

import numpy as np
import pytest

import nearfar
from nearfar.errors import InputError
from nearfar.sources.times import stamps

JAN = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
DAYS = [JAN + datetime.timedelta(days=k) for k in range(20)]


FORMS = ["%Y-%m-%d", "%Y%m%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m/%d/%y %H:%M", "%d %b %Y",
         "%Y-%m-%dT%H:%M:%SZ"]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_column_of_dates_is_read_in_one_order(form):
    assert stamps([day.strftime(form) for day in DAYS]).tolist() == [day.timestamp() for day in DAYS]


def test_a_date_whose_order_no_row_tells_is_asked_for():
    with pytest.raises(ValueError, match=r"'01/01/2024' may begin with the day or the month"):
        stamps([day.strftime("%d/%m/%Y") for day in DAYS[:12]])
    with pytest.raises(ValueError, match="'24-01-01' may begin with the year"):
        stamps(["24-01-01", "24-01-15"])
    assert stamps([day.strftime("%d.%m.%Y") for day in DAYS[:12]]).tolist() == [d.timestamp() for d in DAYS[:12]]


def test_cells_of_other_kinds_in_a_column():
    assert np.array_equal(stamps(["13/01/2024", "14/01/2024", "01/15/2024", "2024-02-03"]),
                          [*(JAN.timestamp() + 86400 * k for k in (12, 13)), np.nan, JAN.timestamp() + 86400 * 33],
                          equal_nan=True)  # fmt: skip
    assert np.array_equal(stamps([1, "2.5", "noon", None, "1e400", True]), [1, 2.5, np.nan, np.nan, np.nan, 1], True)
    assert np.diff(stamps(["20240102", "2024-01-03"])).tolist() == [86400]
    assert np.diff(stamps([datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 3, 1)])).tolist() == [90000]
    assert np.diff(stamps(["2024-01-02T09:00:00Z", "2024-01-02T10:00:00", "2024-01-02T12:30:00+02:00"])).tolist() == [
        3600, 1800]  # fmt: skip
    assert np.diff(stamps(["1000-01-01", "9999-12-31"])).item() == pytest.approx(3287181 * 86400)
    assert len(stamps([])) == 0


@pytest.mark.parametrize("header", ["user,item,time", "series_id,time,load"])
def test_a_table_with_such_dates(header, tmp_path):
    """A later row tells the order of all; without it the file and its column are named."""
    place = header.split(",").index("time")
    rows = [[f"{k}", f"{day.day % 5}"] for day in DAYS for k in range(6)]
    for number, row in enumerate(rows):
        row.insert(place, DAYS[number // 6].strftime("%d/%m/%Y"))
    path = tmp_path / "t.csv"

    def opened(kept):
        path.write_text("\n".join([header, *(",".join(row) for row in kept)]) + "\n")
        return nearfar.data(path)

    assert any("sorted" in note for note in opened(rows[::-1]).notes)
    assert not any("sorted" in note or "uneven" in note for note in opened(rows).notes)
    early = [row for row in rows if int(row[place][:2]) <= 12]
    with pytest.raises(InputError, match=r"t.csv: column 'time': '01/01/2024' may begin with the day.*\n?.*2024-12-31"):
        opened(early)
