"""Answers about more images than fit into memory: written part by part, so that a call can go on, and joined.

Machines that share the work write a share each, which are joined in the same way.
"""

import glob
import hashlib
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlkit.data.images import DECODER
from mlkit.data.remote import state
from mlkit.errors import FailureError, ParameterError, RunError
from mlkit.fanout import Piece, ask, open_cluster, run_pieces
from mlkit.files import FORMAT, address, atomic, defused, make_folder, shown
from mlkit.inference.predictor import KINDS, Predictor
from mlkit.progress import bar, listed

PART = 1024  # images: so many are lost at most when a call is ended
SUFFIXES = (".csv", ".jsonl", ".parquet")
_ARROW = {"object": pa.string(), "float32": pa.float32(), "float64": pa.float64()}
_SCHEMA = pa.schema([(name, _ARROW[kind]) for name, kind in KINDS.items()])
_SHARE = re.compile(r"\.(\d+)-of-(\d+)\.parquet$")


def write_answers(
    predictor: Predictor,
    images: Iterable[Path],
    out: Path,
    total: int | None = None,
    resume: bool = False,
    batch_size: int = 32,
    dask: str = "",
) -> tuple[int, int]:
    """Write what a model says of images into a file: .csv, .jsonl or .parquet, by its suffix.

    Columns as of `Predictor.answers`. The parts that are done lie in a folder beside the file until all are; each is tied to
    the model, the decoder, the device, and to its files' sizes and times.

    Args:
        predictor: the model.
        images: files, in an order that a later call has too.
        out: the file.
        total: of the images, for the progress bar.
        resume: take the parts that an earlier call has done.
        batch_size: images that the network sees at once.
        dask: who writes the parts, see `open_cluster`; the workers see images, model and `out` by the same paths.

    Returns:
        How many images there were, and how many of them could not be read.

    Raises:
        RunError: if the file is there, or parts that nobody said to take.
        ParameterError: if the suffix is none of those.
        WriteError: if it cannot be written.
        FailureError: if workers could not write their parts, or would answer otherwise than this process.
    """
    parts = out.with_name(f".{out.name}.parts")
    if parts.exists() and not resume:
        raise RunError(f"an earlier call has begun {shown(out)}: go on with --resume, or delete {shown(parts)}")
    with _new(out) as temporary, open_cluster(dask) as client, bar(total=total, desc="predicting", unit="image") as progress:
        make_folder(parts)
        done, count = list[Path](), 0
        model = ask(client, partial(_identity, predictor))

        def missing() -> Iterator[Piece]:
            nonlocal count
            left = iter(images)
            while chunk := list(islice(left, PART)):
                done.append(parts / f"{len(done):07d}-{_digest(model, chunk)}.parquet")
                count += len(chunk)
                if _is_whole(done[-1]):
                    progress.update(len(chunk))
                else:
                    yield Piece(f"part {len(done)}", (done[-1], chunk, batch_size))

        told = progress.update if client is None else None
        for piece in run_pieces(client, partial(_write_part, predictor, model, told=told), missing()):
            part, chunk, _ = piece.arguments
            progress.update(0 if told else len(chunk))
            if not _is_whole(part):
                raise FailureError(f"a worker wrote {part}, and it is not here: machines that predict together share a disk")
        _join(done, _SCHEMA.with_metadata({"model": model}), temporary)
    broken = sum(map(_errors, done))
    for part in parts.glob("*.parquet"):
        part.unlink()
    with suppress(OSError):  # what else lies there is somebody's
        parts.rmdir()
    return count, broken


def share_of(out: Path, number: int, of: int) -> Path:
    """The file of one share of the answers that belong into `out`."""
    return out.with_name(f"{out.name}.{number}-of-{of}.parquet")


