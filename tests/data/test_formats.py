"""Files of other tools, as their documentation shows them, give the label table that they mean, or a question."""

import json

import pandas as pd
import pyarrow as pa
import pytest

from mlkit.cli import main
from mlkit.data.formats import read_other, recognise, write_other
from mlkit.data.formats.statements import Options
from mlkit.data.labelfile import read_labels
from mlkit.data.labels import from_codes, to_codes
from mlkit.errors import LabelError

SEEN = {"a.jpg": {"haze", "primary"}, "b.jpg": {"clear"}, "c.jpg": set()}  # what the files that list what is present say
TAGS = {
    "spaces": ("image_name,tags\na.jpg,haze primary\nb.jpg,clear\nc.jpg,\n", "train.csv"),
    "bars": ("image,labels\na.jpg,haze|primary\nb.jpg,clear\nc.jpg,\n", "train.csv"),
    "findings": (
        "Image Index,Finding Labels,Follow-up #,Patient ID\na.jpg,haze|primary,0,1\nb.jpg,clear,1,1\nc.jpg,,2,1\n",
        "Data_Entry.csv",
    ),
    "semicolons": ("file\ttags\na.jpg\thaze;primary\nb.jpg\tclear\nc.jpg\t\n", "train.tsv"),
    "commas": ('image,tags\na.jpg,"haze, primary"\nb.jpg,clear\nc.jpg,\n', "train.csv"),
    "lists": ('image,tags\na.jpg,"[""haze"", ""primary""]"\nb.jpg,"[\'clear\']"\nc.jpg,[]\n', "train.csv"),
    "lines": (
        '{"file_name": "a.jpg", "labels": ["haze", "primary"]}\n{"file_name": "b.jpg", "labels": ["clear"]}\n'
        '{"file_name": "c.jpg", "labels": []}\n',
        "metadata.jsonl",
    ),
}
COCO = {
    "info": {"year": 2017},
    "images": [{"id": 9, "file_name": "a.jpg"}, {"id": 7, "file_name": "b.jpg"}, {"id": 8, "file_name": "c.jpg"}],
    "categories": [{"id": 1, "name": "haze"}, {"id": 2, "name": "primary"}, {"id": 5, "name": "clear"}],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 1, "bbox": [0, 0, 5, 5], "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 2, "bbox": [0, 0, 5, 5], "iscrowd": 0},
        {"id": 3, "image_id": 9, "category_id": 2, "bbox": [3, 3, 5, 5], "iscrowd": 1},
        {"id": 4, "image_id": 7, "category_id": 5, "bbox": [0, 0, 5, 5], "iscrowd": 0},
    ],
}


