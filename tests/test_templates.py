"""Templates stay readable: no line is too long for an editor or a review."""

from tests.environment import ROOT


def test_no_line_of_a_template_is_over_120_characters() -> None:
    long_lines = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "templates").rglob("*"))
        if path.is_file()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > 120
    ]
    assert long_lines == []