def in_share(name: str, number: int, of: int) -> bool:
    """Whether an image of that name belongs to a share, 1 to `of`: the same on every machine, whatever else is there."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()) % of == number - 1


def join_shares(out: Path) -> tuple[int, int]:
    """Join the shares of `out` (see `share_of`), and delete them.

    Returns:
        Number of shares, and of rows with an error.

    Raises:
        FailureError: if shares are missing; the text names them.
        RunError: if there is none, or they are not of one model and one number of shares.
    """
    found = {path: _SHARE.search(path.name) for path in out.parent.glob(f"{glob.escape(out.name)}.*-of-*.parquet")}
    shares = {int(match[1]): path for path, match in found.items() if match}
    of = {int(match[2]) for match in found.values() if match}
    if not shares:
        raise RunError(f"there is no share of {shown(out)}, as mlkit predict --shard 1/4 --out {out.name} writes it")
    if len(of) > 1:
        raise RunError(
            f"there are shares of {shown(out)} of {' and of '.join(map(str, sorted(of)))}; delete those of one kind"
        )
    number = of.pop()
    if missing := [f"{n}/{number}" for n in range(1, number + 1) if n not in shares]:
        raise FailureError(f"of {shown(out)} are missing: {listed(missing)}; make them with --shard, then join again")
    paths = [shares[n] for n in sorted(shares)]
    if damaged := [path.name for path in paths if not _is_whole(path)]:
        raise RunError(f"{listed(damaged)} cannot be read, or are of something else; delete them, and make them again")
    schemas = [pq.read_schema(path) for path in paths]
    if len({schema.metadata[b"model"].split()[-1] for schema in schemas}) > 1:
        raise RunError(f"the shares of {shown(out)} are of different models; delete those of one, and make them again")
    with _new(out) as temporary:
        _join(paths, schemas[0], temporary)
    broken = sum(map(_errors, paths))
    for path in paths:
        path.unlink()
    return number, broken


@contextmanager
def _new(out: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `out` at the end; what cannot be is known before the work."""
    if out.suffix.lower() not in SUFFIXES:
        raise ParameterError(f"{out.name}: answers are written as {', '.join(SUFFIXES)}; name it so")
    if out.is_file():
        raise RunError(f"{shown(out)} is there already; choose another name, or delete it")
    with atomic(out) as temporary:
        yield temporary


def _identity(predictor: Predictor) -> str:
    """All that decides the answers about an image."""
    return f"{FORMAT} {DECODER} {predictor.device} {predictor.digest}"


@lru_cache(maxsize=1)
def _check(predictor: Predictor, model: str) -> None:
    """Raise FailureError if a predictor is another than `model` says, as of a worker on other hardware."""
    if (own := _identity(predictor)) != model:
        raise FailureError(f"{platform.node()} would answer as {own}, others as {model}; take workers of one kind")


def _write_part(
    predictor: Predictor,
    model: str,
    part: Path,
    images: Sequence[Path],
    batch_size: int,
    told: Callable[[int], object] | None = None,
) -> None:
    """Write the answers about the images of a part, `told` how many at each batch. Raises FailureError as `_check` does."""
    _check(predictor, model)
    if _is_whole(part):  # its worker was killed after that
        return
    tables = []
    for table in predictor.answers(images, batch_size):
        tables.append(table)
        if told is not None:
            told(table.image.nunique())
    with atomic(part) as file:
        schema = _SCHEMA.with_metadata({"model": model})
        pq.write_table(pa.Table.from_pandas(pd.concat(tables), schema, preserve_index=False), file)


def _digest(model: str, images: Sequence[Path]) -> str:
    """Of what a part was made from."""
    digest = hashlib.blake2b(model.encode(), digest_size=8)
    for path in images:
        try:
            size, changed, _ = state(path)
            version = f"{size} {changed}"
        except OSError:  # it has a row that says so
            version = ""
        digest.update(f"\0{address(path) or path}\0{version}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _is_whole(part: Path) -> bool:
    """Whether a part is there and of `write_answers`, not one that was cut."""
    try:
        return b"model" in (pq.read_schema(part).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def _errors(part: Path) -> int:
    """How many images of a part could not be read."""
    return len(pq.read_table(part, columns=["error"]).column(0).drop_null())


def _join(parts: Iterable[Path], schema: pa.Schema, out: Path) -> None:
    """Put parts one after the other into a file, in memory only some rows at a time."""
    with _writer(out, schema) as write:
        for part in parts:
            for rows in pq.ParquetFile(part).iter_batches():
                write(rows)


@contextmanager
def _writer(out: Path, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Something that appends rows to a file of the kind that its suffix says."""
    if out.suffix.lower() == ".parquet":
        with pq.ParquetWriter(out, schema) as writer:
            yield writer.write_batch
        return
    with open(out, "w", encoding="utf-8", newline="") as file:
        if out.suffix.lower() == ".csv":
            file.write(",".join(schema.names) + "\n")

        def write(rows: pa.RecordBatch) -> None:
            table = rows.to_pandas()
            if out.suffix.lower() == ".csv":
                table = defused(table.fillna({"attribute": "", "error": ""}))
                table.to_csv(file, index=False, header=False, na_rep="NA", lineterminator="\n")
            else:
                table.to_json(file, orient="records", lines=True, force_ascii=False, double_precision=15)

        yield write
