"""Lines without outline, without baseline, off the page or crossing themselves are mended, and said by name."""

from __future__ import annotations

import numpy as np
import pytest
from page_data import alto, read

from zoo_htr.cutting import cut
from zoo_htr.pages.layout import lay_out
from zoo_htr.pages.model import Box, Line, Page, Points
from zoo_htr.pages.order import by_place

SQUARE: Points = ((10, 20), (210, 20), (210, 60), (10, 60))
BASE: Points = ((10, 50), (210, 50))


def page_of(*lines: Line, width: float = 400, height: float = 300) -> Page:
    return Page(tuple(lines), width=width, height=height)


def only(line: Line, size: tuple[int, int] = (300, 400)) -> tuple[Line, str]:
    layout = lay_out(page_of(line), size)
    return layout.page.lines[0], " ".join(layout.notes)


def test_complete_lines_stay_as_they_are() -> None:
    line = Line("a", SQUARE, BASE)
    assert only(line) == (line, "")


def test_no_outline_one_is_made_from_baseline_and_neighbours() -> None:
    lines = [Line(str(n), (), ((10, 50 + 40 * n), (210, 50 + 40 * n))) for n in range(4)]
    layout = lay_out(page_of(*lines), (300, 400))
    for n, line in enumerate(layout.page.lines):
        ys = [y for _, y in line.polygon]
        assert (min(ys), max(ys)) == pytest.approx((50 + 40 * n - 28, 50 + 40 * n + 12))
    assert layout.notes == ("4 lines (0, 1, 2 and 1 more): each had no outline: one was made around its baseline",)


@pytest.mark.parametrize(("start", "end", "left", "right"), [(250, 50, 72, 112), (50, 250, 88, 128)])
def test_an_upright_line_without_outline_gets_one_beside_its_baseline(
    start: float, end: float, left: float, right: float
) -> None:
    """In a margin: read upwards, its letters stand to the left of the baseline; read downwards, to the right."""
    lines = [Line(str(n), (), ((150, 50 + 40 * n), (350, 50 + 40 * n))) for n in range(4)]
    margin = Line("margin", (), ((100, start), (100, end)))
    layout = lay_out(page_of(*lines, margin), (300, 400))
    xs = [x for x, _ in layout.page.lines[-1].polygon]
    assert (min(xs), max(xs)) == pytest.approx((left, right))


def test_no_baseline_one_is_made_at_the_foot_of_the_outline() -> None:
    line, said = only(Line("a", SQUARE))
    assert np.allclose(line.baseline, ((10, 50), (210, 50)))
    assert said == "line a had no baseline: one was made at the foot of its outline"
    tilted, _ = only(Line("a", ((10, 20), (210, 60), (210, 100), (10, 60))))
    assert tilted.baseline[1][1] - tilted.baseline[0][1] == pytest.approx(40, abs=6)


def test_a_box_alone_is_enough() -> None:
    box: Box = (10, 20, 210, 60)
    line, said = only(Line("a", box=box))
    assert line.polygon == SQUARE
    assert np.allclose(line.baseline, ((10, 50), (210, 50)))
    assert "its box is used" in said


def test_no_place_at_all_is_left_out_by_name() -> None:
    line, said = only(Line("lost"))
    assert (line.polygon, line.baseline) == ((), ())
    assert said == "line lost has no place on the picture and was left out"


@pytest.mark.parametrize(
    "polygon", [((10, 20),), ((10, 20), (200, 20)), ((10, 20), (100, 20), (200, 20)), ((5, 5),) * 5]
)
def test_outlines_without_area_are_replaced(polygon: Points) -> None:
    line, _ = only(Line("a", polygon, BASE))
    assert len(line.polygon) >= 3
    assert cut(np.full((300, 400), 200, np.uint8), line.polygon, line.baseline).image.shape[0] == 64


def test_points_off_the_page_move_to_its_edge() -> None:
    line, said = only(Line("a", ((-50, 20), (900, 20), (900, 60), (-50, 60)), ((-50, 50), (900, 50))))
    assert all(0 <= x < 400 and 0 <= y < 300 for x, y in (*line.polygon, *line.baseline))
    assert "reached beyond the picture" in said


def test_an_outline_that_crosses_itself_gets_its_outer_edge() -> None:
    """Drawn round twice, the inside counts as outside for a filled polygon: it would be painted over."""
    twice: Points = (*SQUARE, (10, 20), (209, 21), (209, 59), (11, 59))
    line, said = only(Line("a", twice, BASE))
    assert "crosses itself" in said
    page = np.full((300, 400), 200, np.uint8)
    page[35:45, 50:150] = 0
    assert cut(page, line.polygon, line.baseline).image.min() < 60


def test_picture_of_another_size_scales_the_lines() -> None:
    layout = lay_out(page_of(Line("a", SQUARE, BASE)), (600, 800))
    assert layout.page.lines[0].baseline == ((20, 100), (420, 100))
    assert (layout.scale, layout.notes) == ((2.0, 2.0), ())
    # a pixel or two of difference is rounding of other programs, not scale
    assert lay_out(page_of(Line("a", SQUARE, BASE)), (301, 402)).scale == (1.0, 1.0)


def test_picture_of_another_shape_is_said() -> None:
    layout = lay_out(page_of(Line("a", SQUARE, BASE)), (400, 300))
    assert "is it the right picture" in layout.notes[0]


def test_duplicate_and_empty_ids_are_kept_apart_by_place() -> None:
    lines = "".join(
        f'<TextLine ID="{name}" HPOS="1" VPOS="{50 * n}" WIDTH="90" HEIGHT="40"><String CONTENT="{n}"/></TextLine>'
        for n, name in enumerate(("same", "same", ""))
    )
    assert [line.place for line in read(alto(lines)).pages[0].lines] == [0, 1, 2]


def test_columns_are_read_one_after_the_other_under_a_common_heading() -> None:
    def line(name: str, left: float, top: float, right: float) -> Line:
        return Line(
            name,
            ((left, top), (right, top), (right, top + 20), (left, top + 20)),
            ((left, top + 15), (right, top + 15)),
        )

    heading = line("h", 10, 10, 390)
    left = [line(f"l{n}", 10, 50 + 30 * n, 180) for n in range(3)]
    right = [line(f"r{n}", 220, 45 + 30 * n, 390) for n in range(3)]
    shuffled = page_of(right[1], left[2], heading, right[0], left[0], right[2], left[1])
    assert [one.id for one in by_place(shuffled).lines] == ["h", "l0", "l1", "l2", "r0", "r1", "r2"]
