"""Pictures and pages from records and result files. No torch; matplotlib only where it draws."""

from swa_tools.report.line_figures import ray_picture, segment_picture
from swa_tools.report.number_tables import tables_of
from swa_tools.report.numbers import Numbers, read_numbers
from swa_tools.report.picture import Picture, picture_format
from swa_tools.report.plane_figure import plane_picture
from swa_tools.report.run_figure import run_picture
from swa_tools.report.score_figures import sweep_picture
from swa_tools.report.trajectory_figure import trajectory_picture

__all__ = [
    "Numbers",
    "Picture",
    "picture_format",
    "plane_picture",
    "ray_picture",
    "read_numbers",
    "run_picture",
    "segment_picture",
    "sweep_picture",
    "tables_of",
    "trajectory_picture",
]
