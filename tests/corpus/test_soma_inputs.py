"""SOMA experiments: the same corpus as from the h5ad that they were made of."""

import builtins
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langcell.tokens.token_corpus import TokenCorpus
from pretrain.corpus import inputs as corpus_inputs
from pretrain.corpus.build import build_corpus
from pretrain.corpus.options import BuildOptions
from pretrain.corpus.soma_inputs import is_soma
from tests.support.corpus_files import cells_by_origin, make_study

OPTIONS = BuildOptions(min_genes=20, max_genes=64, shard_cells=40)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, coding_genes: list[str]) -> Path:
    """Folder with an h5ad and the experiment made of it."""
    io = pytest.importorskip("tiledbsoma.io")
    folder = tmp_path_factory.mktemp("soma")
    cells = make_study(
        coding_genes, 60, seed=0, is_primary_data=[True, True, False] * 20, dataset_id="x"
    )
    cells.write_h5ad(folder / "a.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library that writes, not of ours that reads
        io.from_anndata(str(folder / "a"), cells, measurement_name="RNA", X_layer_name="raw")
    return folder


def build(folder: Path, given: str, **changes: Any) -> TokenCorpus:
    build_corpus(folder, [given], BuildOptions(**{**vars(OPTIONS), **changes}))
    return TokenCorpus(folder)


def test_an_experiment_gives_the_cells_of_its_h5ad(stored: Path, tmp_path: Path) -> None:
    ours = build(tmp_path / "soma", str(stored / "a"))
    theirs = build(tmp_path / "h5ad", str(stored / "a.h5ad"))
    assert len(ours) == 40
    np.testing.assert_array_equal(ours.vocabulary.medians, theirs.vocabulary.medians)
    found, wanted = cells_by_origin(ours), cells_by_origin(theirs)
    assert found.keys() == wanted.keys()
    for origin, tokens in wanted.items():
        np.testing.assert_array_equal(found[origin], tokens)
    assert ours.manifest.categories == theirs.manifest.categories
    assert ours.manifest.pairs == theirs.manifest.pairs


def test_slices_and_filters_of_an_experiment(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_inputs, "_SLICE_ROWS", 25)
    corpus = build(tmp_path / "soma", str(stored / "a"), obs_filter="donor_id == 'd1'")
    rows = sorted(row for _, row in cells_by_origin(corpus))
    assert rows == [row for row in range(60) if row % 2 == 1 and row % 3 != 2]
    assert corpus.manifest.categories["file"] == ("a[0:25]", "a[25:50]", "a[50:60]")


def test_what_an_experiment_lacks_is_named(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no layer 'counts' of X; it has raw"):
        build(tmp_path / "one", str(stored / "a"), soma_layer="counts")
    with pytest.raises(ValueError, match="no measurement 'ATAC'; it has RNA"):
        build(tmp_path / "two", str(stored / "a"), measurement="ATAC")
    with pytest.raises(ValueError, match="cannot be opened as a SOMA experiment"):
        build(tmp_path / "three", f"file://{tmp_path}/nowhere")


def test_without_the_library_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def refusing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "tiledbsoma":
            raise ImportError(name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(ImportError, match=r"pip install 'langcell\[census\]'"):
        build(tmp_path / "corpus", "census:2025-11-08")


def test_experiments_are_known_by_name_or_folder(stored: Path) -> None:
    assert is_soma("census:2025-11-08") and is_soma("s3://bucket/x") and is_soma(str(stored / "a"))
    assert not is_soma(str(stored / "a.h5ad"))
