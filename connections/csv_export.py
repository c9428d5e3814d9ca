"""Tables to take along, as CSV that a spreadsheet opens without running anything."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.http import StreamingHttpResponse

from connections.services.audit.export import csv_cell


class _Echo:
    """What csv.writer writes to: it hands each line back."""

    def write(self, line: str) -> str:
        return line


def as_csv(name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> StreamingHttpResponse:
    """A download, written row by row. Cells that would be formulas are made texts."""
    answer = StreamingHttpResponse(_lines(header, rows), content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer


def _lines(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield "\ufeff" + str(writer.writerow(header))  # the mark by which spreadsheets know UTF-8
    for row in rows:
        yield str(writer.writerow([cell(value) for value in row]))


def cell(value: Any) -> str:
    """A value as a harmless text."""
    return "" if value is None else csv_cell(str(value))
