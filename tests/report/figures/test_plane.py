import itertools

import numpy as np
import pytest

from swa_tools.measurements import read_numbers
from swa_tools.report.figures.plane import plane_picture


@pytest.mark.parametrize("value", [100 / 3, np.nan, np.inf])
def test_a_plane_of_one_value_is_drawn(tmp_path, write_surfaces, value):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "plane.npz")
    for name in ("test_error", "train_objective"):
        numbers.arrays[name][:] = value
    picture = plane_picture(numbers)
    assert picture.render("png", dpi=40).startswith(b"\x89PNG")
    assert "nan" not in picture.message
    assert "inf " not in picture.message


def test_level_labels_stay_clear_of_frame_and_markers(tmp_path, write_surfaces, figure_of):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "plane.npz")
    figure = figure_of(plane_picture(numbers))
    labels = 0
    for axes in figure.axes[:2]:
        frame = axes.get_window_extent()
        points = axes.transData.transform(
            [*numbers.arrays["checkpoint_xy"], *numbers.arrays["projected_xyd"][:, :2]]
        )
        for text in axes.texts:
            if text.get_text() in "ABC":
                continue
            labels += 1
            box = text.get_window_extent()
            assert frame.x0 < box.x0 < box.x1 < frame.x1
            assert frame.y0 < box.y0 < box.y1 < frame.y1
            assert not any(box.contains(*point) for point in points)
    assert labels > 2


def test_a_plane_that_is_nearly_a_line_has_room_for_its_labels(tmp_path, write_surfaces, figure_of):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "plane.npz")
    numbers.arrays["y"] /= 100
    numbers.arrays["checkpoint_xy"][:, 1] /= 100
    numbers.arrays["projected_xyd"][:, 1] /= 100
    picture = plane_picture(numbers)
    for size in (picture.size, picture.narrow_size):
        figure = figure_of(picture, size)
        for axes in figure.axes[:2]:
            label = axes.yaxis.label.get_window_extent()
            assert label.y0 >= 0
            assert label.y1 <= figure.bbox.height
        for bar in figure.axes[2:]:
            boxes = [tick.get_window_extent() for tick in bar.get_yticklabels()]
            assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))


def test_message_of_a_plane_says_where_the_average_is(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "plane.npz")
    numbers.arrays["projected_xyd"][0] = (1.4, 2.2, 0.5)
    text = "The average lies at (1.4, 2.2) on the plane, 1.79 from that point"
    assert text in plane_picture(numbers).message
    numbers.description["projected"][0]["kind"] = "checkpoint"
    assert "average" not in plane_picture(numbers).message
