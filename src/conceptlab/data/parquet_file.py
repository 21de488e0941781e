"""Parquet into a Table; only the columns that are known are read."""

from pathlib import Path
from typing import TYPE_CHECKING

from conceptlab.data.table import KNOWN, Table, check_header
from conceptlab.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROWS = 20_000_000
MAX_BYTES = 4 << 30  # uncompressed size of the columns that are read, as the file itself states it


def read_parquet(path: Path) -> Table:
    """Read the known columns. Raises DataError for a damaged file, a bad header, bad UTF-8 or an absurd size."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_size(path, file)
            names = file.schema_arrow.names
            check_header(path, names)
            table = file.read(columns=[name for name in KNOWN if name in names], use_threads=False)
        _check_text(path, table)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: cannot be read as Parquet ({reason}); write it again") from error
    return Table(path, columns, range(1, table.num_rows + 1), "row", typed=True)


def _check_size(path: Path, file: "object") -> None:
    metadata = file.metadata  # type: ignore[attr-defined]
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if metadata.num_rows > MAX_ROWS or size > MAX_BYTES:
        raise DataError(
            f"{path}: declares {metadata.num_rows:,} rows and {size:,} bytes; split it below {MAX_ROWS:,} rows and 4 GB"
        )


def _check_text(path: Path, table: "pa.Table") -> None:
    """Name the row whose text is not UTF-8; Arrow itself does not look."""
    import pyarrow as pa

    for name in table.column_names:
        kind = table.schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            continue
        wide = pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()
        for row, cell in enumerate(table.column(name).cast(wide).to_pylist(), start=1):
            try:
                (cell or b"").decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, row {row}: byte {error.start + 1} of {name!r} is not UTF-8; write it as UTF-8"
                ) from error
