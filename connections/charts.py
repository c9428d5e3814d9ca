"""Charts as SVG that need neither scripts nor inline styles.

Positions are percentages, so that a chart fits any width. Colours are CSS classes. The templates in templates/charts/
draw the charts, each with its numbers in a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

PRIMARY = "primary"  # a tone in addition to those of presentation.py
_GAP = 0.2  # a fraction of a column's width


@dataclass(frozen=True, slots=True)
class Series:
    """The numbers in one colour, one for each column. None means that nothing was recorded."""

    label: str
    tone: str
    values: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    x: str
    y: str
    width: str
    height: str
    tone: str
    title: str


@dataclass(frozen=True, slots=True)
class Mark:
    x: str
    title: str


@dataclass(frozen=True, slots=True)
class BarChart:
    """Columns of stacked bars. ``marks`` has the text of the signs above columns, by the column's number."""

    key: str  # unique on the page
    title: str
    columns: tuple[str, ...]
    series: tuple[Series, ...]
    marks: Mapping[int, str] = field(default_factory=dict)
    mark_label: str = ""  # the meaning of the signs, for the legend
    mark_tone: str = "broken"
    column_title: str = "Day"
    empty: str = "Nothing recorded yet."
    is_sparse: bool = False  # whether the table leaves out columns in which all numbers are 0

    @property
    def top(self) -> int:
        """The number that the full height of the chart represents."""
        sums = (sum(each.values[number] or 0 for each in self.series) for number in range(len(self.columns)))
        return max(sums, default=0)

    @property
    def is_empty(self) -> bool:
        return self.top == 0 and not self.marks

    @property
    def description(self) -> str:
        totals = ", ".join(f"{each.label}: {sum(value or 0 for value in each.values)}" for each in self.series)
        return f"{self.columns[0]} to {self.columns[-1]}. Highest: {self.top}. Sums: {totals}."

    @property
    def bars(self) -> list[Bar]:
        bars, step = [], 100 / max(len(self.columns), 1)
        for number, column in enumerate(self.columns):
            bottom = 100.0
            for each in self.series:
                value = each.values[number]
                if not value:
                    continue
                height = 100 * value / self.top
                bottom -= height
                x, width = number * step + step * _GAP / 2, step * (1 - _GAP)
                title = f"{column}: {value} {each.label.lower()}"
                bars.append(Bar(_percent(x), _percent(bottom), _percent(width), _percent(height), each.tone, title))
        return bars

    @property
    def drawn_marks(self) -> list[Mark]:
        step = 100 / max(len(self.columns), 1)
        return [
            Mark(_percent((number + 0.5) * step), f"{self.columns[number]}: {text}")
            for number, text in sorted(self.marks.items())
        ]

    @property
    def rows(self) -> list[tuple[str, list[int | None], str]]:
        """The rows of the table: columns with a number or a mark, their numbers, and the mark."""
        rows = [
            (column, [each.values[number] for each in self.series], self.marks.get(number, ""))
            for number, column in enumerate(self.columns)
        ]
        least = 1 if self.is_sparse else 0
        return [row for row in rows if row[2] or any(value is not None and value >= least for value in row[1])]


@dataclass(frozen=True, slots=True)
class Moment:
    at: datetime
    label: str
    tone: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Moments on a line from ``start`` to ``end``. If ``now`` is between them, it gets a sign, too."""

    key: str
    title: str
    start: datetime
    end: datetime
    now: datetime
    moments: tuple[Moment, ...]

    @property
    def points(self) -> list[tuple[Moment, str]]:
        return [(moment, self._x(moment.at)) for moment in self.moments]

    @property
    def x_of_now(self) -> str:
        return self._x(self.now) if self.start <= self.now <= self.end else ""

    @property
    def time_format(self) -> str:
        return "j M Y H:i" if self.end - self.start < timedelta(days=2) else "j M Y"

    def _x(self, at: datetime) -> str:
        share = (at - self.start) / (self.end - self.start) if self.end > self.start else 0.5
        return _percent(2 + 96 * min(max(share, 0.0), 1.0))  # leave some space for points at the ends


def per_day(
    days: Sequence[date], label: str, tone: str, values: Mapping[date, int], *, missing: int | None = 0
) -> Series:
    """Return the values of these days as a series. ``missing`` is the value of days without one."""
    return Series(label, tone, tuple(values.get(day, missing) for day in days))


def day_labels(days: Sequence[date]) -> tuple[str, ...]:
    return tuple(f"{day.day} {day:%b}" for day in days)


def _percent(value: float) -> str:
    return f"{value:.2f}%"
