"""Baselines that use other marker lists with their names, and no cells.

Both hold out the dataset of the list. Genes are weighted by inverse document frequency,
log(lists / lists with the gene).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse

from benchmarks.data.marker_lists import MarkerLists, human_symbols
from benchmarks.data.named_answers import Answer

_NEIGHBOURS = 20


class GeneListNeighbors:
    """Nearest-neighbour baseline over the genes of marker lists.

    The nearest lists vote for their terms, or their wording if it has no term, with weight cosine
    squared. Of several wordings of the same terms the nearest is returned.
    """

    name = "gene-list-knn"

    def answers(self, lists: MarkerLists) -> list[Answer]:
        """Return an answer to each list, without a label if no gene is shared."""
        found: list[Answer] = [Answer(label="")] * len(lists)
        for rows, others, genes in _left_out(lists):
            cosine = (genes[rows] @ genes[others].T).toarray()  # (n_rows, n_others)
            for row, near in zip(rows, cosine, strict=True):
                order = np.argsort(-near, kind="stable")[:_NEIGHBOURS]
                names = [lists.truth[others[place]] for place in order if near[place] > 0]
                if names:
                    found[row] = _elected(names, near[order[: len(names)]] ** 2)
        return found


class MarkerListOverlap:
    """Overlap baseline: predict the name whose combined lists contain most of the genes."""

    name = "marker-overlap"

    def answers(self, lists: MarkerLists) -> list[Answer]:
        """Return an answer to each list, without a label if no gene is shared."""
        found: list[Answer] = [Answer(label="")] * len(lists)
        for rows, others, genes in _left_out(lists):
            names: dict[object, Answer] = {}
            for each in others:
                names.setdefault(_meaning(lists.truth[each]), lists.truth[each])
            place = {meaning: at for at, meaning in enumerate(names)}
            columns = [place[_meaning(lists.truth[each])] for each in others]
            joins = sparse.csr_matrix((np.ones(len(others)), (columns, np.arange(len(others)))))
            profiles = joins @ genes[others]  # (n_names, n_genes), summed over the lists of a name
            overlap = (genes[rows] @ profiles.T).toarray()
            # A name with many lists contains many genes by chance.
            overlap /= np.sqrt(np.asarray(profiles.multiply(profiles).sum(axis=1)).ravel() + 1e-9)
            for row, shared in zip(rows, overlap, strict=True):
                if shared.any():
                    found[row] = list(names.values())[int(shared.argmax())]
        return found


class RandomName:
    """Predict the name of a random list of another dataset."""

    name = "random"

    def __init__(self, *, seed: int = 0) -> None:
        self._seed = seed

    def answers(self, lists: MarkerLists) -> list[Answer]:
        """Return the name of a uniformly drawn list for each list."""
        rng = np.random.default_rng(self._seed)
        found: list[Answer] = [Answer(label="")] * len(lists)
        for rows, others, _ in _left_out(lists):
            for row in rows:
                found[row] = lists.truth[int(rng.choice(others))]
        return found


def _elected(names: Sequence[Answer], votes: np.ndarray) -> Answer:
    """Return the name with the most votes."""
    total: dict[object, float] = {}
    for name, vote in zip(names, votes, strict=True):
        total[_meaning(name)] = total.get(_meaning(name), 0.0) + vote
    return max(names, key=lambda each: total[_meaning(each)])


def _meaning(name: Answer) -> object:
    return name.terms or name.label.lower()


def _left_out(
    lists: MarkerLists,
) -> Iterator[tuple[np.ndarray, np.ndarray, sparse.csr_matrix]]:
    """Yield the rows of each dataset, the other rows, and unit gene vectors of all rows."""
    genes = human_symbols(lists.genes)
    vocabulary = {name: at for at, name in enumerate(sorted({g for each in genes for g in each}))}
    sizes = [len(each) for each in genes]
    columns = [vocabulary[name] for each in genes for name in each]
    matrix = sparse.csr_matrix(
        (np.ones(len(columns)), columns, np.append(0, np.cumsum(sizes))),
        shape=(len(genes), len(vocabulary)),
    )
    for dataset in dict.fromkeys(lists.datasets):
        rows = np.flatnonzero(lists.datasets == dataset)
        others = np.flatnonzero(lists.datasets != dataset)
        if not len(others):
            raise ValueError(
                f"{lists.path}: all lists are of the dataset {dataset!r}, but neighbours must come "
                "from other datasets"
            )
        n_with = np.asarray((matrix[others] > 0).sum(axis=0)).ravel()
        weights = np.log(len(others) / np.maximum(n_with, 1)) * (n_with > 0)
        weighted = matrix @ sparse.diags(weights)
        norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        yield rows, others, (sparse.diags(1 / np.maximum(norms, 1e-9)) @ weighted).tocsr()
