"""Pictures and pages from records and result files. No torch; matplotlib only where it draws."""

from swa_tools.report.picture import Picture, picture_format
from swa_tools.report.run_figure import run_picture

__all__ = ["Picture", "picture_format", "run_picture"]
