"""Pictures, tables and pages from records and measurements. No torch; matplotlib where it draws."""

from swa_tools.report.figures.bn_ablation import bn_ablation_picture
from swa_tools.report.figures.comparison import comparison_picture
from swa_tools.report.figures.plane import plane_picture
from swa_tools.report.figures.ray import ray_picture
from swa_tools.report.figures.reliability import reliability_picture
from swa_tools.report.figures.run_curves import run_picture
from swa_tools.report.figures.segment import segment_picture
from swa_tools.report.figures.sweep import sweep_picture
from swa_tools.report.figures.trajectory import trajectory_picture
from swa_tools.report.measurement_tables import tables_of
from swa_tools.report.picture import Picture, picture_format
