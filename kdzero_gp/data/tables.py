"""Labels in text files beside the images: CSV and the like with a file column and a label column."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kdzero_gp.data.images import File, Source
from kdzero_gp.data.roles import role
from kdzero_gp.errors import DataError

SUFFIXES = (".csv", ".tsv", ".txt")
DELIMITERS = ",\t; "
LOOKED_AT = 200
"""So many rows decide which column has the files."""
LABEL_NAMES = (
    "label", "labels", "class", "class_name", "classname", "class_id", "category", "target", "species", "breed",
    "diagnosis", "dx", "level", "y", "tag", "genre", "name",
)  # fmt: skip
"""Headers of label columns, in the order of preference."""
SPLIT_NAMES = ("split", "set", "subset", "partition", "data set", "data_set", "dataset", "part")
NO_LABELS = "submission"
"""A file of this name has the form of labels and made-up ones."""


class Index:
    """Finds images by what a table calls them: with or without folders above and suffix."""

    def __init__(self, images: Iterable[File]):
        self._files: dict[str, File | None] = {}
        for file in images:
            stem = file.parts[-1].rpartition(".")[0]
            for last in (file.parts[-1], stem):
                parts = (*file.parts[:-1], last)
                for start in range(len(parts)):
                    key = "/".join(parts[start:])
                    # Of two images with one name neither is meant.
                    self._files[key] = file if self._files.get(key, file) == file else None

    def find(self, value: str) -> File | None:
        """The image of a table's cell, by the longest end of its path that is known."""
        parts = File.of(value.strip()).parts
        return next((f for start in range(len(parts)) if (f := self._files.get("/".join(parts[start:])))), None)


@dataclass(frozen=True)
class Table:
    """The labels in one file: image → label, image → part where a column says it, and what the columns are called."""

    file: File
    labels: Mapping[File, str]
    parts: Mapping[File, str] = field(default_factory=dict)
    columns: str = ""

    @property
    def role(self) -> str | None:
        """The part that the file's name means."""
        return role(self.file.parts[-1].rpartition(".")[0])


def read_tables(source: Source, images: Sequence[File]) -> list[Table]:
    """All tables that label some of the images, those with the most first."""
    index = Index(images)
    tables = []
    for file in source.files:
        if file.suffix in SUFFIXES and NO_LABELS not in file.parts[-1].lower():
            text = source.content(file.name).decode("utf-8-sig", errors="replace")
            table = next((t for mark in DELIMITERS if (t := _table(file, text, mark, index))), None)
            tables += [table] if table else []
    return sorted(tables, key=lambda table: -len(table.labels))


def _table(file: File, text: str, delimiter: str, index: Index) -> Table | None:
    """The table with this delimiter; None where no column has the images or there is no other column."""
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True) if row]
    width = max(map(len, rows), default=0)
    if width < 2:
        return None
    sample = rows[:LOOKED_AT]
    matches = [sum(bool(index.find(row[c])) for row in sample if c < len(row)) for c in range(width)]
    files = max(range(width), key=matches.__getitem__)
    if 2 * matches[files] < len(sample) - 1 or not matches[files]:
        return None
    header = [] if index.find(rows[0][files]) else [cell.strip().lower() for cell in rows[0]]
    pairs = [(f, r) for r in rows[bool(header) :] if len(r) > files and (f := index.find(r[files]))]
    pairs = [(f, [cell.strip() for cell in row] + [""] * (width - len(row))) for f, row in pairs]
    split = next((header.index(name) for name in SPLIT_NAMES if name in header), None)
    if split is not None and not all(role(row[split]) for _, row in pairs):
        split = None
    rest = [c for c in range(width) if c not in (files, split)]
    label = _label_column(file, header, rest, [row for _, row in pairs])
    if label is None:
        return None
    parts = {} if split is None else {f: role(row[split]) or "" for f, row in pairs}
    columns = f"columns {header[files]!r} and {header[label]!r}" if header and label >= 0 else "its columns"
    labels = {f: row[label] if label >= 0 else header[max(rest, key=lambda c: float(row[c]))] for f, row in pairs}
    return Table(file, {f: name for f, name in labels.items() if name}, parts, columns)


def _label_column(file: File, header: list[str], rest: list[int], rows: list[list[str]]) -> int | None:
    """The column of the labels, -1 for one column a class with one 1 in each row, None where there is none."""
    named = [header.index(name) for name in LABEL_NAMES if name in header]
    named = [column for column in named if column in rest]
    if named:
        return named[0]
    if len(rest) == 1 or (rest and not header):
        return rest[0]
    if len(rest) > 1 and all(_is_one_hot([row[c] for c in rest]) for row in rows):
        return -1
    likely = [c for c in rest if 2 <= len({row[c] for row in rows}) <= len(rows) / 2]
    if len(likely) > 1:
        names = ", ".join(repr(header[c]) for c in likely)
        raise DataError(f"{file.name} has several columns that may be the label ({names}); call the right one 'label'")
    return likely[0] if likely else None


def _is_one_hot(cells: list[str]) -> bool:
    try:
        return sorted({float(cell) for cell in cells}) == [0, 1] and sum(float(cell) for cell in cells) == 1
    except ValueError:
        return False


def sorted_labels(labels: Iterable[str]) -> list[str]:
    """Distinct labels: by number where all are whole numbers, else as folders are."""
    distinct = set(labels)
    return sorted(distinct, key=int) if all(label.isdecimal() for label in distinct) else sorted(distinct)
