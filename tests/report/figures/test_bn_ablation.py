from swa_tools.report.figures.bn_ablation import bn_ablation_picture


def test_estimators_that_agree_are_all_seen(figure_of):
    points = [(256.0, 60.0), (1000.0, 62.0)]
    curves = dict.fromkeys(("population", "batch-mean", "sample-weighted"), points)
    (axes,) = figure_of(bn_ablation_picture(curves, {})).axes
    assert len({line.get_markersize() for line in axes.lines}) == 3
    assert {line.get_markerfacecolor() for line in axes.lines} == {"none"}
