"""MuData by modality: what is written goes into the modality, and nowhere else."""

import subprocess
import sys

import numpy as np
import pytest

from langcell.counts.modality import modality_of
from langcell.model.langcell import LangCell
from zeroshot import annotate, assign, consensus, explain, plots, search, smooth, write_report

mudata = pytest.importorskip("mudata", reason="no mudata (pip install 'langcell[mudata]')")
pytestmark = pytest.mark.filterwarnings(
    "ignore:low gene coverage",
    "ignore:.*pull_on_update:FutureWarning",  # of mudata, about what it will do some day
    "ignore:The inplace keyword:DeprecationWarning",  # of pandas 3.1, about what mudata does
)


@pytest.fixture
def mdata(make_cells):
    rna, prot = make_cells(60), make_cells(60, seed=1)[:, :10].copy()
    prot.var_names = [f"protein {number}" for number in range(10)]
    return mudata.MuData({"rna": rna, "prot": prot})


def test_results_go_into_the_modality(mdata, make_cells, tiny_bag, tmp_path):
    labels = ["B cell", "T cell", "monocyte"]
    annotate(mdata, modality="rna", labels=labels, model=str(tiny_bag))
    alone = make_cells(60)
    annotate(alone, labels=labels, model=str(tiny_bag))
    assert mdata["rna"].obs.equals(alone.obs)
    assert np.array_equal(mdata["rna"].obsm["X_langcell"], alone.obsm["X_langcell"])
    assert not any("langcell" in str(name) for name in (*mdata.obs, *mdata["prot"].obs))
    mdata["rna"].obs["leiden"] = ["0", "1"] * 30
    mdata["rna"].obs["donor"] = "a"
    for result, decoded in (
        ("smooth", smooth(mdata, modality="rna")),
        ("cluster", consensus(mdata, "leiden", modality="rna")),
        ("assigned", assign(mdata, "donor", cluster_key="leiden", modality="rna")),
    ):
        assert decoded is None and f"langcell_{result}_label" in mdata["rna"].obs
    copy = smooth(mdata, strength=30, modality="rna", copy=True)
    assert isinstance(copy, mudata.MuData)
    strengths = [
        each["rna"].uns["langcell"]["decoding"]["smooth"]["lambda"] for each in (copy, mdata)
    ]
    assert strengths == [30, 3]
    table = explain(
        mdata, cells=["cell3"], modality="rna", model=LangCell.from_pretrained(tiny_bag)
    )
    assert set(table["target"]) == {"cell3"}
    write_report(mdata, tmp_path / "x.html", modality="rna")
    assert "60 cells" in " ".join((tmp_path / "x.html").read_text().split())
    mdata["rna"].obsm["X_umap"] = np.random.default_rng(0).normal(size=(60, 2))
    assert plots.umap(mdata, modality="rna").axes
    assert plots.confusion(mdata, "cell_type", modality="rna").axes
    assert plots.composition(mdata, "leiden", modality="rna").axes


def test_a_modality_that_is_not_there(mdata, make_cells, tiny_bag):
    with pytest.raises(ValueError, match="a MuData needs modality=, .* it has rna, prot"):
        annotate(mdata, model=str(tiny_bag))
    with pytest.raises(ValueError, match="no modality 'atac'; it has rna, prot"):
        search(mdata, ["B cell"], modality="atac")
    with pytest.raises(ValueError, match="modality='rna' is for a MuData, got AnnData"):
        annotate(make_cells(3), modality="rna")
    with pytest.raises(ValueError, match="modality='rna' is for a MuData, got str"):
        annotate("x.h5ad", modality="rna")
    assert modality_of("x.h5ad", None) == "x.h5ad"


def test_nothing_of_mudata_is_imported_without_one():
    code = "import sys, zeroshot.annotation.annotator, zeroshot.plots.figures; print('mudata' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr
