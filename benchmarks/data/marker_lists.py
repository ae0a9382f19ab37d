"""Tables of marker genes with an expert's name for each list, and the answers recorded with them.

A CSV with the columns `dataset`, `tissue`, `marker` (genes, the best first, with commas between),
`manual_annotation`, `manual_CLID` and `manual_broadtype`, and the same three for each system whose
answers are recorded (`gpt4aug3_annotation`, ...; of which the first alone will do): the form of the
table of GPTCelltype (Hou and Ji 2024), of which SOAR is made. `X_agreement`, empty where a system was
not asked, is read for that alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.data.named_answers import NO_TERM, Answer, BroadTypes, split_parts
from langcell.genes.table import GeneTable
from ontology.candidates import all_cell_types
from ontology.graph import Ontology

Genes = tuple[str, ...]
_COLUMNS = ("dataset", "tissue", "marker", "manual_annotation", "manual_CLID", "manual_broadtype")


@dataclass(frozen=True, kw_only=True, eq=False)
class MarkerLists:
    """Lists of marker genes, one entry each in every field.

    Attributes
    ----------
    path: where they were read
    datasets: name of the source of each list, object, shape (n_lists,)
    tissues: as written, '' where none is, object, shape (n_lists,)
    genes: symbols, the best marker first
    truth: the expert's name
    recorded: answers by system; None where it was not asked
    worded: systems whose answers the table has in words alone
    broad_types: of all terms, as the table has them
    """

    path: Path
    datasets: np.ndarray
    tissues: np.ndarray
    genes: tuple[Genes, ...]
    truth: tuple[Answer, ...]
    recorded: dict[str, tuple[Answer | None, ...]]
    worded: frozenset[str]
    broad_types: BroadTypes

    def __len__(self) -> int:
        return len(self.genes)

    def candidates(self, ontology: Ontology) -> tuple[str, ...]:
        """Return the terms that some list is, sorted; answers of several terms are none."""
        named = {each.term_id for each in self.truth}
        return tuple(term_id for term_id in all_cell_types(ontology) if term_id in named)


def read_marker_lists(path: Path, ontology: Ontology) -> MarkerLists:
    """Read a table.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a column is missing, a list has no gene, or there are no lists.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no table of marker lists {path}")
    # "NA" is a value in some cells: a part of an answer that names no term.
    table = pd.read_csv(path, dtype=str, na_values=["", "NA"], keep_default_na=False)
    if missing := [name for name in _COLUMNS if name not in table]:
        raise ValueError(f"{path}: no column {missing[0]!r}; a table has {', '.join(_COLUMNS)}")
    table = table.fillna("")
    genes = tuple(_genes(text) for text in table["marker"])
    if not genes or not all(genes):
        where = f"row {genes.index(()) + 1} has no gene" if genes else "it has no rows"
        raise ValueError(f"{path}: {where}; marker holds symbols with commas between")
    suffix = "_annotation"
    systems = [name.removesuffix(suffix) for name in table if name.endswith(suffix)]
    answers = {name: _answers(table, name, ontology) for name in systems}
    named = [
        (each.term_id, each.broad)
        for found in answers.values()
        for each in found
        if each is not None and each.term_id is not None and each.broad
    ]
    truth = answers.pop("manual")
    return MarkerLists(
        path=path,
        datasets=table["dataset"].to_numpy(dtype=object),
        tissues=table["tissue"].to_numpy(dtype=object),
        genes=genes,
        truth=tuple(each for each in truth if each is not None),
        recorded=answers,
        worded=frozenset(name for name in answers if f"{name}_CLID" not in table),
        broad_types=BroadTypes(named, ontology),
    )


def human_symbols(genes: Sequence[Genes]) -> list[Genes]:
    """Return the lists with symbols of other species as the human genes of the same name.

    A symbol that the gene table does not know is tried in capitals, as mouse genes differ from most
    of their human counterparts ("Cd79a", "CD79A"); what is still unknown stays as it is.
    """
    table = GeneTable.bundled()
    names = np.array(sorted({name for each in genes for name in each}), dtype=object)
    capitals = np.array([name.upper() for name in names], dtype=object)
    is_known = table.resolve(names).ensembl_ids != ""
    is_human = table.resolve(capitals).ensembl_ids != ""
    human = dict(zip(names, np.where(~is_known & is_human, capitals, names), strict=True))
    return [tuple(human[name] for name in each) for each in genes]


def _genes(text: str) -> Genes:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _answers(table: pd.DataFrame, system: str, ontology: Ontology) -> tuple[Answer | None, ...]:
    n = len(table)
    columns = {
        name: table.get(f"{system}_{name}", pd.Series([""] * n)).to_numpy(dtype=object)
        for name in ("annotation", "CLID", "broadtype")
    }
    was_asked = np.full(n, True)
    if f"{system}_agreement" in table:
        was_asked = table[f"{system}_agreement"].to_numpy(dtype=object) != ""
    return tuple(
        Answer(
            label=columns["annotation"][row],
            terms=frozenset(
                ontology.current(part) or NO_TERM for part in split_parts(columns["CLID"][row])
            ),
            broad=split_parts(columns["broadtype"][row]),
        )
        if was_asked[row]
        else None
        for row in range(n)
    )
