"""A label file gives the table that it says, in every format, or an error that names file, line, column and the mend."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlkit.data.labelfile import read_label_file, read_labels, write_labels
from mlkit.data.labels import from_codes, label_counts, to_codes
from mlkit.data.names import exclude_images
from mlkit.errors import LabelError

SUFFIXES = (".txt", ".csv", ".tsv", ".parquet")
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@pytest.fixture
def write(tmp_path):
    """Write a file of the given name and content, and return its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def refused(write):
    """Text of the error that reading the given content raises."""

    def refused(name, content, **options):
        with pytest.raises(LabelError) as error:
            read_labels(write(name, content), **options)
        return str(error.value)

    return refused


@pytest.fixture
def labels():
    codes = [[1, -1, 0], [0, 1, 0], [1, 1, -1], [-1, 1, 0]]
    return from_codes(codes, ["a.jpg", "b.jpg", "sub/c.jpg", "d.jpg"], ["sea", "sky", "sun"])


# ---- what is read


def test_text_file_without_header_numbers_its_attributes(write):
    table = read_labels(write("labels.txt", "image_0.jpg 1 NA 0 1\nimage_1.jpg NA 0 0 0\n"))
    assert list(table.columns) == ["Attr1", "Attr2", "Attr3", "Attr4"]
    assert list(table.index) == ["image_0.jpg", "image_1.jpg"]
    assert table.index.name == "image"
    assert (table.dtypes == "Int8").all()
    assert to_codes(table).tolist() == [[1, -1, 0, 1], [-1, 0, 0, 0]]
    assert table.attrs["notes"] == []
    assert table.attrs["source"].endswith("labels.txt")


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
def test_separated_file_takes_its_attributes_from_the_header(write, suffix, separator):
    text = "file,has sea,has sky\na b.jpg,1,\nsub/b.jpg,0,NA\n".replace(",", separator)
    table = read_labels(write(f"labels{suffix}", text))
    assert list(table.columns) == ["has sea", "has sky"]
    assert list(table.index) == ["a b.jpg", "sub/b.jpg"]
    assert to_codes(table).tolist() == [[1, -1], [0, -1]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 0, None], [1, 0, -1]),
        ([1.0, 0.0, np.nan], [1, 0, -1]),
        ([True, False, None], [1, 0, -1]),
        (["1", "0", "NA"], [1, 0, -1]),
        (pd.array([1, 0, pd.NA], "Int8"), [1, 0, -1]),
        (pd.Categorical(["1", "0", None]), [1, 0, -1]),
    ],
)
@pytest.mark.parametrize("indexed", [False, True])
def test_parquet_file_may_hold_any_kind_of_yes_and_no(tmp_path, values, expected, indexed):
    frame = pd.DataFrame({"file": ["a.jpg", "b.jpg", "c.jpg"], "sea": values})
    (frame.set_index("file") if indexed else frame).to_parquet(tmp_path / "labels.parquet")
    table = read_labels(tmp_path / "labels.parquet")
    assert list(table.columns) == ["sea"]
    assert to_codes(table)[:, 0].tolist() == expected


