"""CSV files, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elbo_exact import _csv
from elbo_exact._csv import read_table


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data.csv"


def test_numbers_quotes_and_missing_cells(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbf"a, b",c\r\n1, 2.5e1 \r\n,NA\r\n"3",?\r\n')
    table = read_table(file)
    assert table.names == ("a, b", "c") and table.levels == ()
    np.testing.assert_array_equal(table.values, [[1.0, 25.0], [np.nan, np.nan], [3.0, np.nan]])


def test_categories_are_numbered_alphabetically_and_taken_over(file: Path) -> None:
    file.write_text("u,v\nno,b\nyes,a\n,c\n")
    table = read_table(file, text=True)
    assert table.levels == (("no", "yes"), ("a", "b", "c"))
    np.testing.assert_array_equal(table.values, [[0, 1], [1, 0], [np.nan, 2]])
    file.write_text("v,u\nc,yes\n")
    np.testing.assert_array_equal(read_table(file, like=table).values, [[1, 2]])


def test_one_column_may_have_an_empty_line_as_its_missing_cell(file: Path) -> None:
    file.write_text("a\n1\n\n2\n\n\n")
    np.testing.assert_array_equal(read_table(file).values, [[1], [np.nan], [2]])


def test_empty_lines_at_the_end_are_nothing(file: Path) -> None:
    file.write_bytes(b"a,b\r\n1,2\r\n\r\n\r\n")
    np.testing.assert_array_equal(read_table(file).values, [[1, 2]])


def test_where_no_cell_may_be_missing_the_line_is_named(file: Path) -> None:
    file.write_text("a,b\n1,2\n3,?\n")
    with pytest.raises(ValueError, match=r"line 3: column 'b' must hold a number for this model; the cell is missing\."):
        read_table(file, whole=True)
    file.write_text("a\n1\n\n2\n")
    with pytest.raises(ValueError, match=r"line 4: an empty line above this row\."):
        read_table(file, whole=True)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "line 1: the first line must name every column."),
        (b"a,,b\n1,2,3\n", "line 1: the first line must name every column."),
        (b"a,a\n1,2\n", "line 1: two columns are named 'a'."),
        (b"a,b\n", "line 1: no rows follow the header."),
        (b"a,b\n1,2\n3\n", "line 3: 1 cells where the header has 2."),
        (b"a,b\n1,2\n\n3,4\n", "line 4: an empty line above this row."),
        (b"a,b\n1,x\n", "line 2: column 'b' must hold finite numbers; got 'x'."),
        (b"a,b\n1,inf\n", "line 2: column 'b' must hold finite numbers; got 'inf'."),
        (b"a,b\n1,1_0\n", "line 2: column 'b' must hold finite numbers; got '1_0'."),
        (b"a\n1\n\x00\n", "line 2: a zero byte; a CSV file is plain text."),
        (b'a,b\n1,"2\n', "line 2: unexpected end of data."),
    ],
)
def test_mistakes_are_one_sentence_with_file_and_line(file: Path, content: bytes, sentence: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ValueError, match="line") as caught:
        read_table(file)
    assert str(caught.value) == f"{file}, {sentence}"


def test_not_utf8_and_limits(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(b"a\n\xff\n")
    with pytest.raises(ValueError, match=r"data.csv, line 1: it is not UTF-8"):
        read_table(file)
    file.write_text("a\nx\ny\nz\n")
    monkeypatch.setattr(_csv, "MAX_CATEGORIES", 2)
    with pytest.raises(ValueError, match=r"line 4: column 'a' has more than 2 categories"):
        read_table(file, text=True)
    monkeypatch.setattr(_csv, "MAX_BYTES", 3)
    with pytest.raises(ValueError, match="has 8 bytes, at most 3"):
        read_table(file)
    monkeypatch.undo()
    file.write_text("a\n" + "1" * (_csv.MAX_LINE + 1))
    with pytest.raises(ValueError, match="line has at most"):
        read_table(file)


def test_columns_and_categories_that_a_model_does_not_know(file: Path) -> None:
    table = _csv.Table(("u",), np.zeros((1, 1)), (("no", "yes"),))
    for content, words in [("w\nno\n", "named 'u'"), ("u,w\nno,1\n", "no column 'w'"), ("u\nmaybe\n", "no category 'maybe'")]:
        file.write_text(content)
        with pytest.raises(ValueError, match=words):
            read_table(file, like=table)