@pytest.fixture
def file(tmp_path):
    """Write a file and return its path."""

    def file(content, name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return tmp_path / name

    return file


def cells(table):
    """Image -> attribute -> code."""
    return {
        image: dict(zip(table.columns, row, strict=True))
        for image, row in zip(table.index, to_codes(table).tolist(), strict=True)
    }


def expected(absent, seen=SEEN):
    attributes = sorted(set().union(*seen.values()))
    return {image: {name: 1 if name in present else absent for name in attributes} for image, present in seen.items()}


@pytest.mark.parametrize("kind", TAGS)
def test_tags_in_one_column_become_attributes(file, kind):
    path = file(*TAGS[kind])
    assert recognise(path) == "tags"
    assert cells(read_other(path, Options(absent="no"))) == expected(0)
    assert cells(read_other(path, Options(absent="NA"))) == expected(-1)


@pytest.mark.parametrize("kind", ["tags", "coco", "long", "names"])
def test_what_is_not_listed_is_asked(file, tmp_path, kind):
    if kind == "names":
        path = file("a.jpg\n", "sets/dog.txt").parent
    else:
        path = {
            "tags": lambda: file(*TAGS["bars"]),
            "coco": lambda: file(COCO, "instances.json"),
            "long": lambda: file("image,label\na.jpg,x\na.jpg,y\n", "long.csv"),
        }[kind]()
    with pytest.raises(LabelError, match=r"it lists only what an image has: .* Say --absent no or --absent NA"):
        read_other(path, Options())


def test_coco_images_have_the_categories_of_their_annotations(file):
    path = file(COCO, "instances.json")
    assert recognise(path) == "coco"
    assert cells(read_other(path, Options(absent="no"))) == expected(0)
    broken = COCO | {"annotations": [{"image_id": 1, "category_id": 1}]}
    with pytest.raises(LabelError, match=r"broken.json: an entry lacks 1, or names an image or category that is not there"):
        read_other(file(broken, "broken.json"), Options(absent="no"))


def test_open_images_says_yes_and_no_and_has_names_of_its_own(file):
    path = file(
        "ImageID,Source,LabelName,Confidence\n000a1,verification,/m/011k07,1\n000a1,verification,/m/01g317,0\n"
        "000b2,verification,/m/01g317,1\n",
        "oidv7-val-annotations-human-imagelabels.csv",
    )
    assert recognise(path) == "long"
    names = {"/m/011k07": "Tortoise", "/m/01g317": "Person"}
    assert cells(read_other(path, Options(names=names))) == {
        "000a1": {"Tortoise": 1, "Person": 0},
        "000b2": {"Tortoise": -1, "Person": 1},
    }
    assert list(read_other(path, Options(names=names, attributes=("Person",)))) == ["Person"]
    machine = file("ImageID,Source,LabelName,Confidence\na,machine,/m/1,0.7\n", "machine.csv")
    with pytest.raises(LabelError, match=r"line 2, column Confidence: '0.7' is not 1, 0 or NA"):
        read_other(machine, Options())


def test_long_table_without_a_value_lists_what_is_present(file):
    path = file("image,label\na.jpg,haze\na.jpg,primary\nb.jpg,clear\n", "long.csv")
    assert recognise(path) == "long"
    seen = {image: tags for image, tags in SEEN.items() if tags}
    assert cells(read_other(path, Options(absent="no"))) == expected(0, seen)


def test_voc_sets_are_put_together_and_difficult_is_unknown(file):
    file("2008_000001  1\n2008_000002 -1\n", "Main/dog_train.txt")
    file("2008_000003  0\n2008_000004 -1\n", "Main/dog_val.txt")
    file("2008_000001 -1\n2008_000002  1\n2008_000003 -1\n2008_000004  1\n", "Main/potted_plant_trainval.txt")
    folder = file("2008_000001\n2008_000002\n", "Main/train.txt").parent
    assert recognise(folder) == "imagesets"
    assert cells(read_other(folder, Options())) == {
        "2008_000001": {"dog": 1, "potted_plant": 0},
        "2008_000002": {"dog": 0, "potted_plant": 1},
        "2008_000003": {"dog": -1, "potted_plant": 0},
        "2008_000004": {"dog": 0, "potted_plant": 1},
    }
    easy = read_other(folder, Options(values={"1": "yes", "-1": "no", "0": "yes"}))
    assert cells(easy)["2008_000003"]["dog"] == 1


def test_names_alone_list_what_is_present(file):
    file("a.jpg\nb.jpg\n", "sets/dog.txt")
    file("b.jpg\n", "sets/cat.txt")
    folder = file("a.jpg\nb.jpg\nc.jpg\n", "sets/train.txt").parent
    seen = {"a.jpg": {"dog"}, "b.jpg": {"dog", "cat"}, "c.jpg": set()}
    assert cells(read_other(folder, Options(absent="no"))) == expected(0, seen)


def test_celeba_has_a_count_names_and_rows(file):
    text = "2\nSmiling Wearing_Hat \n000001.jpg -1  1\n000002.jpg  1 -1\n"
    path = file(text, "list_attr_celeba.txt")
    assert recognise(path) == "celeba"
    assert cells(read_other(path, Options())) == {
        "000001.jpg": {"Smiling": 0, "Wearing_Hat": 1},
        "000002.jpg": {"Smiling": 1, "Wearing_Hat": 0},
    }
    with pytest.raises(LabelError, match="line 1 says 3 images, 2 follow"):
        read_other(file("3" + text[1:], "list_attr_celeba.txt"), Options())


def task(image, *annotations, **more):
    return {"id": 1, "data": {"image": image}, "annotations": list(annotations), "predictions": [], **more}


def annotation(cancelled=False, **answers):
    result = [
        {
            "id": "x",
            "from_name": name,
            "to_name": "image",
            "type": "choices",
            "value": {"choices": choices},
            "origin": "manual",
        }
        for name, choices in answers.items()
    ]
    return {"id": 4, "completed_by": 1, "was_cancelled": cancelled, "result": result, "lead_time": 3.5}


def test_label_studio_with_a_question_an_attribute_knows_what_is_unknown(file):
    path = file(
        [
            task("/data/upload/3/a.jpg", annotation(sea=["yes"], sky=["no"])),
            task("/data/local-files/?d=photos/b%20c.jpg", annotation(sea=["no"])),
            task("https://host.example/bucket/d.jpg", annotation(cancelled=True, sea=["yes"])),
            task("e.jpg"),
        ],
        "export.json",
    )
    assert recognise(path) == "labelstudio"
    assert cells(read_other(path, Options())) == {
        "a.jpg": {"sea": 1, "sky": 0},
        "photos/b c.jpg": {"sea": 0, "sky": -1},
        "bucket/d.jpg": {"sea": -1, "sky": -1},
        "e.jpg": {"sea": -1, "sky": -1},
    }


def test_label_studio_with_one_field_of_many_choices_is_asked_and_not_for_what_nobody_annotated(file):
    path = file(
        [task("a.jpg", annotation(scene=["sea", "sky"])), task("b.jpg", annotation(scene=[])), task("c.jpg")], "e.json"
    )
    with pytest.raises(LabelError, match="Say --absent no or --absent NA"):
        read_other(path, Options())
    table = cells(read_other(path, Options(absent="no")))
    assert table == {"a.jpg": {"sea": 1, "sky": 1}, "b.jpg": {"sea": 0, "sky": 0}, "c.jpg": {"sea": -1, "sky": -1}}


def test_label_studio_that_contradicts_itself_is_refused(file):
    path = file([task("a.jpg", annotation(sea=["yes"]), annotation(sea=["no"]))], "export.json")
    with pytest.raises(LabelError, match=r"a.jpg is said to have 'sea' and not to have it; keep one"):
        read_other(path, Options())


def test_flat_exports_of_label_studio(file):
    own = {"id": 1, "annotator": 1, "annotation_id": 5, "created_at": "x", "updated_at": "y", "lead_time": 2.0}
    rows = [{"image": "a.jpg", "sea": "yes", **own}, {"image": "b.jpg", "sea": "no", "sky": {"choices": ["yes"]}, **own}]
    known = {"a.jpg": {"sea": 1, "sky": -1}, "b.jpg": {"sea": 0, "sky": 1}}
    assert cells(read_other(file(rows, "min.json"), Options())) == known
    text = (
        "annotation_id,annotator,created_at,id,image,lead_time,sea,sky,updated_at\n"
        '5,1,x,1,a.jpg,2.0,yes,,y\n6,1,x,2,b.jpg,2.0,no,"{""choices"": [""yes""]}",y\n'
    )
    path = file(text, "export.csv")
    assert recognise(path) == "labelstudio"
    assert cells(read_other(path, Options())) == known


def test_lists_in_parquet_as_hugging_face_and_fiftyone_write_them(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = {"filename": ["a.jpg", "b.jpg", "c.jpg"], "tags": [["haze", "primary"], ["clear"], []]}
    pd.DataFrame(words).to_parquet(tmp_path / "words.parquet")
    features = {"labels": {"feature": {"names": ["clear", "haze", "primary"], "_type": "ClassLabel"}, "_type": "Sequence"}}
    images = [{"bytes": b"x", "path": name} for name in words["filename"]]
    table = pa.table({"image": images, "labels": [[1, 2], [0], []]})
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), tmp_path / "hf.parquet"
    )
    found = [{"classifications": [{"label": tag, "confidence": 1.0} for tag in tags]} for tags in words["tags"]]
    pq.write_table(pa.table({"filepath": words["filename"], "ground_truth": found}), tmp_path / "fo.parquet")
    for name in ("words", "hf", "fo"):
        assert recognise(tmp_path / f"{name}.parquet") == "tags"
        assert cells(read_other(tmp_path / f"{name}.parquet", Options(absent="no"))) == expected(0), name


