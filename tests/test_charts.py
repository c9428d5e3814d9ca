"""Charts: what is drawn has the size of its numbers, and the table has the numbers."""

from datetime import UTC, datetime, timedelta

from django.template.loader import render_to_string

from connections.charts import BarChart, Moment, Series, Timeline


def chart(**changes: object) -> BarChart:
    values: dict[str, object] = {
        "key": "use",
        "title": "Use",
        "columns": ("1 Nov", "2 Nov", "3 Nov", "4 Nov"),
        "series": (Series("Working", "ok", (3, 0, None, 1)), Series("Broken", "broken", (1, 2, None, 0))),
    }
    return BarChart(**(values | changes))  # type: ignore[arg-type]


def test_bars_are_as_high_as_their_numbers_and_stacked() -> None:
    bars = chart().bars
    assert chart().top == 4
    assert [(bar.tone, bar.height, bar.y) for bar in bars] == [
        ("ok", "75.00%", "25.00%"), ("broken", "25.00%", "0.00%"), ("broken", "50.00%", "50.00%"), ("ok", "25.00%", "75.00%"),
    ]  # fmt: skip
    assert bars[0].title == "1 Nov: 3 working"
    assert {bar.width for bar in bars} == {"20.00%"}


def test_the_table_has_every_number_and_leaves_out_days_without_any() -> None:
    html = render_to_string("charts/bars.html", {"chart": chart(marks={1: "2 incidents opened"})})
    assert [row[0] for row in chart().rows] == ["1 Nov", "2 Nov", "4 Nov"]
    assert html.count("<rect") == 4
    assert html.count('scope="row"') == 3
    assert "2 Nov: 2 incidents opened" in html
    assert "Sums: Working: 4, Broken: 3." in html
    assert "style=" not in html


def test_a_chart_without_numbers_says_so_instead_of_drawing_axes() -> None:
    empty = chart(series=(Series("Working", "ok", (None, None, 0, 0)),), empty="No day yet.")
    html = render_to_string("charts/bars.html", {"chart": empty})
    assert "No day yet." in html
    assert "<svg" not in html


def test_words_from_people_are_escaped() -> None:
    named = chart(series=(Series('<script>"x', "ok", (1, 1, 1, 1)),))
    assert "<script>" not in render_to_string("charts/bars.html", {"chart": named})


def test_a_timeline_puts_moments_where_they_were() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    moments = tuple(Moment(start + timedelta(days=day), f"Day {day}", "ok") for day in (0, 5, 10, 99))
    line = Timeline("life", "Life", start, start + timedelta(days=10), start + timedelta(days=5), moments)
    assert [x for _, x in line.points] == ["2.00%", "50.00%", "98.00%", "98.00%"]
    assert line.x_of_now == "50.00%"
    html = render_to_string("charts/timeline.html", {"timeline": line})
    assert html.count("<circle") == 4
    assert html.count("<li ") == 4
    at_once = Timeline("life", "Life", start, start, start, moments[:1])
    assert at_once.points[0][1] == "50.00%"
