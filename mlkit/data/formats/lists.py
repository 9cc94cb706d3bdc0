"""Images with lists of what they have: in a Parquet file (Hugging Face, FiftyOne) or in JSON lines."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlkit.data.columns import plain
from mlkit.data.formats.statements import Options
from mlkit.errors import LabelError
from mlkit.files import shown

_TAGS = re.compile(r"(tags?|labels?|labelname|class|classes|category|categories|objects)\Z")
_IMAGES = ("image", "imageid", "imagename", "imagepath", "filename", "filepath", "path", "file")


def is_of_tags(name: str) -> bool:
    """Whether a column is called like one of tags: tags, Finding Labels, class ..."""
    return bool(_TAGS.search(plain(name)))


def json_lists(path: Path, options: Options) -> Iterator[tuple[str, list[str]]]:
    """Images and tags of JSON lines."""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{shown(path)}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise LabelError(f"{where}: not JSON ({error})") from None
        image = options.image_column or next((name for name in row if plain(name) in _IMAGES), "")
        column = options.column or next((name for name in row if is_of_tags(name)), "")
        if image not in row or column not in row:
            raise LabelError(
                f"{where}: which of {list(row)} holds the labels, which the image? Say --column, -p image_column"
            )
        yield str(row[image]), [_tag(tag, []) for tag in _items(row[column])]


def parquet_lists(path: Path, options: Options) -> Iterator[tuple[str, list[str]]]:
    """Images and tags of a Parquet file; the bytes of images that stand in it are not read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    column = options.column or list_column(path) or ""
    if column not in schema.names:
        raise LabelError(f"{shown(path)}: which of {schema.names} holds the labels? Say it with --column")
    image = options.image_column or next((name for name in schema.names if plain(name) in _IMAGES), schema.names[0])
    # Hugging Face has the bytes of an image beside its path
    in_it = f"{image}.path" if pa.types.is_struct(schema.field(image).type) else image
    frame = pq.read_table(path, columns=[in_it, column]).to_pandas()
    names = _class_names(schema.metadata or {}, column)
    for name, tags in zip(frame.iloc[:, 0], frame.iloc[:, 1], strict=True):  # a part of a struct has a name of its own
        yield str(name), [_tag(tag, names) for tag in _items(tags)]


def _items(tags: Any) -> list[Any]:
    if isinstance(tags, Mapping):  # FiftyOne's Classifications
        tags = tags.get("classifications")
    if isinstance(tags, str):
        return [tags]
    return [] if tags is None or isinstance(tags, float) else list(tags)


def _tag(tag: Any, names: list[str]) -> str:
    if isinstance(tag, Mapping):
        tag = tag.get("label")
    if names and not isinstance(tag, str):
        return names[int(tag)]
    return str(tag)


def list_column(path: Path) -> str | None:
    """The first column of lists, or of FiftyOne's classifications."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise LabelError(f"{shown(path)} cannot be read as Parquet ({error}); write it again") from None
    for field in schema:
        kind = field.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return str(field.name)
        if pa.types.is_struct(kind) and kind.get_field_index("classifications") >= 0:
            return str(field.name)
    return None


def _class_names(metadata: Mapping[bytes, bytes], column: str) -> list[str]:
    """Names behind the numbers of a list of Hugging Face's ClassLabel."""
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
    except (KeyError, ValueError, TypeError):
        return []
    feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
    return list(feature.get("names", [])) if isinstance(feature, dict) else []
