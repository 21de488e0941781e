"""Parquet as a corpus: row groups before the start are skipped, and of the others only the columns that are asked for are read."""

from collections.abc import Generator
from typing import TYPE_CHECKING

from conceptlab.data.corpora.record import LONGEST, TOO_LONG, Columns, Record
from conceptlab.data.corpora.source_file import SourceFile
from conceptlab.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

AT_ONCE = 4 << 20  # bytes of text decoded at once, about
MOST_ROWS = 4096  # and rows


def parquet_records(file: SourceFile, columns: Columns, skip: int) -> Generator[Record, None, int]:
    """Every row. Raises DataError for a damaged file, or a column that is missing or holds no text."""
    import pyarrow.parquet as pq

    with file.opened() as content, pq.ParquetFile(content, pre_buffer=False, buffer_size=1 << 20) as table:
        _check(file, table, columns)
        row = 0
        for group in range(table.num_row_groups):
            n_rows = table.metadata.row_group(group).num_rows
            if row + n_rows > skip:
                yield from _group(table, group, columns, row, max(0, skip - row))
            row += n_rows
    return row


def check_parquet(file: SourceFile, columns: Columns) -> None:
    """Raise DataError for a damaged file, or a column that is missing or holds no text."""
    import pyarrow.parquet as pq

    with file.opened() as content, pq.ParquetFile(content) as table:
        _check(file, table, columns)


def _check(file: SourceFile, table: "pq.ParquetFile", columns: Columns) -> None:
    import pyarrow as pa

    schema = table.schema_arrow
    columns.check(file.name, schema.names)
    kind = schema.field(columns.text).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (_is_text(kind) or pa.types.is_null(kind)):
        raise DataError(
            f"{file.name}: the column {columns.text!r} holds {kind}, not strings; name the column of the text"
        )


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _group(
    table: "pq.ParquetFile", group: int, columns: Columns, first: int, skip: int
) -> Generator[Record, None, None]:
    """The rows of one row group, of which the first is row `first` of the file, after the first `skip`."""
    row = 0
    size = _rows_at_once(table, group, columns)
    for batch in table.iter_batches(size, row_groups=[group], columns=columns.names, use_threads=False):
        left = max(0, skip - row)
        if left < batch.num_rows:
            yield from _records(batch.slice(left), columns, first + row + left)
        row += batch.num_rows


def _rows_at_once(table: "pq.ParquetFile", group: int, columns: Columns) -> int:
    metadata = table.metadata.row_group(group)
    found = (metadata.column(i) for i in range(metadata.num_columns))
    size = sum(column.total_uncompressed_size for column in found if column.path_in_schema in columns.names)
    return int(min(MOST_ROWS, max(1, AT_ONCE * metadata.num_rows // max(1, size))))


def _records(batch: "pa.RecordBatch", columns: Columns, first: int) -> Generator[Record, None, None]:
    texts = _raw(batch.column(columns.text))
    ids = _raw(batch.column(columns.id)).to_pylist() if columns.id is not None else None
    for row in range(batch.num_rows):
        cell = texts[row].as_py()
        id = ids[row] if ids is not None else None
        yield _record(f"row {first + row + 1}", cell, id.decode("utf-8", "replace") if isinstance(id, bytes) else id)


def _raw(cells: "pa.Array") -> "pa.Array":
    """The cells, strings as bytes: Arrow does not look whether they are UTF-8."""
    import pyarrow as pa

    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()  # type: ignore[attr-defined]
    return cells.cast(pa.large_binary()) if _is_text(cells.type) else cells


def _record(place: str, cell: bytes | None, id: object) -> Record:
    if cell is not None and len(cell) > LONGEST:
        return Record(place, fault=f"the text {TOO_LONG}")
    try:
        return Record(place, cell if cell is None else cell.decode("utf-8"), id)
    except UnicodeDecodeError as error:
        return Record(place, fault=f"byte {error.start + 1} (0x{error.object[error.start]:02x}) is not UTF-8")
