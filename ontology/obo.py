"""Read ontologies in OBO format, with obonet."""

import gzip
import re
from pathlib import Path
from typing import Any

import networkx
import obonet

from ontology.term import OntologySource, Synonym, Term, clean_definition, clean_release

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_SYNONYM = re.compile(r'"((?:[^"\\]|\\.)*)"(?:\s+(EXACT|BROAD|NARROW|RELATED)\b)?')
_ESCAPED = re.compile(r"\\(.)")


def read_obo(path: str | Path) -> OntologySource:
    """Read an .obo or .obo.gz file.

    Parents are the is_a edges only. All other relations are stored in ``Term.related``, under
    their readable name (``part_of``, ``develops_from``) if the file defines one.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is not OBO, has no term, or defines something twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"ontology file {path} does not exist")
    graph = _parse(path)
    relation_names = {
        typedef["id"]: typedef["name"].replace(" ", "_")
        for typedef in graph.graph["typedefs"]
        if typedef.get("name")
    }
    try:
        terms = {
            str(node): _term(str(node), record, _edges(graph, node, relation_names))
            for node, record in graph.nodes(data=True)
            if "name" in record  # a node without a name is only the target of a relation
        }
    except ValueError as error:
        raise ValueError(f"{path} is not a well-formed OBO file: {error}") from error
    if not terms:
        raise ValueError(f"{path} has no [Term] with an id and a name; is it an OBO file?")
    used = {relation for term in terms.values() for relation, _ in term.related}
    return OntologySource(
        name=str(graph.graph.get("ontology", path.name.split(".")[0])),
        release=clean_release(str(graph.graph.get("data-version", "unknown"))),
        relations=("is_a", *sorted(used)),
        terms=terms,
    )


def _parse(path: Path) -> networkx.MultiDiGraph:
    """Read the file with obonet; turn its errors about broken files into one-line ValueErrors."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            graph = obonet.read_obo(lines, ignore_obsolete=False)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; is it an OBO file?") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(
            f"{path} is not a complete gzip file ({error}); download it again"
        ) from error
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # Raised by obonet's parser for a malformed line.
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is not a well-formed OBO file: {what}") from error
    return graph


def _edges(
    graph: networkx.MultiDiGraph, node: str, relation_names: dict[str, str]
) -> list[tuple[str, str]]:
    return [
        (relation_names.get(relation, relation), str(target))
        for _, target, relation in graph.out_edges(node, keys=True)
    ]


def _term(term_id: str, record: dict[str, Any], edges: list[tuple[str, str]]) -> Term:
    synonyms = [_synonym(text) for text in record.get("synonym", [])]
    quoted = _QUOTED.match(record.get("def", ""))
    replaced_by = record.get("replaced_by", [])
    return Term(
        id=term_id,
        name=_unescape(record["name"]),
        definition=clean_definition(_unescape(quoted[1])) if quoted else "",
        synonyms=tuple(synonym.text for synonym in synonyms if synonym.scope == "EXACT"),
        loose_synonyms=tuple(synonym for synonym in synonyms if synonym.scope != "EXACT"),
        parents=tuple(sorted(target for relation, target in edges if relation == "is_a")),
        related=tuple(sorted(edge for edge in edges if edge[0] != "is_a")),
        is_obsolete=record.get("is_obsolete") == "true",
        # With two replacements the user has to choose.
        replaced_by=replaced_by[0] if len(replaced_by) == 1 else None,
        consider=tuple(record.get("consider", []))
        + (tuple(replaced_by) if len(replaced_by) > 1 else ()),
    )


def _synonym(text: str) -> Synonym:
    match = _SYNONYM.match(text)
    if match is None:
        raise ValueError(f"synonym without quotation marks: {text}")
    # The default of the OBO format if the scope is missing.
    return Synonym(text=_unescape(match[1]), scope=match[2] or "RELATED")


def _unescape(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)
