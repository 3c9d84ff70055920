from swa_tools.measurements import read_numbers
from swa_tools.report.figures.trajectory import trajectory_picture


def test_axis_labels_of_a_narrow_trajectory_are_whole(tmp_path, write_surfaces, figure_of):
    write_surfaces(tmp_path)
    picture = trajectory_picture(read_numbers(tmp_path / "trajectory.npz"))
    figure = figure_of(picture, picture.narrow_size)
    heights = [axes.yaxis.label.get_window_extent().height for axes in figure.axes]
    assert max(heights) < max(axes.get_window_extent().height for axes in figure.axes)


def test_message_of_a_trajectory_begins_with_its_verdict(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "trajectory.npz")
    verdict = "Drifting"
    assert trajectory_picture(numbers).message.startswith(verdict)
