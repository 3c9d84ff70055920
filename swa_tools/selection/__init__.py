"""What to average, found out by scoring: averages made ready for use, soups, sweeps."""

from swa_tools.selection.scored_average import ScoredAverage, average_and_score

__all__ = ["ScoredAverage", "average_and_score"]
