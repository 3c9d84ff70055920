"""Find out what to average by scoring: averages ready for use, soups, sweeps."""

from swa_tools.selection.scored_average import ScoredAverage, average_and_score
from swa_tools.selection.setting import Setting
from swa_tools.selection.soup import GreedySoup, SoupStep, greedy_soup
from swa_tools.selection.sweep import SweepPoint, sweep
