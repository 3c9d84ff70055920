"""Pictures and pages from records and result files. No torch; matplotlib only where it draws."""

from swa_tools.report.comparison_figure import comparison_picture
from swa_tools.report.line_figures import ray_picture, segment_picture
from swa_tools.report.number_tables import tables_of
from swa_tools.report.numbers import Numbers, read_numbers
from swa_tools.report.picture import Picture, picture_format
from swa_tools.report.plane_figure import plane_picture
from swa_tools.report.run_figure import run_picture
from swa_tools.report.score_figures import (
    bn_ablation_picture,
    reliability_picture,
    sweep_picture,
)
from swa_tools.report.trajectory_figure import trajectory_picture

__all__ = [
    "Numbers",
    "Picture",
    "bn_ablation_picture",
    "comparison_picture",
    "picture_format",
    "plane_picture",
    "ray_picture",
    "read_numbers",
    "reliability_picture",
    "run_picture",
    "segment_picture",
    "sweep_picture",
    "tables_of",
    "trajectory_picture",
]