@pytest.mark.parametrize(
    ("cells", "code"),
    [("1 1.0 true True TRUE", 1), ("0 0.0 false False FALSE", 0), ("NA na nan NaN <NA> None", -1)],
)
def test_value_may_be_written_in_several_ways(write, cells, code):
    table = read_labels(write("labels.txt", f"a.jpg {cells}\n"))
    assert (to_codes(table) == code).all()
    header = ",".join(f"x{i}" for i in range(len(cells.split())))
    assert (to_codes(read_labels(write("labels.csv", f"image,{header}\na.jpg,{','.join(cells.split())}\n"))) == code).all()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffa.jpg 1 0\nb.jpg 0 NA\n",
        "a.jpg 1 0\r\nb.jpg 0 NA\r\n",
        "a.jpg 1 0\rb.jpg 0 NA",
        "\n\n  a.jpg\t1   0  \n \t \n\nb.jpg 0 NA\n\n",
        "a.jpg 1 0\n\ufeffb.jpg 0 NA\n",
        "./a.jpg 1 0\n.//b.jpg 0 NA",
    ],
)
def test_white_space_line_ends_and_byte_order_marks_do_not_matter_in_text(write, text):
    table = read_labels(write("labels.txt", text))
    assert list(table.index) == ["a.jpg", "b.jpg"]
    assert to_codes(table).tolist() == [[1, 0], [0, -1]]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffimage,sea,sky\na.jpg,1,0\nb.jpg,0,NA\n",
        '\ufeff"image","sea","sky"\r\n"a.jpg","1","0"\r\n"b.jpg","0","NA"\r\n',
        "image, sea , sky\n\n a.jpg , 1,0 \n,,\n   \nb.jpg,0,",
        'image,"\nsea",sky\na.jpg,1,0\nb.jpg,0,\n',
    ],
)
def test_white_space_line_ends_and_byte_order_marks_do_not_matter_in_csv(write, text):
    table = read_labels(write("labels.csv", text))
    assert list(table.index) == ["a.jpg", "b.jpg"]
    assert list(table.columns) == ["sea", "sky"]
    assert to_codes(table).tolist() == [[1, 0], [0, -1]]


# ---- what is refused


@pytest.mark.parametrize("cell", ["-1", "-1.0"])
def test_minus_one_is_refused_until_a_setting_says_what_it_means(write, refused, cell):
    message = refused("labels.csv", f"image,sea,sky\na.jpg,1,0\nb.jpg,0,{cell}\n")
    assert (
        'labels.csv, line 3, column sky: -1 means "unknown" in some data sets and "no" in others, and 0 is here too'
        in message
    )
    assert 'values: {"1": "yes", "0": "no", "-1": "NA"}' in message
    assert 'values: {"1": "yes", "-1": "no", "0": "NA"} where 0 is difficult (VOC)' in message
    message = refused("labels.csv", f"image,sea,sky\na.jpg,1,{cell}\n")
    assert 'values: {"1": "yes", "-1": "no"} or values: {"1": "yes", "-1": "NA"}' in message
    path = write("labels.csv", f"image,sea,sky\na.jpg,1,0\nb.jpg,0,{cell}\nc.jpg,,1\n")
    for values, codes in (
        ({"1": "yes", "0": "no", "-1": "NA"}, [[1, 0], [0, -1], [-1, 1]]),
        ({1: True, 0: False, -1: None}, [[1, 0], [0, -1], [-1, 1]]),  # as YAML has them
        ({"1": "yes", "-1": "no", "0": "NA"}, [[1, -1], [-1, 0], [-1, 1]]),
        ({"1": "yes", "0": "no", "-1": "no", "": "no"}, [[1, 0], [0, 0], [0, 1]]),
    ):
        assert to_codes(read_labels(path, values=values)).tolist() == codes


def test_minus_one_in_parquet_is_refused_too(tmp_path):
    pd.DataFrame({"file": ["a.jpg", "b.jpg"], "sea": [1, -1]}).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(LabelError, match="row 2, column sea: -1 means"):
        read_labels(tmp_path / "labels.parquet")
    assert to_codes(read_labels(tmp_path / "labels.parquet", values={"1": "yes", "-1": "no"})).tolist() == [[1], [0]]


