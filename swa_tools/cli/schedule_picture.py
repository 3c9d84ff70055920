"""The picture of a run's learning rate, drawn before the run."""

from typing import TYPE_CHECKING

from swa_tools.report import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from swa_tools.report.style import Theme
    from swa_tools.training.run_plan import RunPlan

MOST_POINTS = 4000
"""More points than this cannot be told apart on paper; longer runs are drawn at every nth step."""


def schedule_picture(plan: "RunPlan") -> Picture:
    """Return the learning rate over the epochs, with the captures marked."""
    every = -(-plan.n_steps // MOST_POINTS)
    steps = sorted({*range(1, plan.n_steps + 1, every), *plan.captures, plan.n_steps})

    def draw(figure: "Figure", theme: "Theme") -> None:
        from swa_tools.report.style import figure_legend, marker_style

        axes = figure.add_subplot()
        # A step's rate holds from the end of the previous step to its own end.
        epochs = [0.0, *(plan.epoch(step) for step in steps)]
        rates = [plan.schedule.lr(step) for step in (1, *steps)]
        axes.plot(epochs, rates, color=theme.ink, linewidth=1, drawstyle="steps-pre")
        axes.plot(
            [plan.epoch(step) for step in plan.captures],
            [plan.schedule.lr(step) for step in plan.captures],
            **marker_style("checkpoint", theme, hollow=True) | {"linestyle": "none"},
            label="captures",
            clip_on=False,
            zorder=3,
        )
        axes.set_xlabel("epoch")
        axes.set_ylabel("learning rate")
        axes.set_ylim(bottom=0)
        if len(plan.captures):
            figure_legend(figure, axes)

    return Picture(
        title="Learning rate",
        message=f"The learning rate at each of {plan.n_steps:,} steps;"
        f" {len(plan.captures)} captures are taken.",
        size=(6.4, 2.6),
        narrow_size=(3.6, 2.4),
        draw=draw,
    )
