"""The command `langcell ontology`: describe a term, resolve labels, show the tree."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ontology.graph import Ontology

app = typer.Typer(
    name="ontology",
    help="Look up cell types in the Cell Ontology: descriptions, ids, ancestors and descendants.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_Term = Annotated[str, typer.Argument(help="A Cell Ontology id, name or synonym.")]
_Obo = Annotated[
    Path | None,
    typer.Option(help="An .obo or .obo.gz file to read instead of the bundled release."),
]


@app.command()
def describe(term: _Term, obo: _Obo = None) -> None:
    """Print the description of a cell type that the models read.

    Examples: langcell ontology describe "B cells"; langcell ontology describe CL:0000236
    """
    from ontology.descriptions import describe as describe_term

    ontology = _read(obo)
    typer.echo(describe_term(ontology, _term_id(ontology, term)))


@app.command()
def resolve(
    labels: Annotated[
        list[str] | None, typer.Argument(help="Cell type labels, as free text or ids.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A text file with one label per line.")] = None,
    obo: _Obo = None,
) -> None:
    """Print the Cell Ontology id of each label as a tab-separated table.

    A label that is unknown or ambiguous gets no id but suggestions; the exit status is then 1.

    Examples: langcell ontology resolve "NK cells" pDC; langcell ontology resolve --file labels.txt
    """
    import csv
    import sys

    from ontology.labels import LabelResolver

    wanted = [*(labels or ()), *(_read_labels(file) if file else ())]
    if not wanted:
        raise typer.BadParameter("pass labels as arguments, or a file of labels with --file")
    ontology = _read(obo)
    resolutions = LabelResolver(ontology).resolve(wanted)
    table = csv.writer(sys.stdout, delimiter="\t", lineterminator="\n")
    table.writerow(["label", "id", "name", "how", "suggestions"])
    for found in resolutions:
        name = ontology.terms[found.term_id].name if found.term_id else ""
        near = "; ".join(_title(ontology, term_id) for term_id in found.suggestions)
        table.writerow([found.label, found.term_id or "", name, found.how, near])
    n_unresolved = sum(found.term_id is None for found in resolutions)
    if n_unresolved:
        typer.echo(f"{n_unresolved} of {len(resolutions)} labels have no id", err=True)
        raise typer.Exit(1)


@app.command()
def tree(
    term: _Term,
    depth: Annotated[int, typer.Option(min=0, help="Depth to show.")] = 2,
    up: Annotated[bool, typer.Option("--up", help="Show the ancestors instead.")] = False,
    obo: _Obo = None,
) -> None:
    """Print the descendants of a cell type as a tree, or with --up its ancestors.

    A term that occurs several times is expanded only the first time and then marked "...".

    Examples: langcell ontology tree "T cell" --depth 1; langcell ontology tree CL:0000236 --up
    """
    ontology = _read(obo)
    neighbours = ontology.parents if up else ontology.children
    expanded: set[str] = set()
    # Depth-first with a stack, so that each term is printed right before its own subtree.
    stack = [(_term_id(ontology, term), 0)]
    while stack:
        term_id, level = stack.pop()
        following = neighbours(term_id) if level < depth else ()
        seen = " ..." if following and term_id in expanded else ""
        typer.echo(f"{'  ' * level}{_title(ontology, term_id)}{seen}")
        if not seen and following:
            expanded.add(term_id)
            by_name = sorted(following, key=lambda i: ontology.terms[i].name.lower(), reverse=True)
            stack.extend((next_id, level + 1) for next_id in by_name)


def _read(obo: Path | None) -> "Ontology":
    """Read the ontology and print its name and release on stderr."""
    from ontology.graph import Ontology

    ontology = Ontology.from_obo(obo) if obo else Ontology.bundled()
    typer.echo(f"{ontology.title}, {len(ontology.ids):,} terms", err=True)
    return ontology


def _read_labels(file: Path) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(f"label file {file} does not exist")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text; expected one label per line") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _term_id(ontology: "Ontology", label: str) -> str:
    """Resolve one label; raise with the nearest terms if it does not resolve."""
    from ontology.labels import LabelResolver

    found = LabelResolver(ontology).resolve([label])[0]
    if found.term_id is None:
        near = "; ".join(_title(ontology, term_id) for term_id in found.suggestions)
        hint = f"; did you mean {near}?" if near else ""
        raise ValueError(f"{label!r} is {found.how} in {ontology.title}{hint}")
    return found.term_id


def _title(ontology: "Ontology", term_id: str) -> str:
    return f"{term_id} {ontology.terms[term_id].name}"