def test_values_may_be_words_and_are_the_only_ones(write, refused):
    text = "image,sea,sky\na.jpg,Positive,no\nb.jpg,n/a,yes\nc.jpg,,\n"
    words = {"positive": "yes", "yes": "yes", "no": "no", "N/A": "NA"}
    assert to_codes(read_labels(write("labels.csv", text), values=words)).tolist() == [[1, 0], [-1, 1], [-1, -1]]
    by_yaml = yaml.safe_load("values: {positive: yes, yes: yes, no: no, N/A: NA}")["values"]
    assert to_codes(read_labels(write("labels.csv", text), values=by_yaml)).tolist() == [[1, 0], [-1, 1], [-1, -1]]
    message = refused("labels.csv", text.replace("Positive", "1"), values=words)
    assert "line 2, column sea: '1' is not positive, yes, no, n/a or NA" in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"1": "maybe"}, """'1' means 'maybe'; it must mean "yes", "no" or "NA\""""),
        ({"1": "yes", 1.0: "no"}, "'1' has two meanings; keep one"),
        ({"-1": "NA"}, 'no value means "yes" or "no"'),
    ],
)
def test_values_that_make_no_sense_are_refused(refused, values, message):
    assert message in refused("labels.txt", "a.jpg 1\n", values=values)


def test_voc_has_four_yes_four_no_and_eight_difficult(write):
    """The counts of a file whose 0 means difficult."""
    codes = [1, -1, 0, 0] * 4
    path = write("labels.csv", "image,dog\n" + "".join(f"{i}.jpg,{code}\n" for i, code in enumerate(codes)))
    counts = label_counts(read_labels(path, values={"1": "yes", "-1": "no", "0": "NA"})).loc["dog"]
    assert counts[["positives", "negatives", "unknown"]].tolist() == [4, 4, 8]


@pytest.mark.parametrize(
    "name", ["/etc/a.jpg", "../a.jpg", "sub/../a.jpg", "..", "C:/a.jpg", "C:\\a.jpg", "\\\\host\\a.jpg", "sub\\a.jpg"]
)
@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_image_outside_of_the_images_folder_is_refused(refused, name, suffix):
    text = f"a.jpg 1\n{name} 1\n" if suffix == ".txt" else f"image,sea\n{name},1\n"
    message = refused(f"labels{suffix}", text)
    assert f"labels{suffix}, line 2: {name!r} must be a path inside the images folder" in message


@pytest.mark.parametrize("name", ["", " ", ".", "\ufeff"])
def test_row_without_an_image_is_refused(refused, name):
    message = refused("labels.csv", f"image,sea\na.jpg,1\n{name},1\n")
    assert "labels.csv, line 3: no image name" in message
    assert "write the path inside the images folder" in message


def test_line_break_in_an_image_name_is_refused(refused):
    assert "line break" in refused("labels.csv", 'image,sea\n"a\nb.jpg",1\n')


@pytest.mark.parametrize(
    ("name", "text", "line", "came"),
    [
        ("labels.txt", "a.jpg 1 0\nb.jpg 1\n", 2, "1 values where 2 are expected; give one per attribute"),
        ("labels.txt", "a.jpg 1 0\n\nb.jpg 1 0 0\n", 3, "3 values where 2 are expected; give one per attribute"),
        ("labels.csv", "image,sea,sky\na.jpg,1\n", 2, "1 values where 2 are expected; give one per attribute"),
        ("labels.csv", "image,sea,sky\na.jpg,1,0,\n", 2, "3 values where 2 are expected: it ends with a separator too many"),
        ("labels.tsv", "image\tsea\na.jpg\n", 2, "0 values where 1 are expected; give one per attribute"),
        (
            "labels.csv",
            "image,sea\na.jpg,1\nb.jpg;1\n",
            3,
            "0 values where 1 are expected; it seems to be separated by semicolons",
        ),
        (
            "labels.csv",
            "image;sea\na.jpg;1\nb.jpg,1\n",
            3,
            "0 values where 1 are expected; it seems to be separated by commas",
        ),
    ],
)
def test_row_with_the_wrong_number_of_cells_is_refused(refused, name, text, line, came):
    assert f"{name}, line {line}: {came}" in refused(name, text)


