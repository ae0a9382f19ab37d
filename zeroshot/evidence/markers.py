"""Find the markers in a term's definition, such as "CD8-positive" or "expresses the marker SST"."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from langcell.genes.gene_table import GeneTable
from ontology.term import Term

_SIGNED = re.compile(
    r"(?<![\w/-])([A-Za-z][\w./]*(?:-\w+)*?)(?:[- ](positive|negative|high|low|bright|dim)\b|(\+))"
)
_ABSENT = frozenset({"negative", "low"})  # dim counts as expressed
_CLAUSE = re.compile(r"[^;.]+(?:\.(?=\w)[^;.]+)*")
# Words that say whether the genes after them are expressed, up to the next such words.
_CUE = re.compile(
    r"(?P<absent>(?:lack|absence|absent|loss|without|not|no|negative for)\b\w*"
    r"(?: \w+){0,2}? express\w*|lack\w*|absence of|negative for|without)(?:(?: [\w-]+){0,5} markers?)?"
    r"|(?P<present>express\w*|markers?\b|co-express\w*)",
    re.IGNORECASE,
)
# Words that may be gene symbols: at least three characters, with a digit or two capitals.
_SYMBOL = re.compile(
    r"(?<![\w/-])(?=[A-Za-z]*(?:\d|[A-Z]\w*[A-Z]))[A-Z][A-Za-z0-9]{2,}(?:-\d\w*)?\b(?!\.\d)"
)


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A marker of a cell type, and how it is expected to be expressed.

    Attributes
    ----------
    name: name in the ontology
    expected: "positive", "negative", "high", "low", "bright" or "dim"
    symbols: genes of the marker, any of which counts; empty for markers that gene counts cannot
        show (isoforms, sugars, mouse antigens)
    """

    name: str
    expected: str
    symbols: tuple[str, ...]

    @property
    def is_present(self) -> bool:
        """Whether cells of the type should express it."""
        return self.expected not in _ABSENT


def term_markers(term: Term) -> tuple[Marker, ...]:
    """Return the markers in the name and definition of a term, in order of mention.

    If a marker is mentioned twice, the first mention counts.

    >>> from ontology.graph import Ontology
    >>> term = Ontology.bundled().terms["CL:0002396"]
    >>> [(each.name, each.expected, each.symbols) for each in term_markers(term)][:2]
    [('CD14', 'low', ('CD14',)), ('CD16', 'positive', ('FCGR3A', 'FCGR3B'))]
    """
    found: dict[tuple[str, ...] | str, Marker] = {}
    for marker in (*_signed(f"{term.name}. {term.definition}"), *_mentioned(term.definition)):
        found.setdefault(marker.symbols or marker.name.lower(), marker)
    return tuple(found.values())


def _signed(text: str) -> Iterator[Marker]:
    """Yield the markers before "-positive", "-low" or "+"."""
    for name, sign, plus in _SIGNED.findall(text):
        symbols = _surface_symbols(name)
        if symbols is not None:
            yield Marker(name=name, expected="positive" if plus else sign, symbols=symbols)


def _mentioned(text: str) -> Iterator[Marker]:
    """Yield gene symbols after "expresses", "marker" or "lacks" in the same clause."""
    for clause in _CLAUSE.findall(text):
        cues = list(_CUE.finditer(clause))
        for word in _SYMBOL.finditer(clause):
            before = [cue for cue in cues if cue.end() <= word.start()]
            # In "CD8-expressing" and "PAX6 expression" the gene comes first.
            after = [cue for cue in cues if 0 <= cue.start() - word.end() <= 1]
            symbols = _mentioned_symbols(word[0])
            if symbols and (before or after):
                is_absent = (before or after)[-1]["absent"] is not None
                expected = "negative" if is_absent else "positive"
                yield Marker(name=word[0], expected=expected, symbols=symbols)


@cache
def _surface_symbols(name: str) -> tuple[str, ...] | None:
    """Return the genes of a surface marker, () if gene counts cannot show it, None if not one."""
    if name.lower() in _surface_names():
        return _surface_names()[name.lower()]
    if len(name) < 3 or not re.search(r"[A-Z0-9]", name):
        return None  # "has high", "to low"
    table = GeneTable.bundled()
    found = table.resolve([name]).ensembl_ids[0] or table.resolve([name.upper()]).ensembl_ids[0]
    return (table.symbol(found),) if found else None


def _mentioned_symbols(word: str) -> tuple[str, ...] | None:
    if word.lower() in _surface_names():
        return _surface_names()[word.lower()]
    # Only current symbols: an old alias may equal an ordinary word by chance. Mouse spelling, such
    # as "Trem2", means the human gene of that name.
    if word.upper() in _coding_symbols():
        return (word.upper(),)
    is_surface = re.fullmatch(r"CD\d+[a-z]?", word) is not None
    return _surface_symbols(word) if is_surface else None


@cache
def _coding_symbols() -> frozenset[str]:
    table = GeneTable.bundled()
    return frozenset(table.symbols[table.is_protein_coding])


@cache
def _surface_names() -> dict[str, tuple[str, ...]]:
    """Read ``zeroshot/data/surface_names.tsv``: surface markers that the gene table does not map."""
    text = (files("zeroshot") / "data" / "surface_names.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return {name.lower(): tuple(filter(None, genes.split("|"))) for name, genes, _note in rows}
