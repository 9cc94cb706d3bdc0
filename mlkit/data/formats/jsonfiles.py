"""JSON of annotation tools: Label Studio's tasks (also its CSV), COCO's annotations."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import pandas as pd

from mlkit.data.formats.statements import Options, Statements
from mlkit.data.labels import to_codes
from mlkit.data.tablefile import TableFile
from mlkit.data.values import code_of_values, normal
from mlkit.errors import LabelError
from mlkit.files import atomic, shown

_WORDS = {"yes": "yes", "no": "no", "true": "yes", "false": "no", "1": "yes", "0": "no"}  # choices of a question of its own
_IMAGE = ("image", "img", "photo", "picture", "url")
_OWN = {  # keys of Label Studio's flat exports that are no question
    *("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "comment"),
}


def read_labelstudio(path: Path, options: Options) -> pd.DataFrame:
    """Label Studio's export as JSON, JSON-MIN or CSV: a field of yes and no an attribute, or a field of many attributes.

    A task that nobody annotated, or whose annotation was cancelled, is unknown throughout.
    """
    rows = _rows(path)
    tasks = list(_tasks(path, rows, options))
    written: list[str] = next((row["data"]["attributes"] for row in rows if "attributes" in row.get("data", {})), [])
    codes = code_of_values(options.values or _WORDS)
    choices: dict[str, set[str]] = {}
    for _, answers in tasks:
        for name, said in answers or ():
            choices.setdefault(name, set()).update(map(normal, said))
    questions = {name for name, said in choices.items() if said <= set(codes)}
    statements = Statements(shown(path), options, present_only=questions != set(choices))
    for name in written:  # by `write_labelstudio`
        statements.attribute(name)
    for image, answers in tasks:
        statements.image(image, seen=answers is not None)
        for name, said in answers or ():
            for choice in said:
                if name in questions:
                    statements.say(image, name, codes[normal(choice)])
                else:
                    statements.say(image, choice)
    return statements.table()


def write_labelstudio(labels: pd.DataFrame, path: Path, prefix: str = "") -> None:
    """Tasks for Label Studio's import: a field of yes and no for each known cell, nothing for an unknown one.

    Beside it goes `<name>.xml`, the labelling interface that has these fields.

    Args:
        labels: the label table.
        path: JSON file to write.
        prefix: before each image's name, such as "/data/local-files/?d=".
    """
    words = {1: "yes", 0: "no"}
    names = [str(name) for name in labels]
    tasks: list[dict[str, Any]] = []
    for image, row in zip(labels.index, to_codes(labels).tolist(), strict=True):
        result = [_answer(name, words[code]) for name, code in zip(names, row, strict=True) if code in words]
        tasks.append({"data": {"image": f"{prefix}{image}"}, "annotations": [{"result": result}]})
    if tasks:
        tasks[0]["data"]["attributes"] = names  # which and in which order, also those of which nothing is known
    fields = "".join(
        f'  <Header value={quoteattr(name)}/>\n  <Choices name={quoteattr(name)} toName="image">'
        '<Choice value="yes"/><Choice value="no"/></Choices>\n'
        for name in names
    )
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(tasks, ensure_ascii=False, indent=1), encoding="utf-8")
    with atomic(path.with_suffix(".xml")) as temporary:
        temporary.write_text(f'<View>\n  <Image name="image" value="$image"/>\n{fields}</View>\n', encoding="utf-8")


def read_coco(path: Path, options: Options) -> pd.DataFrame:
    """COCO's annotations: an image has the categories of its annotations."""
    content = _json(path)
    statements = Statements(shown(path), options, present_only=True)
    try:
        images = {image["id"]: image["file_name"] for image in content["images"]}
        categories = {category["id"]: category["name"] for category in content["categories"]}
        for category in categories.values():
            statements.attribute(category)
        for name in images.values():
            statements.image(name)
        for annotation in content["annotations"]:
            statements.say(images[annotation["image_id"]], categories[annotation["category_id"]])
    except (KeyError, TypeError) as error:
        raise LabelError(f"{shown(path)}: an entry lacks {error}, or names an image or category that is not there") from None
    return statements.table()


def is_coco(path: Path) -> bool:
    """An object of images, annotations and categories."""
    if path.suffix.lower() != ".json":
        return False
    content = _json(path)
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content)


def is_labelstudio(path: Path) -> bool:
    """A list of tasks, or a table with the columns of its exports."""
    if path.suffix.lower() in (".csv", ".tsv"):
        return {"annotation_id", "lead_time"} <= set(TableFile(path).header)
    if path.suffix.lower() != ".json":
        return False
    content = _json(path)
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and ("data" in first or "annotation_id" in first)


def _rows(path: Path) -> list[dict[str, Any]]:
    """Tasks of an export, as they stand in it."""
    if path.suffix.lower() in (".csv", ".tsv"):
        file = TableFile(path)
        return [dict(zip(file.header, cells, strict=False)) for _, cells in file]
    rows = _json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise LabelError(f"{shown(path)}: no list of tasks; export it from Label Studio as JSON, JSON-MIN or CSV")
    return rows


def _tasks(
    path: Path, rows: list[dict[str, Any]], options: Options
) -> Iterator[tuple[str, list[tuple[str, list[str]]] | None]]:
    """Image of each task and its answers, field and choices; None where nobody answered."""
    for row in rows:
        data = row.get("data", row)
        key = options.image_column or next((name for name in _IMAGE if name in data), "")
        if not key or not isinstance(data.get(key), str):
            raise LabelError(f"{shown(path)}: task {row.get('id', '?')} has no image; say its key with -p image_column KEY")
        image = _name(data[key])
        if "data" not in row:
            yield image, [(name, _flat(said)) for name, said in row.items() if name not in (*_OWN, key) and said]
            continue
        done = [one for one in row.get("annotations", []) if not one.get("was_cancelled")]
        answers = [
            (str(result["from_name"]), [str(choice) for choice in result["value"].get("choices", [])])
            for one in done
            for result in one.get("result", [])
            if result.get("type") == "choices"
        ]
        yield image, answers if done else None


def _flat(said: Any) -> list[str]:
    """Choices of a field of JSON-MIN or CSV: a word, a list, or {"choices": [...]}, perhaps as text."""
    if isinstance(said, str) and said.startswith(("{", "[")):
        said = json.loads(said)
    said = said.get("choices", []) if isinstance(said, Mapping) else said
    return [str(choice) for choice in said] if isinstance(said, list) else [str(said)]


def _name(address: str) -> str:
    """Path of an image from its address in Label Studio."""
    parts = urlsplit(address)
    if "d" in (query := parse_qs(parts.query)):  # local files: /data/local-files/?d=folder/a.jpg
        return query["d"][0]
    path = unquote(parts.path).lstrip("/") if parts.scheme or address.startswith("/") else address
    return path.removeprefix("data/upload/").partition("/")[2] if path.startswith("data/upload/") else path


def _answer(name: str, choice: str) -> dict[str, Any]:
    return {"from_name": name, "to_name": "image", "type": "choices", "value": {"choices": [choice]}}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise LabelError(f"{shown(path)}: {error.strerror}; check the path") from None
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{shown(path)}: not JSON ({error})") from None