def test_advice_on_text_files_is_given_only_for_them(refused):
    assert ".tsv" not in refused("labels.csv", "image,sea,sky\na.jpg,1\n")


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_are_read_where_the_whole_file_has_them(write, separator):
    text = "image,sea,sky\na.jpg,1,0\nb c.jpg,,1\n".replace(",", separator)
    table = read_labels(write("labels.csv", text))
    assert to_codes(table).tolist() == [[1, 0], [-1, 1]]
    assert table.attrs["notes"] == [f"cells are separated by {separator!r}"]
    table = read_labels(write("labels.csv", f"sep={separator}\r\n{text}"))  # as Excel says it
    assert list(table.columns) == ["sea", "sky"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PK\x03\x04rest", "an Excel workbook or another archive; save its sheet as CSV"),
        (b"\x1f\x8brest", "a gzip archive; unpack it"),
        (b"PAR1rest", "a Parquet file; name it .parquet"),
        (b'[{"id": 1}]', "looks like JSON; `mlkit labels convert` makes a label file of it"),
    ],
)
def test_other_files_by_the_name_of_a_table_are_named(refused, content, kind):
    assert kind in refused("labels.csv", content)


def test_text_file_with_a_header_or_commas_is_told_what_a_text_file_is(refused):
    message = refused("labels.txt", "image sea sky\na.jpg 1 0\n")
    assert "labels.txt, line 1: 'sea', 'sky' ... are no values; a .txt has no header, write a .csv" in message
    message = refused("labels.txt", "image,sea\na.jpg,1\n")
    assert (
        "it seems to be separated by commas; a .txt has white space between its cells and no header; name this one .csv"
        in message
    )


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("uid,Path,sea,sky\n7,a.jpg,1,0\n8,b.jpg,0,\n", "the images are named by column 2, 'Path'"),
        ("sea,sky,file name\n1,0,a.jpg\n0,,b.jpg\n", "the images are named by column 3, 'file name'"),
        (",image,sea,sky\n0,a.jpg,1,0\n1,b.jpg,0,\n", "column 1 counts the rows and was passed over"),
        ("Unnamed: 0,photo,sea,sky\n0,a.jpg,1,0\n1,b.jpg,0,\n", "column 1 counts the rows and was passed over"),
        (",sea,sky\na.jpg,1,0\nb.jpg,0,\n", ""),  # pandas, names in the index
        ("what,sea,picture,sky\na.jpg,1,1,0\nb.jpg,0,1,\n", ""),  # an attribute that is called like a column of names
    ],
)
def test_image_column_is_found_by_its_name_and_row_numbers_are_passed_over(write, text, note):
    chosen = ["!uid"] if "uid" in text else ["!picture"] if "picture" in text else []
    table = read_labels(write("labels.csv", text), attributes=chosen)
    assert list(table.index) == ["a.jpg", "b.jpg"]
    assert list(table.columns) == ["sea", "sky"]
    assert to_codes(table).tolist() == [[1, 0], [0, -1]]
    assert note in table.attrs["notes"] or not note


def test_two_columns_that_may_name_the_image_ask_for_a_setting(write, refused):
    text = "id,file,path,sea\n1,a.jpg,x/a.jpg,1\n"
    assert "columns 2 ('file') and 3 ('path') may each name the image; say which with image_column" in refused(
        "labels.csv", text
    )
    table = read_labels(write("labels.csv", text), image_column="path", attributes=["sea"])
    assert list(table.index) == ["x/a.jpg"]
    assert "did you mean 'path'?" in refused("labels.csv", text, image_column="pat")


def test_attributes_are_chosen_by_names_and_patterns(write, refused):
    text = "Path,Sex,Age,wears hat,wears tie\na.jpg,Male,67,1,0\nb.jpg,Female,5,0,1\nc.jpg,Male,1,0,1\n"
    for chosen in (["wears *"], ["!Sex", "!Age"], ["wears hat", "wears tie"], ["wears *", "!Sex"]):
        assert list(read_labels(write("labels.csv", text), attributes=chosen)) == ["wears hat", "wears tie"]
    message = refused("labels.csv", text)
    assert "line 2, column Sex: 'Male', 'Female' are not 1, 0 or NA; write one of these, or leave the column out" in message
    assert 'attributes: ["!Sex"]' in message
    assert "lists 1 more problem)" in message
    assert "no column is called 'wear hat'; did you mean 'wears hat'?" in refused(
        "labels.csv", text, attributes=["wear hat"]
    )


