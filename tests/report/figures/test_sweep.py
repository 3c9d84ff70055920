from swa_tools.report.figures.sweep import sweep_picture


def test_sweep_says_what_its_bands_are(figure_of):
    picture = sweep_picture({"first n": [(1, 60.0, 1000), (2, 64.5, 1000)]})
    assert "95 %" in picture.message
    assert "95 %" in figure_of(picture).axes[0].get_ylabel()
