"""From files to the training corpus, its texts, and the start of the gene embeddings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from scipy import sparse

from langcell.genes.gene_table import GeneTable
from langcell.genes.vocabulary import GeneVocabulary
from ontology.graph import Ontology
from pretrain.cells.mean_expression import type_means
from pretrain.cells.memory_corpus import Corpus, read_corpus
from pretrain.recipe.cell_config import Columns, Scale
from pretrain.recipe.config import Text
from pretrain.recipe.sources import SourceFile, label_rows
from pretrain.run.gene_init import svd_gene_embeddings
from pretrain.texts.text_table import aspect_codes, build_text_table

B, T = "CL:0000236", "CL:0000084"


@pytest.fixture
def write(tmp_path: Path, make_cells: Callable[..., anndata.AnnData]) -> Callable[..., SourceFile]:
    """Return a function that writes a file of three cells with given terms."""

    def write_file(name: str, terms: list[str], **changes: Any) -> SourceFile:
        cells = make_cells(len(terms), seed=len(name))
        cells.obs["cell_type_ontology_term_id"] = terms
        scale: Scale = changes.pop("scale", "counts")
        is_profile = changes.pop("is_profile", False)
        if "names" in changes:
            cells.var_names = changes.pop("names")
        if "transform" in changes:
            cells.X.data = changes.pop("transform")(cells.X.data)
        for column, value in changes.items():
            cells.obs[column] = value
        path = tmp_path / f"{name}.h5ad"
        cells.write_h5ad(path)
        return SourceFile(path=path, is_profile=is_profile, scale=scale)

    return write_file


def read(*files: SourceFile) -> Corpus:
    return read_corpus(files, Columns(), Ontology.bundled())


def test_rows_without_a_term_are_skipped_and_obsolete_ones_replaced(
    write: Callable[..., SourceFile],
) -> None:
    ontology = Ontology.bundled()
    old, new = next(
        (term.id, ontology.current(term.id))
        for term in ontology.terms.values()
        if term.is_obsolete and ontology.current(term.id)
    )
    file = write("a", [B, "", old, "CL:9999999"], study="s", tissue_ontology_term_id="UBERON:1")
    rows = label_rows(file.path, Columns(), ontology)
    assert rows.rows.tolist() == [0, 2]
    assert rows.term_ids.tolist() == [B, new]
    assert (rows.n_rows, rows.n_replaced, rows.unknown) == (4, 1, ("CL:9999999",))
    assert rows.studies.tolist() == ["s", "s"]
    assert rows.aspects == [("UBERON:1", "", "")] * 2


def test_values_follow_their_rows_and_genes(
    write: Callable[..., SourceFile], coding_genes: list[str]
) -> None:
    file = write("a", [B, "", T])
    corpus = read(file)
    ids = GeneTable.bundled().resolve(coding_genes).ensembl_ids
    columns = [corpus.ensembl_ids.index(gene) for gene in ids]
    written = anndata.read_h5ad(file.path).X.toarray()[[0, 2]]
    np.testing.assert_array_equal(corpus.values[:, columns].toarray(), written)
    assert corpus.values.sum() == written.sum()
    assert corpus.measured.sum() == len(columns)
    assert [corpus.term_ids[term] for term in corpus.term] == [B, T]
    assert corpus.is_integral.tolist() == [True]
    kept = corpus.keep_genes(corpus.measured[0])
    assert kept.values.shape == (2, len(columns))


def test_columns_of_one_gene_are_summed(
    write: Callable[..., SourceFile], coding_genes: list[str]
) -> None:
    names = list(coding_genes)
    names[1] = GeneTable.bundled().resolve(names[:1]).ensembl_ids[0]  # the first gene again
    file = write("a", [B, T], names=names)
    corpus = read(file)
    written = anndata.read_h5ad(file.path).X.toarray()
    column = corpus.ensembl_ids.index(names[1])
    np.testing.assert_array_equal(
        corpus.values[:, column].toarray().ravel(), written[:, 0] + written[:, 1]
    )


def test_declared_scales_become_linear(write: Callable[..., SourceFile]) -> None:
    plain = read(write("same", [B, T]))
    for scale, transform in (("log1p", np.log1p), ("log2", lambda x: np.log2(x + 1))):
        logged = read(write("same", [B, T], scale=scale, transform=transform))
        np.testing.assert_allclose(logged.values.toarray(), plain.values.toarray(), rtol=1e-5)


def test_ranked_sources_take_a_linear_scale_and_keep_their_order(
    write: Callable[..., SourceFile],
) -> None:
    linear = write("linear", [B, T], is_profile=True, scale="linear")
    ranked = write("ranked", [B, T], is_profile=True, scale="ranks", transform=np.sqrt)
    corpus = read(linear, ranked)
    written = anndata.read_h5ad(ranked.path).X
    for row in range(2):
        ours = corpus.values[2 + row].data
        assert len(ours) == written[row].nnz
        assert ours.max() < 1  # shares of a typical profile


def test_a_corpus_without_a_term_is_refused(write: Callable[..., SourceFile]) -> None:
    with pytest.raises(ValueError, match="no row of the 1 training files has a term"):
        read(write("a", ["", ""]))


def test_texts_name_the_type_and_further_aspects(write: Callable[..., SourceFile]) -> None:
    file = write("a", [B, T], tissue_ontology_term_id="UBERON:0002048", stage="adult")
    corpus = read(file)
    table = build_text_table(corpus.types, Ontology.bundled(), Text())
    b = corpus.term_ids.index(B)
    bare = [table.texts[text] for text in table.bare[b]]
    assert bare[0].startswith("cell type: B cell. A lymphocyte")
    assert {"B cell", "cell type: B cell. "} <= set(bare)
    full = [table.texts[text] for text in table.full[b, 0]]
    assert full[-1] == "cell type: B cell. tissue: lung. development stage: adult. "
    codes = aspect_codes(corpus.types)[0]
    assert table.aspects[table.full[b, 0][-1]].tolist() == codes.tolist()
    assert (table.aspects[list(table.bare[b])] == -1).all()
    assert (table.term[[*table.bare[b], *table.full[b, 0]]] == b).all()


def test_text_choice_follows_its_chances(write: Callable[..., SourceFile]) -> None:
    corpus = read(write("a", [B, T], tissue_ontology_term_id="UBERON:0002048"))
    settings = Text(definition=0.6, aspect_drop=0.75)
    table = build_text_table(corpus.types, Ontology.bundled(), settings)
    n = 4000
    terms = np.full(n, corpus.term_ids.index(B))
    chosen = table.choose(terms, np.zeros(n, int), settings, np.random.default_rng(0))
    error = 4 * 0.5 / np.sqrt(n)  # four standard errors of a share, at most
    assert abs(np.isin(chosen, table.full[terms[0], 0]).mean() - 0.25) < error
    assert abs((chosen == table.bare[terms[0]][0]).mean() - 0.75 * 0.6) < error
    assert (table.term[chosen] == terms).all()


def test_genes_of_one_type_start_close_together() -> None:
    rng = np.random.default_rng(0)
    table = GeneTable.bundled()
    genes = tuple(table.ensembl_ids[table.is_protein_coding][:80])
    terms = np.arange(40) % 4
    rates = np.ones((40, 80))
    for row, term in enumerate(terms):
        rates[row, 20 * term : 20 * (term + 1)] = 20
    corpus = Corpus(
        values=sparse.csr_matrix(rng.poisson(rates).astype(np.float32)),
        ensembl_ids=genes,
        measured=np.ones((1, 80), bool),
        sources=(SourceFile(path=Path("a.h5ad"), is_profile=False, scale="counts"),),
        source=np.zeros(40, int),
        term=terms,
        study=np.zeros(40, int),
        aspect=np.zeros(40, int),
        is_integral=np.array([True]),
        term_ids=("a", "b", "c", "d"),
        studies=("s",),
        aspects=(("", "", ""),),
        reports=(),
    )
    vocabulary = GeneVocabulary(ensembl_ids=genes, symbols=genes, medians=np.ones(80))
    embeddings = svd_gene_embeddings(
        type_means(corpus), vocabulary, width=8, std=0.02, seed=0
    ).numpy()
    assert embeddings.shape == (80, 8)
    assert embeddings.std() == pytest.approx(0.02, rel=1e-3)
    unit = embeddings[:, :3] / np.linalg.norm(embeddings[:, :3], axis=1, keepdims=True)
    same = np.arange(80)[:, None] // 20 == np.arange(80)[None, :] // 20
    similarity = unit @ unit.T
    assert similarity[same].mean() > 0.9
    assert similarity[~same].mean() < 0
