"""Figures of an annotated AnnData."""

import anndata
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from zeroshot import plots
from zeroshot.plots import panels as drawing

NAMES = {"CL:0000236": "B cell", "CL:0000084": "T cell", "CL:0000542": "lymphocyte"}


@pytest.fixture
def named():
    """60 cells with a map, calls with confidence, and labels."""
    rng = np.random.default_rng(0)
    ids = np.array(list(NAMES) * 20)
    names = [NAMES[each] for each in ids]
    obs = pd.DataFrame(
        {
            "langcell_label": names,
            "langcell_ontology_term_id": ids,
            "langcell_leaf_label": names,
            "langcell_leaf_ontology_term_id": ids,
            "langcell_confidence": np.tile([0.95, 0.95, 0.55], 20),
            "langcell_margin": rng.uniform(size=60),
            "cell_type": ["B cell", "B cell", "B cell"] * 20,
            "many": [f"type {i}" for i in range(20)] * 3,
            "donor": ["d1", "d2"] * 30,
        },
        index=[f"cell{i}" for i in range(60)],
    )
    adata = anndata.AnnData(X=np.ones((60, 3), np.float32), obs=obs)
    adata.obsm["X_umap"] = rng.normal(size=(60, 2))
    return adata


def _colours(pixels):
    flat = (pixels.reshape(-1, 3) * 255).round().astype(int)
    distinct, n = np.unique(flat, axis=0, return_counts=True)
    return {tuple(each) for each in distinct[n > 300]}


def test_a_label_has_one_colour_in_all_panels(named, tmp_path):
    named.obs["again"] = named.obs["cell_type"] = named.obs["langcell_label"]
    plots.umap(named, ["cell_type", "again"], title=["", ""], save=tmp_path / "same.png")
    picture = imread(tmp_path / "same.png")[:, :, :3]
    half = picture.shape[1] // 2
    assert _colours(picture[:, :half]) == _colours(picture[:, half:])
    assert len(_colours(picture)) >= 5  # three labels, black and white
    plots.umap(named, ["cell_type", "many"], save=tmp_path / "many.png", max_labels=4)
    grey = (208, 208, 208)  # what is beyond the four largest
    assert grey in _colours(imread(tmp_path / "many.png")[:, :, :3])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.png", "same.png"]


def test_the_calls_are_drawn_by_default_and_numbers_get_a_bar(named):
    figure = plots.umap(named)
    assert [axes.get_title() for axes in figure.axes] == ["langcell_label"]
    assert len(plots.umap(named, "langcell_confidence").axes) == 2


def test_a_panel_is_drawn_into_the_axes_given(named):
    figure = drawing.new_figure(4, 4)
    axes = figure.subplots()
    assert plots.umap(named, "donor", ax=axes) is figure
    assert axes.get_title() == "donor"
    with pytest.raises(ValueError, match="one column with ax; got 2 columns"):
        plots.umap(named, ["donor", "many"], ax=axes)


def test_no_map_and_no_column_are_one_line(named):
    with pytest.raises(ValueError, match="no column 'nope' in obs; it has"):
        plots.umap(named, "nope")
    del named.obsm["X_umap"]
    with pytest.raises(ValueError, match="no embedding 'X_umap' in obsm.*scanpy.tl.umap"):
        plots.umap(named)


def test_confusion_writes_shares_of_each_label(named):
    figure = plots.confusion(named, "cell_type")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["33%", "33%", "33%"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["B cell"]
    columns = [
        x.get_text()
        for x in plots.confusion(named, "cell_type", max_calls=1).axes[0].get_xticklabels()
    ]
    assert columns[1:] == ["other types"]


def test_composition_adds_up_to_one(named):
    axes = plots.composition(named, "donor").axes[0]
    bars = [patch for patch in axes.patches if patch.get_width() < 0.8 and patch.get_height() > 0.1]
    ends = {}
    for bar in bars:
        row = round(bar.get_y() + bar.get_height() / 2)
        ends[row] = max(ends.get(row, 0), bar.get_x() + bar.get_width())
    assert ends == {0: pytest.approx(1), 1: pytest.approx(1)}


def test_reliability_counts_a_broader_call_as_right(named):
    # Confident calls are B cell (right) and T cell (wrong), doubtful ones lymphocyte (true).
    axes = plots.reliability(named, "cell_type").axes[0]
    line = axes.lines[1]
    assert line.get_xdata() == pytest.approx([0.55, 0.95])
    assert line.get_ydata() == pytest.approx([1.0, 0.5])
    assert axes.get_title() == f"expected calibration error {(20 * 0.45 + 40 * 0.45) / 60:.3f}"


def test_reliability_needs_confidence(named):
    del named.obs["langcell_confidence"]
    with pytest.raises(ValueError, match="no langcell_confidence in obs; annotate the AnnData"):
        plots.reliability(named, "cell_type")


def test_no_display_and_no_global_state_are_needed(named):
    plots.umap(named)
    assert not matplotlib._pylab_helpers.Gcf.figs  # what pyplot holds and a notebook would keep