@pytest.mark.parametrize("suffix", [".json", ".parquet", ".csv"])
def test_unknown_cells_survive_the_way_there_and_back(tmp_path, suffix):
    labels = from_codes(
        [[-1, -1, 0], [-1, -1, 0], [0, 1, -1]], ["a.jpg", "sub/b c.jpg", "ü.png"], ["sea", "$x$ & <b>", "wears hat"]
    )
    write_other(labels, tmp_path / f"labels{suffix}", "/data/local-files/?d=")
    back = read_other(tmp_path / f"labels{suffix}", Options())
    pd.testing.assert_frame_equal(back, labels)
    if suffix == ".json":
        interface = (tmp_path / "labels.xml").read_text(encoding="utf-8")
        assert '<Choices name="$x$ &amp; &lt;b&gt;" toName="image">' in interface
        tasks = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
        assert [len(task["annotations"][0]["result"]) for task in tasks] == [1, 1, 2]


def test_label_file_is_a_table(file):
    assert recognise(file("image,sea,sky\na.jpg,1,0\n", "labels.csv")) == "table"
    assert recognise(file("a.jpg 1 0\n", "labels.txt")) == "table"
    assert recognise(file("Path,Sex,Age,Edema\na.jpg,Male,67,1.0\n", "chexpert.csv")) == "table"


