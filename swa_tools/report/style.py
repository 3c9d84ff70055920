"""One look for all pictures: colours, line styles and markers that mean the same everywhere.

Blue and orange are close to Okabe and Ito's; the others are chosen so that any two differ in
lightness or hue for people with any colour vision. Every series also has its own marker or line
style, so the pictures can be read in black and white.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ThemeName = Literal["light", "dark"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """Colours for one kind of paper.

    Attributes:
        paper: The background.
        ink: Text, axes and marks.
        muted: What stays in the background: secondary text, guide lines.
        grid: Grid lines.
        swa: The average, in every picture.
        sgd: Conventionally trained weights, in every picture.
        checkpoint: Captures and the curve between them.
        ensemble, ema, soup: The other combinations.
        runs: Colours of several runs in one picture, in their order.
    """

    paper: str
    ink: str
    muted: str
    grid: str
    swa: str
    sgd: str
    checkpoint: str
    ensemble: str
    ema: str
    soup: str
    runs: tuple[str, ...]

    @property
    def others(self) -> tuple[str, ...]:
        """Colours of series that are neither an average nor conventional training, in order."""
        return tuple(color for color in self.runs if color not in (self.swa, self.sgd))

    def of_kind(self, kind: str | None) -> str:
        """Return the colour of a record's kind."""
        colors = {
            "average": self.swa,
            "start": self.ink,
            "control": self.sgd,
            "ensemble": self.ensemble,
            "ema": self.ema,
            "soup": self.soup,
        }
        return colors.get(kind or "", self.checkpoint)


LIGHT = Theme(
    paper="#ffffff",
    ink="#1b1f24",
    muted="#5c6570",
    grid="#dfe3e8",
    swa="#0072b2",
    sgd="#c4500a",
    checkpoint="#5c6570",
    ensemble="#7d1763",
    ema="#106350",
    soup="#544509",
    runs=("#0072b2", "#c4500a", "#106350", "#8f3af2", "#544509", "#7d1763", "#1b1f24"),
)

DARK = Theme(
    paper="#14181d",
    ink="#e8ecf0",
    muted="#a3adb8",
    grid="#2d343c",
    swa="#5ab4ec",
    sgd="#ff8f4a",
    checkpoint="#a3adb8",
    ensemble="#d062ac",
    ema="#70e2a2",
    soup="#f6d245",
    runs=("#5ab4ec", "#ff8f4a", "#70e2a2", "#956ef2", "#f6d245", "#d062ac", "#e8ecf0"),
)

THEMES: dict[ThemeName, Theme] = {"light": LIGHT, "dark": DARK}

RUN_LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
RUN_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""For several runs in one picture; colours, lines and markers repeat after different numbers."""

NARROW_INCHES = 5.0
"""Figures narrower than this have one column."""

MARKERS = {
    "start": "s",
    "checkpoint": "o",
    "average": "*",
    "control": "D",
    "ensemble": "P",
    "ema": "^",
    "soup": "X",
}
MARKER_SIZES = {"average": 13.0, "ensemble": 8.5, "soup": 8.5}


def matplotlib_settings(theme: Theme) -> Any:
    """Return matplotlib's settings for a theme: a dict by the names of its `rcParams`."""
    return {
        "font.family": ["DejaVu Sans"],
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 9,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.muted,
        "axes.facecolor": theme.paper,
        "axes.linewidth": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlecolor": theme.ink,
        "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "savefig.edgecolor": theme.paper,
        "grid.color": theme.grid,
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "legend.handlelength": 1.9,
        "legend.columnspacing": 1.5,
        "lines.linewidth": 1.5,
        "lines.markersize": 6,
        "text.color": theme.ink,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "xtick.major.width": 0.8,
        "ytick.major.width": 0.8,
        # The same data give the same bytes.
        "svg.hashsalt": "swa-tools",
        "svg.fonttype": "path",
        "path.simplify": True,
    }


def marker_style(kind: str, theme: Theme, *, hollow: bool = False) -> dict[str, Any]:
    """Return the arguments of `Axes.plot` for the marker of a kind, set off by its edge."""
    color = theme.of_kind(kind)
    return {
        "marker": MARKERS[kind],
        "markersize": MARKER_SIZES.get(kind, 6.5),
        "markerfacecolor": theme.paper if hollow else color,
        "markeredgecolor": color if hollow else theme.paper,
        "markeredgewidth": 1.5 if hollow else 0.9,
        "color": color,
    }


def series_style(number: int, theme: Theme) -> dict[str, Any]:
    """Return the look of a series that is neither the average nor conventional training."""
    return {
        "color": theme.others[number % len(theme.others)],
        "linestyle": RUN_LINES[number % len(RUN_LINES)],
        "marker": RUN_MARKERS[number % len(RUN_MARKERS)],
    }


def panels(figure: "Figure", n: int, **arguments: Any) -> "list[Axes]":
    """Return axes side by side, or below one another if the figure is narrow.

    Args:
        figure: An empty figure.
        n: Number of axes.
        arguments: Passed on to `Figure.subplots`.
    """
    shape = (1, n) if figure.get_figwidth() >= NARROW_INCHES else (n, 1)
    grid = figure.subplots(*shape, squeeze=False, **arguments)
    return list(grid.flat)


def figure_legend(figure: "Figure", axes: "Axes", *, entry_inches: float = 1.6) -> None:
    """Put the legend of some axes above the whole figure, away from the data.

    Args:
        figure: The figure.
        axes: Where the entries come from.
        entry_inches: Width of an entry in inches; decides how many go in a row.
    """
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = max(1, min(len(handles), int(figure.get_figwidth() / entry_inches)))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handletextpad=0.5)