def test_tags_in_one_column_are_shown_the_way(refused):
    assert "`mlkit labels convert --from tags`" in refused("train.csv", "image_name,tags\na,haze primary\nb,clear road\n")


def test_all_problems_are_found_at_once(write):
    text = "image,sea,sky\na.jpg,1,x\nb.jpg,1\n../c.jpg,1,0\nd.jpg,1,0\nd.jpg,0,0\ne.jpg,?,1\nf.jpg,1,0\n"
    file = read_label_file(write("labels.csv", text))
    assert [problem.line for problem in file.problems] == [2, 3, 4, 6, 7]
    assert [str(problem).split(": ")[0].rpartition("labels.csv, ")[2] for problem in file.problems] == [
        "line 2, column sky", "line 3", "line 4", "line 6, column sea", "line 7, column sea",
    ]  # fmt: skip
    assert list(file.labels.index) == ["a.jpg", "d.jpg", "e.jpg", "f.jpg"]


def test_parquet_may_have_the_names_in_an_index_without_a_name(tmp_path):
    pd.DataFrame({"sea": [1, 0]}, index=["a.jpg", "b.jpg"]).to_parquet(tmp_path / "labels.parquet")
    assert list(read_labels(tmp_path / "labels.parquet").index) == ["a.jpg", "b.jpg"]
    pd.DataFrame({"file": ["a.jpg", "b.jpg"], "sea": [1, 0]}, index=[5, 7]).to_parquet(tmp_path / "labels.parquet")
    assert list(read_labels(tmp_path / "labels.parquet", attributes=["sea"]).index) == ["a.jpg", "b.jpg"]


def test_file_name_with_spaces_in_a_text_file_is_told_the_way_out(refused):
    assert "a file name with spaces needs a .csv or .tsv file" in refused("labels.txt", "a.jpg 1\nmy photo.jpg 1\n")


@pytest.mark.parametrize("value", ["2", "yes", "0.5", "01", "?", "-2", "1 1", "١"])
def test_unknown_value_is_refused_with_line_and_column(refused, value):
    message = refused("labels.csv", f"image,sea,sky\na.jpg,1,0\nb.jpg,1,{value}\n")
    assert f"labels.csv, line 3, column sky: {value!r} is not 1, 0 or NA; write one of these" in message


def test_unknown_value_in_a_text_file_names_the_numbered_attribute(refused):
    assert "labels.txt, line 1, column Attr2: 'x' is not 1, 0 or NA" in refused("labels.txt", "a.jpg 1 x\n")


@pytest.mark.parametrize("first", ["a.jpg,1,NA", "a.jpg,,", "a.jpg,-1,1", "a.jpg,True,False"])
def test_missing_header_is_refused(refused, first):
    message = refused("labels.csv", f"{first}\nb.jpg,0,1\n")
    assert "labels.csv, line 1: this looks like labels, not like a header" in message
    assert "add a first line image,attribute,..." in message


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image,sea,sea", "columns 2 and 3 are both called 'sea'; rename one"),
        ("image,sea,", "column 3 has no name (a separator too many at the end of the line?)"),
        ("image,,sea", "column 2 has no name; give it one"),
        ("image,sea, sea ", "columns 2 and 3 are both called 'sea'; rename one"),
        ("file,sea,image", "attribute name 'image' is that of the first column"),
    ],
)
def test_attributes_without_a_name_of_their_own_are_refused(refused, header, message):
    assert f"labels.csv, line 1: {message}" in refused("labels.csv", f"{header}\na.jpg,1,0\n")


