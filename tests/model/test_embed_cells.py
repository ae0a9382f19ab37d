from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from langcell.genes.gene_table import GeneTable
from langcell.genes.vocabulary import GeneVocabulary
from langcell.model import embed_cells as embed
from langcell.model.embed_cells import embed_cells
from langcell.model.langcell import LangCell
from langcell.nn.config import CellEncoderConfig, LangCellConfig, MatchingConfig
from langcell.tokens.tokenizer import RankTokenizer

# The cells are small on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:low gene coverage:UserWarning")

N_GENES = 300
MAX_GENES = 130


@dataclass(frozen=True)
class Block:
    start: int
    counts: sparse.csr_matrix
    totals: np.ndarray


class Matrix:
    """A count matrix in memory with the face that the tokenizer reads."""

    def __init__(self, counts: sparse.csr_matrix, names) -> None:
        self.counts, self.names = counts, names

    @cached_property
    def resolution(self):
        return GeneTable.bundled().resolve(self.names)

    @property
    def n_cells(self) -> int:
        return self.counts.shape[0]

    def read(self, start: int, stop: int) -> Block:
        counts = self.counts[start:stop]
        return Block(start, counts, np.asarray(counts.sum(1, dtype=np.float64)).ravel())

    def blocks(self, rows: int = 1024, *, start: int = 0, stop: int | None = None):
        stop = self.n_cells if stop is None else stop
        for first in range(start, stop, rows):
            yield self.read(first, min(first + rows, stop))


@pytest.fixture(scope="module")
def vocabulary() -> GeneVocabulary:
    table = GeneTable.bundled()
    ids = table.ensembl_ids[np.flatnonzero(table.is_protein_coding)[:N_GENES]]
    medians = np.random.default_rng(0).uniform(0.5, 5, N_GENES)
    return GeneVocabulary(ensembl_ids=tuple(ids), symbols=("",) * N_GENES, medians=medians)


