from swa_tools.report.figures.surface_labels import series_colors
from swa_tools.report.style import THEMES


def test_average_and_conventional_training_keep_their_colors_among_others():
    swa = {"name": "swa.safetensors", "kind": "average"}
    one, two = ({"name": f"{name}.safetensors", "kind": "checkpoint"} for name in "ab")
    for theme in THEMES.values():
        assert series_colors([swa, one], theme) == [theme.swa, theme.sgd]
        assert series_colors([one, swa], theme) == [theme.sgd, theme.swa]
        assert series_colors([one], theme) == [theme.sgd]
        assert series_colors([one, two, swa, swa], theme) == [
            *(theme.sgd, theme.others[0], theme.swa, theme.others[1])
        ]