@pytest.mark.parametrize(
    ("name", "text"), [("labels.txt", "a.jpg\nb.jpg\n"), ("labels.csv", "image\na.jpg\n"), ("labels.csv", "image\nsea\n")]
)
def test_file_without_attributes_is_refused(refused, name, text):
    message = refused(name, text)
    assert f"{name}, line 1: no attribute found in [" in message
    assert "write the image, then one value per attribute" in message


@pytest.mark.parametrize("name", ["labels.txt", "labels.csv", "labels.tsv"])
@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff"])
def test_empty_file_is_refused(refused, name, text):
    assert f"{name} holds no rows; write one line per image" in refused(name, text)


def test_header_alone_is_refused(refused, tmp_path):
    assert "labels.csv holds no rows" in refused("labels.csv", "image,sea\n")
    pd.DataFrame({"image": [], "sea": []}).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(LabelError, match=r"labels\.parquet holds no rows"):
        read_labels(tmp_path / "labels.parquet")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("image,sea\nzoë.jpg,1\n".encode("latin-1"), 2),
        ("image,sea\n".encode("utf-16"), 1),
        (b"a,b\n" * 9000 + b"\xff", 9001),
    ],
)
def test_text_that_is_not_utf_8_is_refused_with_its_line(refused, content, line):
    message = refused("labels.csv", content)
    assert f"labels.csv, line {line}: not UTF-8 text" in message
    assert "save the file as UTF-8" in message


@pytest.mark.parametrize(("text", "line"), [('image,sea\n"a.jpg,1\nb.jpg,1\n', 3), ('image,sea\n"a"b.jpg,1\n', 2)])
def test_broken_quotes_are_refused(refused, text, line):
    message = refused("labels.csv", text)
    assert f"labels.csv, line {line}: " in message
    assert "check its quotes and separators" in message


@pytest.mark.parametrize("content", [b"", b"image,sea\na.jpg,1\n", b"PAR1PAR1"])
def test_parquet_file_that_is_none_is_refused(refused, content):
    message = refused("labels.parquet", content)
    assert "labels.parquet cannot be read as Parquet (" in message
    assert "write it again, or use .csv" in message


def test_parquet_file_with_damaged_text_is_refused(refused, write, labels):
    path = write("labels.parquet", b"")
    write_labels(labels, path)
    damaged = path.read_bytes().replace(b"sub/c.jpg", b"sub/\xff.jpg")
    assert "cannot be read as Parquet" in refused("labels.parquet", damaged)


