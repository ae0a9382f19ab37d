"""Read tables of marker lists with an expert's name for each list, and recorded answers.

A CSV with the columns `dataset`, `tissue`, `marker` (comma-separated genes, the best first),
`manual_annotation`, `manual_CLID` and `manual_broadtype`, and the same three for each system with
recorded answers (`gpt4aug3_annotation`, ...; only the first is required). This is the format of the
table of GPTCelltype (Hou and Ji 2024), on which SOAR is based. `X_agreement` is only used to find
lists that a system was not asked for, where it is empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.data.named_answers import NO_TERM, Answer, BroadTypes, split_parts
from langcell.genes.gene_table import GeneTable
from ontology.candidates import all_cell_types
from ontology.graph import Ontology

Genes = tuple[str, ...]
_COLUMNS = ("dataset", "tissue", "marker", "manual_annotation", "manual_CLID", "manual_broadtype")


@dataclass(frozen=True, kw_only=True, eq=False)
class MarkerLists:
    """Marker lists, with one entry per list in every field.

    Attributes
    ----------
    path: file of the table
    datasets: source of each list, object, shape (n_lists,)
    tissues: tissue of each list as written, '' if missing, object, shape (n_lists,)
    genes: symbols, the best marker first
    truth: the expert's answer
    recorded: answers by system; None if it was not asked
    worded: systems whose answers are recorded as text only
    broad_types: broad types of all terms of the table
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
        """Return the terms of all lists whose truth is a single term, sorted."""
        named = {each.term_id for each in self.truth}
        return tuple(term_id for term_id in all_cell_types(ontology) if term_id in named)


def read_marker_lists(path: Path, ontology: Ontology) -> MarkerLists:
    """Read a table.

    Raises
    ------
    FileNotFoundError
        If the file is missing.
    ValueError
        If a column is missing, a list has no gene, or there are no lists.
    """
    if not path.is_file():
        raise FileNotFoundError(f"table of marker lists {path} does not exist")
    # "NA" is a value: a part of an answer that is not a term.
    table = pd.read_csv(path, dtype=str, na_values=["", "NA"], keep_default_na=False)
    if missing := [name for name in _COLUMNS if name not in table]:
        raise ValueError(
            f"{path}: column {missing[0]!r} is missing; a table needs {', '.join(_COLUMNS)}"
        )
    table = table.fillna("")
    genes = tuple(_genes(text) for text in table["marker"])
    if not genes or not all(genes):
        where = f"row {genes.index(()) + 1} has no gene" if genes else "it has no rows"
        raise ValueError(f"{path}: {where}; the column marker must hold comma-separated symbols")
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
    """Return the lists with symbols of other species replaced by human genes of the same name.

    An unknown symbol is tried in capitals, as most mouse symbols differ from the human ones only in
    case ("Cd79a", "CD79A"); symbols that are still unknown are kept.
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
