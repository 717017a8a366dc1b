"""SQLite files as failing disks leave them: whole pages overwritten."""

import contextlib
import sqlite3
from pathlib import Path

TABLE_LEAF, INDEX_LEAF = 13, 10
"""The first byte of a b-tree page. Source: sqlite.org/fileformat2.html, 1.6."""

_PAGE_BYTES = 4096
_JUNK = b"\xa7" * _PAGE_BYTES


def damage_pages(path: Path, *, kind: int, count: int = 1) -> None:
    """Overwrite so many pages of a kind, from the middle of the file on; never its first page."""
    data = bytearray(path.read_bytes())
    pages = [at for at in range(_PAGE_BYTES, len(data), _PAGE_BYTES) if data[at] == kind]
    middle = len(pages) // 2
    for at in pages[middle : middle + count]:
        data[at : at + _PAGE_BYTES] = _JUNK
    path.write_bytes(data)


def damage_table(path: Path, table: str) -> None:
    """Overwrite the page at which a table begins."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    data = bytearray(path.read_bytes())
    data[(page - 1) * _PAGE_BYTES : page * _PAGE_BYTES] = _JUNK
    path.write_bytes(data)
