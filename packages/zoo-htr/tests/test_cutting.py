"""The cutter: what the packs hold, and what must hold for any line."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from page_data import PAGES, ROOT, needs_pages, picture_of, read_path
from PIL import Image

from zoo_core.errors import InputError
from zoo_htr.cutting import HEIGHT_PX, MAX_HEIGHT_PX, Gray, cut
from zoo_htr.pages.model import Points

BASE: Points = ((50, 130), (350, 130))
BOX: Points = ((50, 80), (350, 80), (350, 144), (50, 144))


def written_page(angle_degrees: float = 0.0) -> tuple[Gray, Points, Points]:
    """Return paper of tone 200 with dark strokes on a line, turned by an angle, and the line's outline and baseline."""
    page = np.full((900, 900), 200, np.uint8)
    for x in range(60, 340, 23):
        cv2.line(page, (x, 130), (x + x % 11, 95 + x % 17), 40, 3)
    turn = cv2.getRotationMatrix2D((50, 130), -angle_degrees, 1)
    turn[:, 2] += 400, 300
    page = np.asarray(cv2.warpAffine(page, turn, (900, 900), borderValue=200), np.uint8)

    def moved(points: Points) -> Points:
        return tuple((float(x), float(y)) for x, y in np.asarray(points) @ turn[:, :2].T + turn[:, 2])

    return page, moved(BOX), moved(BASE)


@needs_pages
@pytest.mark.parametrize(("xml", "count"), [("copiste_1.alto", 12), ("hooker_2.page", 10), ("poilus_2.alto", 7)])
def test_cuts_what_the_packs_hold(xml: str, count: int) -> None:
    """The packs' rows of the same pages: same height of the crop, same width, same angle, same picture but for WebP."""
    assert ROOT is not None
    assert PAGES is not None
    path = PAGES / f"{xml}.xml"
    page = read_path(path).pages[0]
    picture = np.asarray(Image.open(picture_of(path)))
    rows = pq.read_table(
        ROOT / "htr/lines/test.parquet", filters=[("page", "=", Path(page.image_name).stem)]
    ).to_pylist()
    assert len(rows) == count
    lines = {line.place: line for line in page.lines}
    for row in rows:
        line = lines[row["line"]]
        made = cut(picture, line.polygon, line.baseline)
        assert made.box_px[1] == row["orig_height"]
        assert made.angle_degrees == pytest.approx(row["angle"], abs=0.006)
        assert made.image.shape == (HEIGHT_PX, row["width"])
        packed = np.asarray(Image.open(io.BytesIO(row["image"])).convert("L"), np.float64)
        assert np.abs(packed - made.image).mean() < 4  # WebP of quality 38 alone is 1 to 3


@pytest.mark.parametrize("angle", [-90, -60, -30, -4, 3, 20, 60, 90])
def test_a_turned_line_is_cut_as_the_level_one(angle: float) -> None:
    level = cut(*written_page()).image.astype(float)
    made = cut(*written_page(angle))
    assert made.angle_degrees == pytest.approx(angle, abs=0.01)
    assert abs(made.image.shape[1] - level.shape[1]) <= 4
    # the box grows by a pixel where corners fall between pixels: compare what is written, not its place to the pixel
    same_size = cv2.resize(made.image.astype(float), level.shape[::-1])
    soft = [cv2.GaussianBlur(image, (0, 0), 3).ravel() for image in (same_size, level)]
    assert np.corrcoef(soft)[0, 1] > 0.95


def test_a_baseline_drawn_backwards_changes_nothing() -> None:
    page, polygon, baseline = written_page(3)
    assert np.array_equal(cut(page, polygon, baseline).image, cut(page, polygon, baseline[::-1]).image)


def test_a_short_baseline_does_not_turn_the_line() -> None:
    page, polygon, _ = written_page()
    assert cut(page, polygon, ((460, 430), (472, 440))).angle_degrees == 0


def test_what_lies_outside_the_outline_becomes_paper() -> None:
    page, polygon, baseline = written_page()
    page[int(polygon[0][1]) - 12 : int(polygon[0][1]) - 8] = 0  # a neighbour's ink, within the box but not the outline
    slanted = (polygon[0], (polygon[1][0], polygon[1][1] - 14), polygon[2], polygon[3])
    with_neighbour = cut(page, slanted, baseline).image
    assert abs(int(with_neighbour[4, 20]) - 200) <= 3
    assert int(with_neighbour[1, -3]) == 200


def test_outline_that_is_the_box_leaves_pixels_alone() -> None:
    """An upright box of the final height: no turning, no scaling, so that the pixels are the page's."""
    page, _, _ = written_page()
    shape: Points = ((450, 382), (749, 382), (749, 441), (450, 441))  # 59 px and 2 px of padding on both sides: 63
    made = cut(page, shape, ((450, 430), (749, 430)), height_px=63)
    assert made.box_px == (303, 63)
    inner = made.image[6:-6, 6:-6].astype(int)
    assert np.abs(inner - page[380:443, 448:751][6:-6, 6:-6]).max() <= 1


def test_points_of_the_cut_lead_back_to_the_page() -> None:
    """A dot on the page is found in the cut, and its place there leads back to the dot."""
    for angle in (0, 7, -25):
        page, polygon, baseline = written_page(angle)
        page[:] = 200
        (x0, y0), (x1, y1) = baseline
        dot = x0 + 0.3 * (x1 - x0), y0 + 0.3 * (y1 - y0) - 10
        cv2.circle(page, (round(dot[0]), round(dot[1])), 4, 0, -1)
        made = cut(page, polygon, baseline)
        ys, xs = np.nonzero(made.image < 100)
        ((x, y),) = made.on_page(((float(xs.mean()), float(ys.mean())),))
        assert (x, y) == pytest.approx((round(dot[0]), round(dot[1])), abs=1)


def test_a_line_at_the_edge_of_the_page_goes_on_with_its_border() -> None:
    page = np.full((100, 300), 180, np.uint8)
    made = cut(page, ((0, 0), (299, 0), (299, 60), (0, 60)), ((0, 50), (299, 50)))
    assert made.image.min() >= 179


@pytest.mark.parametrize("shape", [((10, 10), (18, 10), (18, 60), (10, 60)), ((10, 10), (90, 10), (90, 15), (10, 15))])
def test_too_small_a_box_is_refused(shape: Points) -> None:
    with pytest.raises(InputError, match="too small"):
        cut(np.full((100, 100), 200, np.uint8), shape, ((10, 15), (40, 15)))


def test_a_huge_line_is_cut_from_a_huge_page() -> None:
    """Larger than OpenCV takes at once (2^15 pixels a side), and higher than a line is cut at."""
    page = np.full((1300, 34_000), 200, np.uint8)
    page[600:900, 20_000:33_000:50] = 30
    made = cut(page, ((19_000, 50), (33_900, 50), (33_900, 1250), (19_000, 1250)), ((19_000, 900), (33_900, 900)))
    assert made.box_px[1] > MAX_HEIGHT_PX
    assert made.image.shape[0] == HEIGHT_PX
    assert abs(made.image.shape[1] / HEIGHT_PX - made.box_px[0] / made.box_px[1]) < 0.05
    assert made.image[40].min() < 190
