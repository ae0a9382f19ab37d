"""What a corpus of shards is about, in the numbers that training uses."""

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from langcell.tokens.token_corpus import TokenCorpus
from ontology.graph import Ontology
from pretrain.cells.cell_types import CellTypes
from pretrain.cells.mean_expression import TypeMeans


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardTypes:
    """Types and aspects of a corpus, and which codes of its shards mean them.

    Attributes
    ----------
    types
        What is trained on.
    term
        Place of each term of the manifest in `types.term_ids`, -1 where it is left out.
    aspect
        Place of the aspects of each text of the corpus in `types.aspects`.
    """

    types: CellTypes
    term: np.ndarray
    aspect: np.ndarray


def shard_types(
    corpus: TokenCorpus, ontology: Ontology, *, without: Set[str] = frozenset()
) -> ShardTypes:
    """Give the types and aspects of a corpus numbers.

    Parameters
    ----------
    corpus
        Shards.
    ontology
        That the recipe names; it may be another release than that of the corpus.
    without
        Types that are left out.

    Raises
    ------
    ValueError
        If the ontology no longer has a type of the corpus.
    """
    names = corpus.manifest.categories["term"]
    present = {names[term] for term, _, _ in corpus.manifest.pairs if term >= 0}
    gone = sorted(each for each in present if ontology.current(each) != each)
    if gone:
        raise ValueError(
            f"{corpus.folder} has {gone[0]}, which is no live term of {ontology.title}; it was built"
            f" with {corpus.manifest.built['ontology']}: name that, or build it again"
        )
    term_ids = tuple(sorted(present - without))
    place = {term_id: number for number, term_id in enumerate(term_ids)}
    described = [(each.tissue, each.disease, each.stage) for each in corpus.descriptions]
    aspects = tuple(sorted(set(described)))
    aspect_place = {each: number for number, each in enumerate(aspects)}
    aspect = np.array([aspect_place[each] for each in described], dtype=np.int64)
    pairs = {
        (place[each.term_id], int(number))
        for each, number in zip(corpus.descriptions, aspect, strict=True)
        if each.term_id in place
    }
    return ShardTypes(
        types=CellTypes(term_ids=term_ids, aspects=aspects, pairs=tuple(sorted(pairs))),
        term=np.array([place.get(name, -1) for name in names], dtype=np.int64),
        aspect=aspect,
    )


def shard_type_means(corpus: TokenCorpus, types: ShardTypes, *, n_cells: int) -> TypeMeans:
    """Average over each type how high genes rank in its cells.

    Shards hold no expression: what stands for it is the share of a cell's genes that a gene
    outranks, 0 for one that is not among them.

    Parameters
    ----------
    corpus
        Shards; its first cells are a random sample, as its cells are shuffled.
    types
        Numbers of types.
    n_cells
        Size of the sample.
    """
    n_terms, n_genes = len(types.types.term_ids), corpus.vocabulary.n_genes
    totals = np.zeros((n_terms, n_genes), dtype=np.float32)
    sizes = np.zeros((n_terms, len(corpus.measured)), dtype=np.float32)
    for number, shard in enumerate(corpus.manifest.shards):
        left = n_cells - int(corpus.starts[number])
        if left <= 0:
            break
        cells = corpus.shard(number).slice(0, min(left, shard.n_cells))
        term = types.term[cells.columns["term"]]
        term[cells.columns["term"] < 0] = -1
        used = np.flatnonzero(term >= 0)
        cells, term = cells.take(used), term[used]
        lengths = np.repeat(cells.lengths, cells.lengths)
        ranks = np.arange(len(cells.tokens)) - np.repeat(cells.offsets[:-1], cells.lengths)
        rows = sparse.csr_matrix(
            (
                (1 - ranks / lengths).astype(np.float32),
                cells.tokens.astype(np.int64) - 2,
                cells.offsets,
            ),
            shape=(len(used), n_genes),
        )
        one = np.ones(len(used), dtype=np.float32)
        of_term = sparse.csr_matrix((one, (term, np.arange(len(used)))), (n_terms, len(used)))
        totals += (of_term @ rows).toarray()  # types x genes: small beside a shard
        np.add.at(sizes, (term, cells.columns["file"]), 1)
    n_measured = sizes @ corpus.measured.astype(np.float32)  # (n_terms, n_genes)
    vocabulary = corpus.vocabulary
    order = np.argsort(vocabulary.gene_tokens)
    return TypeMeans(
        values=totals / np.maximum(n_measured, 1),
        measured=n_measured > 0,
        term=np.arange(n_terms),
        ensembl_ids=tuple(vocabulary.ensembl_ids[gene] for gene in order),
    )