@pytest.mark.parametrize("name", ["labels.xlsx", "labels", "labels.json"])
def test_unknown_suffix_is_refused_with_the_known_ones(refused, name, labels, tmp_path):
    message = refused(name, "a.jpg 1\n")
    assert f"{name}: unknown label format" in message
    assert ".csv, .tsv or .parquet" in message
    with pytest.raises(LabelError, match="unknown label format"):
        write_labels(labels, tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_file_is_refused(tmp_path, suffix):
    with pytest.raises(LabelError, match=rf"labels\{suffix}: no such label file; check the path"):
        read_labels(tmp_path / f"labels{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(LabelError, match="no such label file"):
        read_labels(tmp_path / f"folder{suffix}")


# ---- repeated rows


def test_repeated_rows_that_agree_collapse_with_a_note(write):
    file = read_label_file(write("labels.txt", "a.jpg 1 NA NA\nb.jpg 0 0 0\n./a.jpg 1 0 NA\n"))
    assert list(file.labels.index) == ["a.jpg", "b.jpg"]
    assert to_codes(file.labels).tolist() == [[1, 0, -1], [0, 0, 0]]
    assert file.repeats == [(3, "a.jpg", 1)]
    assert file.lines.tolist() == [1, 2]
    assert file.notes == ["rows that repeat an image and agree with its first row: 1 (line 3); kept once"]


def test_repeated_rows_that_disagree_are_refused(refused):
    message = refused("labels.csv", "image,sea,sky\na.jpg,1,0\nb.jpg,1,1\na.jpg,1,1\n")
    assert "labels.csv, line 4, column sky: a.jpg is 1 here and 0 on line 2; keep one" in message


def test_disagreement_names_the_line_that_said_otherwise(refused):
    message = refused("labels.txt", "a.jpg NA 1\na.jpg 1 NA\na.jpg NA NA\na.jpg 0 NA\n")
    assert "labels.txt, line 4, column Attr1: a.jpg is 0 here and 1 on line 2; keep one" in message


# ---- writing


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_table_is_read_back(labels, tmp_path, suffix):
    path = tmp_path / "new" / f"labels{suffix}"
    if suffix == ".txt":
        labels = labels.set_axis(["Attr1", "Attr2", "Attr3"], axis=1)
    write_labels(labels, path)
    pd.testing.assert_frame_equal(read_labels(path), labels)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_text_file_cannot_hold_names_or_spaces(labels, tmp_path):
    with pytest.raises(LabelError, match=r"labels\.txt: .* would lose the names; write a \.csv"):
        write_labels(labels, tmp_path / "labels.txt")
    spaced = from_codes([[1]], ["my photo.jpg"], ["Attr1"])
    with pytest.raises(LabelError, match=r"'my photo\.jpg' holds white space; write a \.csv or \.tsv"):
        write_labels(spaced, tmp_path / "labels.txt")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (" a.jpg", "would be read back as 'a.jpg'; rename it|holds white space"),
        ("a//b.jpg", "would be read back as 'a/b.jpg'; rename it"),
        ("../a.jpg", "must be a path inside the images folder"),
        ("\udcff.jpg", "cannot be written as UTF-8; rename it"),
    ],
)
def test_image_that_would_be_read_back_otherwise_is_not_written(tmp_path, suffix, image, message):
    with pytest.raises(LabelError, match=message):
        write_labels(from_codes([[1]], [image], ["Attr1"]), tmp_path / f"labels{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("sea ", "attribute name 'sea ' has white space that would be lost"),
        ("", "column 2 has no name"),
        ("image", "attribute name 'image' is that of the first column"),
        ("1", "looks like labels, not like a header"),
    ],
)
def test_attribute_that_would_be_read_back_otherwise_is_not_written(tmp_path, suffix, attribute, message):
    with pytest.raises(LabelError, match=message):
        write_labels(from_codes([[1]], ["a.jpg"], [attribute]), tmp_path / f"labels{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_table_without_cells_is_not_written(tmp_path):
    for table in (from_codes(np.empty((0, 1)), [], ["sea"]), from_codes(np.empty((1, 0)), ["a.jpg"], [])):
        with pytest.raises(LabelError, match="no images or no attributes; there is nothing to write"):
            write_labels(table, tmp_path / "labels.csv")


# ---- images that cannot be used


@pytest.fixture
def file(write):
    return read_label_file(write("labels.csv", "image,sea\na.jpg,1\n\nb.jpg,0\na.jpg,1\nsub//c.jpg,1\n"))


def test_unusable_images_are_taken_out_and_reported_with_their_lines(file):
    problems = {"sub/c.jpg": "no such file", "b.jpg": "empty", "other.jpg": "not asked"}
    kept, report = exclude_images(file.labels, problems, lines=file.lines)
    assert list(kept.index) == ["a.jpg"]
    assert kept.attrs == file.labels.attrs
    assert report.to_dict("list") == {
        "image": ["b.jpg", "sub/c.jpg"],
        "line": [4, 6],
        "problem": ["empty", "no such file"],
    }


def test_table_without_problems_is_kept_whole(file):
    kept, report = exclude_images(file.labels, {}, strict=True)
    pd.testing.assert_frame_equal(kept, file.labels)
    assert list(report.columns) == ["image", "line", "problem"]
    assert report.empty


def test_table_that_was_not_read_from_a_file_is_reported_without_lines(labels):
    _, report = exclude_images(labels, {"d.jpg": "empty"})
    assert report.to_dict("list") == {"image": ["d.jpg"], "line": [0], "problem": ["empty"]}


def test_strict_makes_an_unusable_image_an_error(file):
    with pytest.raises(LabelError, match=r"labels\.csv: 1 of 3 images cannot be used \(line 4: b\.jpg: empty\)"):
        exclude_images(file.labels, {"b.jpg": "empty"}, strict=True, lines=file.lines)


def test_no_usable_image_is_an_error(file):
    with pytest.raises(LabelError, match=r"none of its 3 images can be used .*; is the images folder right\?"):
        exclude_images(file.labels, dict.fromkeys(file.labels.index, "no such file"))


def test_long_list_of_unusable_images_is_cut(tmp_path):
    table = from_codes(np.ones((9, 1)), [f"{i}.jpg" for i in range(9)], ["sea"])
    with pytest.raises(LabelError, match=r"4\.jpg: empty; and 4 more\)") as error:
        exclude_images(table, dict.fromkeys(table.index, "empty"))
    assert "5.jpg" not in str(error.value)


# ---- whatever comes

_CODES = st.sampled_from([1, 0, -1])
_WORDS = st.sampled_from(["a.jpg", "b/c d.jpg", 'q"q.jpg', "NA", "1", "é,\t;.png", "\ufeffx", "image", " pad ", "x\r\ny"])


@st.composite
def tables(draw):
    """Label tables with names nobody would choose, many of which no format can hold."""
    images = draw(st.lists(_WORDS | st.text(max_size=8), min_size=1, max_size=5, unique=True))
    numbered = draw(st.booleans())
    names = _WORDS | st.text(max_size=8)
    attributes = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    if numbered:
        attributes = [f"Attr{i}" for i in range(1, len(attributes) + 1)]
    rows = st.lists(_CODES, min_size=len(attributes), max_size=len(attributes))
    return from_codes(draw(st.lists(rows, min_size=len(images), max_size=len(images))), images, attributes)


@pytest.mark.parametrize("suffix", SUFFIXES)
@quick
@given(table=tables())
def test_any_table_is_read_back_as_it_was_or_not_written(suffix, table):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"labels{suffix}"
        try:
            write_labels(table, path)
        except LabelError:
            assert not path.exists()
        else:
            pd.testing.assert_frame_equal(read_labels(path), table)


_TOKENS = [
    "a.jpg",
    "b",
    "1",
    "0",
    "NA",
    "-1",
    ",",
    "\t",
    " ",
    "\n",
    "\r\n",
    "\r",
    '"',
    "\ufeff",
    "image",
    "..",
    "/",
    "\0",
    "\x85",
]
_BYTES = (
    st.binary(max_size=80)
    | st.text(max_size=80).map(str.encode)
    | st.lists(st.sampled_from(_TOKENS), max_size=40).map(lambda tokens: "".join(tokens).encode())
)


def check_any_bytes(suffix, content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"labels{suffix}"
        path.write_bytes(content)
        try:
            table = read_labels(path)
        except LabelError as error:
            text = str(error)
        else:
            text = table.attrs["source"]
            assert set(np.unique(to_codes(table))) <= {1, 0, -1}
            assert table.index.is_unique
            assert table.columns.is_unique
        assert path.name in text


@pytest.mark.parametrize("suffix", SUFFIXES)
@quick
@given(content=_BYTES)
def test_any_bytes_give_a_table_or_a_label_error(suffix, content):
    check_any_bytes(suffix, content)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    path = tmp_path_factory.mktemp("parquet") / "labels.parquet"
    write_labels(from_codes([[1, 0], [-1, 1]], ["a.jpg", "b.jpg"], ["sea", "sky"]), path)
    return path.read_bytes()


@quick
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_parquet_gives_a_table_or_a_label_error(parquet, changes):
    content = bytearray(parquet)
    for place, byte in changes:
        content[int(place * len(content))] = byte
    check_any_bytes(".parquet", bytes(content))