@pytest.fixture(scope="module", params=["transformer", "bag"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(vocabulary, kind) -> LangCell:
    torch.manual_seed(0)
    config = LangCellConfig(
        cell=CellEncoderConfig(
            kind=kind, vocab_size=vocabulary.size, hidden_size=16, n_heads=2, n_layers=2,
            intermediate_size=32, bag_size=32 if kind == "bag" else 0, max_positions=MAX_GENES + 1,
        ),
        matching=MatchingConfig(hidden_size=8, n_heads=2, n_layers=1),
        embedding_dim=12,
        max_genes=MAX_GENES,
    )  # fmt: skip
    model = LangCell(config, vocabulary)
    for weight in model.cell_encoder.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)  # so that cells differ by more than rounding
    return model


@pytest.fixture(scope="module")
def counts() -> sparse.csr_matrix:
    """Cells of 21 to 300 genes: short, of middle length and cut at MAX_GENES."""
    rng = np.random.default_rng(1)
    dense = np.zeros((41, N_GENES), dtype=np.float32)
    for row, n_genes in enumerate(np.linspace(21, N_GENES, len(dense)).astype(int)):
        dense[row, rng.permutation(N_GENES)[:n_genes]] = rng.integers(1, 50, n_genes)
    return sparse.csr_matrix(dense)


def embed_all(model, counts, vocabulary, **options) -> np.ndarray:
    matrix: Any = Matrix(counts, vocabulary.ensembl_ids)
    blocks = list(embed_cells(model, matrix, **options))
    assert [block.start for block in blocks] == list(
        np.cumsum([0] + [len(block.features) for block in blocks[:-1]])
    )
    return np.concatenate([block.features for block in blocks])


@pytest.fixture(scope="module")
def one_by_one(model, counts, vocabulary) -> np.ndarray:
    """The slow obvious way: each cell alone, no padding, no mask."""
    genes = Matrix(counts, vocabulary.ensembl_ids).resolution
    tokenizer = RankTokenizer(vocabulary, max_genes=MAX_GENES)
    block = tokenizer.tokenize_csr(counts, tokenizer.column_genes(genes))
    rows = []
    with torch.inference_mode():
        model.eval()
        for row in range(block.n_cells):
            ids = np.concatenate([[vocabulary.cls_id], block.cell(row).astype(np.int64)])
            rows.append(model.encode_cell(torch.from_numpy(ids)[None], None).features)
    return torch.cat(rows).numpy()


def test_features_equal_cells_encoded_one_by_one(model, counts, vocabulary, one_by_one):
    got = embed_all(model, counts, vocabulary)
    assert got.dtype == np.float32 and got.shape == (41, 12)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(got, one_by_one, atol=1e-5)
    assert np.abs(got[0] - got[1]).max() > 0.01


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_changes_nothing(model, counts, vocabulary, one_by_one, batch_size):
    got = embed_all(model, counts, vocabulary, batch_size=batch_size)
    np.testing.assert_allclose(got, one_by_one, atol=1e-5)


def test_other_cells_of_the_file_change_nothing(model, counts, vocabulary, one_by_one):
    order = np.random.default_rng(2).permutation(41)
    shuffled = embed_all(model, counts[order], vocabulary)
    np.testing.assert_allclose(shuffled, one_by_one[order], atol=1e-5)
    alone = embed_all(model, counts[40], vocabulary)
    np.testing.assert_allclose(alone, one_by_one[40:], atol=1e-5)


def test_blocks_change_nothing(monkeypatch, model, counts, vocabulary, one_by_one):
    monkeypatch.setattr(embed, "BLOCK_CELLS", 16)
    done = []
    got = embed_all(model, counts, vocabulary, progress=done.append)
    np.testing.assert_allclose(got, one_by_one, atol=1e-5)
    assert done == [16, 16, 9]


def test_a_second_run_is_identical(model, counts, vocabulary):
    first, second = (embed_all(model, counts, vocabulary) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_states_are_those_of_each_cell(monkeypatch, kind, model, counts, vocabulary, one_by_one):
    monkeypatch.setattr(embed, "_STATE_FLOATS", 16 * 16 * (MAX_GENES + 1))
    matrix = Matrix(counts, vocabulary.ensembl_ids)
    blocks = list(embed_cells(model, matrix, states=True))
    assert [len(block.features) for block in blocks] == [16, 16, 9]
    lengths = np.minimum(np.diff(counts.indptr), MAX_GENES)
    for block in blocks:
        cells = block.cells
        expected = lengths[block.start : block.start + len(block.features)] + 1
        assert cells.attention_mask.sum(1).tolist() == expected.tolist()
        assert cells.states.shape == (len(block.features), expected.max(), 16)
        np.testing.assert_allclose(
            block.features, one_by_one[block.start :][: len(block.features)], atol=1e-5
        )
        if kind == "transformer":
            torch.testing.assert_close(cells.pooled, cells.states[:, 0])
        # What matching reads projects to the same features.
        projected = torch.nn.functional.normalize(model.cell_projection(cells.pooled), dim=-1)
        np.testing.assert_allclose(projected.detach(), block.features, atol=1e-5)


def test_mean_pooled_cells_do_not_see_padding(vocabulary, counts):
    torch.manual_seed(0)
    cell = CellEncoderConfig(
        vocab_size=vocabulary.size, hidden_size=16, n_heads=2, n_layers=1,
        intermediate_size=32, max_positions=MAX_GENES + 1, pooling="mean",
    )  # fmt: skip
    model = LangCell(LangCellConfig(cell=cell, max_genes=MAX_GENES), vocabulary)
    with torch.no_grad():
        model.cell_projection.weight.normal_(std=1.0)
    together = embed_all(model, counts, vocabulary)
    alone = embed_all(model, counts[3], vocabulary)
    np.testing.assert_allclose(together[3:4], alone, atol=1e-5)


def test_empty_cell_is_cls_alone(model, counts, vocabulary):
    with_empty = sparse.vstack([counts[:5], sparse.csr_matrix((1, N_GENES), dtype=np.float32)])
    with pytest.warns(UserWarning, match="1 cells express no known gene"):
        got = embed_all(model, with_empty.tocsr(), vocabulary)
    with torch.inference_mode():
        ids = torch.tensor([[vocabulary.cls_id, vocabulary.pad_id]])
        expected = model.encode_cell(ids, torch.tensor([[True, False]])).features
    np.testing.assert_allclose(got[5:], expected, atol=1e-5)


def test_a_model_in_training_stays_so_and_is_embedded_without_dropout(
    model, counts, vocabulary, one_by_one
):
    model.train()
    got = embed_all(model, counts, vocabulary)
    assert model.training
    model.eval()
    np.testing.assert_allclose(got, one_by_one, atol=1e-5)


def test_model_without_genes_says_so(model, counts, vocabulary):
    bare = LangCell(model.config)
    with pytest.raises(ValueError, match="has no gene vocabulary"):
        embed_all(bare, counts, vocabulary)


def test_encode_cells_reads_anndata_and_files(tmp_path, model, counts, vocabulary, one_by_one):
    adata = AnnData(X=counts, var={"gene": list(vocabulary.ensembl_ids)})
    adata.var_names = adata.var["gene"].to_numpy()
    np.testing.assert_allclose(model.encode_cells(adata), one_by_one, atol=1e-5)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    from_file = model.encode_cells(tmp_path / "cells.h5ad", batch_size=16)
    np.testing.assert_allclose(from_file, one_by_one, atol=1e-5)
    assert from_file.dtype == np.float32