# --- the commands


def test_check_lists_everything_and_exits_with_2(file, capsys, tmp_path):
    path = file("image,sea,sky\na.jpg,1,x\nb.jpg,1\nc.jpg,1,\nc.jpg,,0\n", "labels.csv")
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "c.jpg", "other.jpg", "notes.txt", ".DS_Store"):
        (tmp_path / "photos" / name).touch()
    assert main(["labels", "check", str(path), "--images", str(tmp_path / "photos")]) == 2
    text = capsys.readouterr().out
    assert "2 images, 2 attributes" in text
    assert "rows that repeat an image and agree with its first row: 1 (line 5)" in text
    assert "line 2, column sky: 'x' is not 1, 0 or NA" in text
    assert "line 3: 1 values where 2 are expected" in text
    assert "images without a row: 2 (a.png, other.jpg); rows without an image: 1 (a.jpg)" in text
    assert "of 1 names without a file, 1 match with .png at the end (extension: .png)" in text
    good = file("image,sea\na,1\nc,0\n", "good.csv")
    assert main(["labels", "check", str(good)]) == 0
    assert "0 problems" in capsys.readouterr().out


def test_check_and_convert_take_the_settings_of_a_label_file(file, capsys, tmp_path):
    path = file("Path,Sex,Age,Edema,Fracture\na.jpg,Male,67,1.0,-1.0\nb.jpg,Female,30,,0.0\n", "chexpert.csv")
    assert main(["labels", "check", str(path)]) == 2
    said = ["-p", "values", "{1: yes, 0: no, -1: NA}", "-p", "attributes", "['!Sex', '!Age']"]
    assert main(["labels", "check", str(path), *said]) == 0
    assert main(["labels", "convert", str(path), "--out", str(tmp_path / "labels.csv"), *said]) == 0
    assert "1 yes, 1 no, 2 NA" in capsys.readouterr().out
    assert to_codes(read_labels(tmp_path / "labels.csv")).tolist() == [[1, -1], [-1, 0]]


def test_convert_finds_files_and_check_shows_the_way_to_it(file, capsys, tmp_path):
    path = file("image_name,tags\ntrain_0,haze primary\ntrain_1,clear\n", "train.csv")
    assert main(["labels", "check", str(path)]) == 2
    assert "mlkit labels convert" in "".join(capsys.readouterr())
    for name in ("train_0.jpg", "train_1.jpg"):
        (tmp_path / name).touch()
    out = tmp_path / "labels.csv"
    command = ["labels", "convert", str(path), "--out", str(out), "--images", str(tmp_path), "-p", "extension", ".jpg"]
    assert main(command) == 2
    assert "--absent no or --absent NA" in capsys.readouterr().err
    assert main([*command, "--absent", "no"]) == 0
    assert "read as tags in one column" in capsys.readouterr().out
    assert list(read_labels(out).index) == ["train_0.jpg", "train_1.jpg"]
    assert main([*command, "--from", "tag"]) == 2
    assert "there is no format 'tag'; did you mean 'tags'?" in capsys.readouterr().err


def test_a_parquet_file_of_types_that_pyarrow_lacks_is_named(tmp_path, monkeypatch):
    def lacks(file):
        raise pa.ArrowNotImplementedError("Integers with more than 64 bits not implemented")

    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr("pyarrow.parquet.read_schema", lacks)
    for format in ("", "tags"):
        with pytest.raises(LabelError, match=r"a\.parquet .*Integers with more than 64 bits not implemented"):
            read_other(tmp_path / "a.parquet", Options(absent="NA"), format)
