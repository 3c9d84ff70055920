"""The numbers behind the pictures of the loss surface, as tables."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swa_tools.measurements import Numbers
from swa_tools.report.tables import Table


def _table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str,
) -> Table:
    return Table(
        columns=tuple(columns),
        rows=tuple(tuple(row) for row in rows),
        kinds=("number",) * len(rows),
        caption=caption,
    )


def plane_table(numbers: Numbers) -> Table:
    """Return where the checkpoints lie on a plane, and their scores."""
    arrays, description = numbers.arrays, numbers.description
    own = zip(
        description["checkpoints"],
        arrays["checkpoint_xy"],
        arrays["checkpoint_train_objective"],
        arrays["checkpoint_test_error"],
        strict=True,
    )
    rows = [
        [one["name"], f"{x:.4g}", f"{y:.4g}", "0", f"{loss:.4f}", f"{error:.2f}"]
        for one, (x, y), loss, error in own
    ]
    projected = zip(description["projected"], arrays["projected_xyd"], strict=True)
    rows += [
        [one["name"], f"{x:.4g}", f"{y:.4g}", f"{off:.4g}", "", ""]
        for one, (x, y, off) in projected
    ]
    columns = ("checkpoint", "u", "v", "off the plane", "train loss + L2", "test error %")
    return _table(columns, rows, "Distances in the space of parameters; " + _images(numbers))


def ray_table(numbers: Numbers) -> Table:
    """Return the width of each checkpoint along its rays, and which is wider on the same rays."""
    description, rows = numbers.description, []
    n_rays, checkpoints = description["n_rays"], description["checkpoints"]
    for number, one in enumerate(checkpoints):
        row = [one["name"], f"{numbers.arrays['test_error'][number, 0, 0]:.2f}"]
        for width in one["width"].values():
            row += [_number(width["mean"]), _reached(width, n_rays=n_rays)]
        rows.append(row)
    pairs = zip(checkpoints, checkpoints[1:], description["wider_than_next"], strict=False)
    for first, second, wider in pairs:
        row = [f"{first['name']} − {second['name']}", ""]
        for found in wider.values():
            row += ["-", ""] if found is None else [_number(found["mean"]), _interval(found)]
        rows.append(row)
    growths = [f"+{growth} points" for growth in checkpoints[0]["width"]]
    columns = ["checkpoint", "test error %"]
    for growth in growths:
        columns += [growth, f"95 % ({growth})"]
    return _table(
        columns,
        rows,
        f"Distance at which the test error has grown by so many points: mean over {n_rays} rays"
        f" with its interval; differences are taken ray by ray. {_images(numbers)}",
    )


def segment_table(numbers: Numbers) -> Table:
    """Return where loss and error are lowest on a segment, and how they rise."""
    width = numbers.description["width"]
    low, high = width["shift_interval"]
    ends = (float(numbers.arrays["position"][0]), float(numbers.arrays["position"][-1]))
    rows = [
        ["distance between the two", f"{numbers.description['distance']:.4g}"],
        ["train loss with L2 term is lowest at", _minimum(width["train_minimum"], ends=ends)],
        ["test error is lowest at", _minimum(width["test_minimum"], ends=ends)],
        ["shift of the test error's minimum", f"{width['shift']:.4g}"],
        ["its 95 % interval over the images", f"{low:.4g} to {high:.4g}"],
    ]
    for growth, sides in width["sides"].items():
        rows += [
            [f"error +{growth} points from the average, away from SGD", _far(sides["away"])],
            [f"error +{growth} points from the average, toward SGD", _far(sides["toward"])],
            [f"asymmetry at +{growth} points", _far(sides["asymmetry"])],
        ]
    return _table(
        ["signed distances", "value"],
        rows,
        f"0 at the average, positive toward the other checkpoint. {_images(numbers)}",
    )


def _minimum(position: float, *, ends: tuple[float, float]) -> str:
    """Return where the lowest value was measured, and whether a lower value may lie beyond."""
    text = f"{position:.4g}"
    if not any(math.isclose(position, end, rel_tol=1e-9) for end in ends):
        return text
    return f"{text}, the end of the measured range: the minimum may lie beyond"


def trajectory_table(numbers: Numbers) -> Table:
    """Return the lengths and angles at each capture of a path."""
    arrays, description = numbers.arrays, numbers.description
    has_start, n = len(arrays["to_start"]) > 0, len(arrays["norms"])
    rows = []
    for i, one in enumerate(description["checkpoints"]):
        row = [one["name"], f"{arrays['norms'][i]:.5g}", f"{arrays['to_mean'][i]:.4g}"]
        row.append(f"{arrays['steps'][i]:.4g}" if i < n - 1 else "")
        row.append(f"{arrays['step_cosines'][i - 1]:.3f}" if 0 < i < n - 1 else "")
        rows.append([*row, *([f"{arrays['to_start'][i]:.4g}"] if has_start else [])])
    columns = ["capture", "norm", "to the mean", "to the next", "cosine of steps"]
    facts = f"{description['n_parameters']:,} parameters; norm of the mean"
    facts += f" {description['mean_norm']:.5g}"
    if has_start:
        columns.append("to the start")
        facts += f", of the start {description['start_norm']:.5g};"
        facts += f" from start to mean {description['start_to_mean']:.4g}"
    return _table(columns, rows, f"{facts}.")


EXPECTED = {
    "measured": "measured",
    "independent": "independent samples",
    "random_walk": "random walk",
    "straight": "straight line",
}

EXPLORATION = {
    "neighbour_distance": "squared distance between neighbours / 2 trΣ",
    "deviation_cosine": "cosine of neighbours' deviations",
    "step_cosine": "cosine of successive steps",
}


SQUARES = {
    "squared_to_mean": "squared distance to the mean; expected (1 − 1/n)·trΣ",
    "squared_step": "squared distance between neighbours; expected 2·trΣ",
}
"""In the units of the parameters; the first holds for any points because of how trΣ is estimated.
"""


def exploration_table(numbers: Numbers) -> Table:
    """Return measured and expected values: does the run explore, or is it still descending?"""
    found = numbers.description["exploration"]
    rows = [
        [title, *(_number(found[name][key], digits=3) for key in EXPECTED)]
        for name, title in EXPLORATION.items()
    ]
    for name, title in SQUARES.items():
        square = numbers.description.get(name)
        if square is not None:
            rows.append([title, *(_number(square.get(key), digits=None) for key in EXPECTED)])
    caption = verdict(found["neighbour_distance"])
    trace = numbers.description.get("trace")
    if trace is not None:
        caption += f" trΣ of the captures is {trace:.4g}."
    return _table(["section 3.6", *EXPECTED.values()], rows, caption)


def verdict(found: Mapping[str, float | None]) -> str:
    """Say in one line what the squared distance between neighbours means."""
    measured = found["measured"]
    if measured is None:
        return "The captures are all the same."
    walk, straight = found["random_walk"] or 0.0, found["straight"] or 0.0
    if measured >= (1 + walk) / 2:
        return "Exploring: neighbours are nearly as far apart as any two captures."
    if measured > (walk + straight) / 2:
        return "Drifting: captures move like a random walk; each stays near the one before."
    return "Still descending: captures move in one direction; average only the last few."


TABLES: Mapping[str, tuple[Callable[[Numbers], Table], ...]] = {
    "plane": (plane_table,),
    "rays": (ray_table,),
    "segment": (segment_table,),
    "trajectory": (trajectory_table, exploration_table),
}
"""The functions that tabulate each kind of measurement."""


def tables_of(numbers: Numbers) -> list[Table]:
    """Return the tables that go with a picture."""
    return [make(numbers) for make in TABLES.get(numbers.kind, ())]


def _images(numbers: Numbers) -> str:
    images = numbers.description["images"]
    text = f"{images['val']['n_samples']:,} validation and {images['train']['n_samples']:,}"
    text += " training images"
    if "bn" in images:
        text += f", BatchNorm recomputed on {images['bn']['n_samples']:,} at every point"
    elif numbers.has_stale_batchnorm:
        text += "; BatchNorm was NOT recomputed (--bn-samples 0), so the numbers are wrong for"
        text += " this network"
    return f"{text}."


def _number(value: float | None, *, digits: int | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if digits is None else f"{value:.{digits}f}"


def _interval(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return f"{low:.4g} to {high:.4g}"


def _reached(width: Mapping[str, Any], *, n_rays: int) -> str:
    if width["interval"] is not None:
        low, high = width["interval"]
        # A distance is never negative, whatever a symmetric interval says.
        return f"{max(0.0, low):.4g} to {high:.4g}"
    return f"reached on {width['n_reached']} of {n_rays}"


def _far(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.4g}"
