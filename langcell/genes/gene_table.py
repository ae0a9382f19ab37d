"""The bundled table of human genes, and the resolution of gene names to its Ensembl ids."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

import numpy as np

from langcell.genes.spellings import (
    human_ensembl_id,
    looks_coding,
    other_species,
    spellings,
    without_unique_suffix,
)

_AMBIGUOUS = -2
_UNKNOWN = -1


@dataclass(frozen=True, kw_only=True)
class GeneResolution:
    """Ensembl ids of the gene names of a file.

    Attributes
    ----------
    ensembl_ids : object array, shape (n_names,); '' where a name is unresolved or ambiguous.
    kind : 'ensembl' or 'symbol', the kind of most names.
    is_protein_coding : bool array, shape (n_names,).
    ambiguous : names that match several genes; dropped.
    unresolved : names that match no gene of the table.
    retired : Ensembl ids that the table's release no longer has; kept, since the vocabulary of an
        older model may contain them.
    duplicates : names of a gene that an earlier name already matches; their counts are summed.
    share_coding_resolved : share of the file's protein-coding genes that are resolved, 0 to 1.
    """

    ensembl_ids: np.ndarray
    kind: str
    is_protein_coding: np.ndarray
    ambiguous: list[str]
    unresolved: list[str]
    retired: list[str]
    duplicates: list[str]
    share_coding_resolved: float

    @property
    def n_resolved(self) -> int:
        """Count the names that match a gene of the table."""
        return int(np.count_nonzero(self.ensembl_ids != "")) - len(self.retired)


class GeneTable:
    """Human genes: Ensembl id, symbol, biotype, previous symbols and aliases.

    Parameters
    ----------
    text : a line `# <version>`, a header line, then one tab-separated line per gene: ensembl_id,
        symbol, biotype, is_linked (HGNC gives this id for this symbol), previous symbols and
        aliases; the last two are lists separated by `|`.
    """

    def __init__(self, text: str) -> None:
        version, _header, rows = text.rstrip("\n").split("\n", 2)
        # One flat list of all fields: 80,000 lists, one per row, are much slower.
        fields = rows.replace("\n", "\t").split("\t")
        ids, symbols, biotypes, linked, previous, aliases = (fields[i::6] for i in range(6))
        self.version = version.removeprefix("# ")
        self.ensembl_ids = np.array(ids, dtype=object)
        self.symbols = np.array(symbols, dtype=object)
        self.biotypes = np.array(biotypes, dtype=object)
        self.is_protein_coding = self.biotypes == "protein_coding"
        self._is_linked = np.array(linked, dtype=object) == "1"
        self._rows_by_id = {ensembl_id: row for row, ensembl_id in enumerate(ids)}
        self._previous, self._aliases = previous, aliases

    @staticmethod
    @cache
    def bundled() -> "GeneTable":
        """Return the table that is bundled with the package; read once."""
        packed = files("langcell").joinpath("data/genes_homo_sapiens.tsv.gz").read_bytes()
        return GeneTable(gzip.decompress(packed).decode())

    def __len__(self) -> int:
        return len(self.ensembl_ids)

    def __contains__(self, ensembl_id: str) -> bool:
        return ensembl_id in self._rows_by_id

    def symbol(self, ensembl_id: str) -> str:
        """Return the current symbol of a gene, or its id if it has none."""
        row = self._rows_by_id.get(ensembl_id, _UNKNOWN)
        return (self.symbols[row] if row >= 0 else "") or ensembl_id

    def resolve(self, names: Sequence[str] | np.ndarray) -> GeneResolution:
        """Find the Ensembl id of each name: an id (any version), symbol, previous symbol or alias.

        If several genes share a symbol, the protein-coding one is taken; among several of those,
        the one that HGNC links to the symbol. Otherwise the name is ambiguous. Matching is
        case-sensitive, so that a file of another species is refused and not partly matched.

        Raises
        ------
        ValueError
            If the names are those of another species.
        """
        names = [str(name) for name in names]
        ids = [human_ensembl_id(name) for name in names]
        found = self._find_all(names, ids)
        self._refuse_other_species(names, [row for row, _ in found])
        rows = _settle(found)
        retired = (rows == _UNKNOWN) & np.array([bool(ensembl_id) for ensembl_id in ids], bool)
        resolved = np.where(rows >= 0, self.ensembl_ids[rows], "")
        resolved[retired] = np.array(ids, dtype=object)[retired]
        kind = "ensembl" if 2 * sum(map(bool, ids)) > len(names) else "symbol"
        return self._describe(names, kind, rows, resolved, retired)

    def _describe(
        self,
        names: list[str],
        kind: str,
        rows: np.ndarray,
        resolved: np.ndarray,
        retired: np.ndarray,
    ) -> GeneResolution:
        coding = (rows >= 0) & self.is_protein_coding[rows]
        unresolved = [
            name
            for name, row, old in zip(names, rows, retired, strict=True)
            if row == _UNKNOWN and not old
        ]
        ambiguous = [name for name, row in zip(names, rows, strict=True) if row == _AMBIGUOUS]
        seen: set[str] = set()
        duplicates = []
        for name, ensembl_id in zip(names, resolved, strict=True):
            if ensembl_id and ensembl_id in seen:
                duplicates.append(name)
            seen.add(ensembl_id)
        # It is unknown whether a retired id was coding: use the coding share of the other genes.
        n_missed = sum(map(looks_coding, unresolved)) + sum(map(looks_coding, ambiguous))
        missed = n_missed + retired.sum() * coding.sum() / max(1, (rows >= 0).sum())
        return GeneResolution(
            ensembl_ids=resolved,
            kind=kind,
            is_protein_coding=coding,
            ambiguous=ambiguous,
            unresolved=unresolved,
            retired=[name for name, old in zip(names, retired, strict=True) if old],
            duplicates=duplicates,
            share_coding_resolved=float(coding.sum() / max(1.0, coding.sum() + missed)),
        )

    def current_id(self, ensembl_id: str) -> str:
        """Return the id that replaces this one in the table's release, or the id itself."""
        row = self._row_of_id(ensembl_id)
        return str(self.ensembl_ids[row]) if row >= 0 else ensembl_id

    @cached_property
    def _tiers(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        """Rows by symbol, previous symbol and alias; not needed for current Ensembl ids."""
        return (_index(self.symbols.tolist()), _index(self._previous), _index(self._aliases))

    def _row_of_id(self, ensembl_id: str) -> int:
        """Return the row of an id, or of the single id that replaced it."""
        if ensembl_id in self._rows_by_id:
            return self._rows_by_id[ensembl_id]
        replaced = self._tiers[1].get(ensembl_id, ())
        return replaced[0] if len(replaced) == 1 else _UNKNOWN

    def _find_all(self, names: list[str], ids: list[str]) -> list[tuple[int, int]]:
        """Return row and tier of each name; `ids` holds its Ensembl id if it is one, else ''."""
        present = set(names)
        found = []
        for name, ensembl_id in zip(names, ids, strict=True):
            row, tier = self._find_one(name, ensembl_id)
            if row == _UNKNOWN:
                base = without_unique_suffix(name)
                row, tier = self._find((base,) if base in present else tuple(spellings(name)))
            found.append((row, tier))
        return found

    def _find(self, candidates: Sequence[str]) -> tuple[int, int]:
        """Return row and tier (symbol, previous, alias) of the first known spelling."""
        for spelling in candidates:
            ensembl_id = human_ensembl_id(spelling)
            row, tier = self._find_one(spelling, ensembl_id)
            if ensembl_id or row != _UNKNOWN:
                return row, tier
        return _UNKNOWN, 0

    def _find_one(self, name: str, ensembl_id: str) -> tuple[int, int]:
        """Return row and tier of a name exactly as written."""
        if ensembl_id:
            return self._row_of_id(ensembl_id), 0
        for tier, index in enumerate(self._tiers):
            if name in index:
                return self._pick(index[name]), tier
        return _UNKNOWN, 0

    def _pick(self, rows: tuple[int, ...]) -> int:
        if len(rows) == 1:
            return rows[0]
        coding = [row for row in rows if self.is_protein_coding[row]]
        candidates = coding or list(rows)
        if len(candidates) > 1:
            candidates = [row for row in candidates if self._is_linked[row]]
        return candidates[0] if len(candidates) == 1 else _AMBIGUOUS

    def _refuse_other_species(self, names: list[str], rows: list[int]) -> None:
        species = other_species(names)
        upper_only = [
            name
            for name, row in zip(names, rows, strict=True)
            if row == _UNKNOWN and name != name.upper() and name.upper() in self._tiers[0]
        ]
        if species is None and len(upper_only) > max(9, sum(row >= 0 for row in rows)):
            species = "mouse or rat"
        if species is not None:
            example = upper_only[0] if upper_only else names[0]
            raise ValueError(
                f"the genes are those of {species} ({example!r}, ...), but the model knows human genes"
                " only: use human data, or map the genes to human one-to-one orthologs first"
            )


def _index(column: list[str]) -> dict[str, tuple[int, ...]]:
    """Map each name in a column (names separated by `|`) to the rows that contain it."""
    index: dict[str, tuple[int, ...]] = {}
    for row, names in enumerate(column):
        if names:
            for name in names.split("|") if "|" in names else (names,):
                rows = index.get(name)
                index[name] = (row,) if rows is None else (*rows, row)
    return index


def _settle(found: list[tuple[int, int]]) -> np.ndarray:
    """Drop aliases of genes that the file also names directly; return rows, shape (n_names,)."""
    named_directly = {row for row, tier in found if tier < 2}
    # If the file has the gene under its own name, the alias means something else.
    rows = [_AMBIGUOUS if tier == 2 and row in named_directly else row for row, tier in found]
    return np.array(rows, dtype=np.int64)
