"""Parse gene names of published files: Ensembl ids, other species, spellings, non-coding names."""

import re
from collections.abc import Iterator, Sequence

_HUMAN_ID = re.compile(r"ENSG(?:R\d{10}|\d{11})(?:\.\d+)?(?:_PAR_Y)?")
_ID_AT_END = re.compile(r"ENSG\d{11}$")
_OTHER_ID = re.compile(r"ENS(?!G\d)([A-Z]{3,4})G\d{11}(?:\.\d+)?")
_SPECIES = {"MUS": "mouse", "RNO": "rat", "MMU": "macaque", "DAR": "zebrafish", "SSC": "pig"}
_GENOME_PREFIX = re.compile(r"(?:GRCh3[78]|hg19|hg38)_+")
_OPEN_READING_FRAME = re.compile(r"(C(?:\d+|X|Y))ORF(\d+)(.*)")
_UNIQUE_SUFFIX = re.compile(r"[-.]\d{1,2}")
# Clone names, accessions, RNA families and antisense transcripts are not protein coding.
_NON_CODING = re.compile(
    r"(?:RP\d+|CT[ABCD]|XX\w*|KB|GS\d|LL\d+\w*|CH\d+|hsa|snoU?\d*|U\d|SNOR[AD]|SCARNA|RNU|RNA?5|RNVU|RN7|MIR|LINC|LOC|TRNA|"
    r"NCRNA|FLJ|KIAA|MGC|DKFZ|IMAGE|ERCC)[-.\d_]\S*|\d\S*|Y_RNA|7SK|Metazoa_SRP|\S+[-.](?:AS\d*|IT\d|OT\d|DT)|"
    r"(?:SNOR[AD]|RNU|MIR|LINC|LOC|RNA5|RN7|MTND|MTCO)\S*|[A-Z]{1,2}\d{5,6}\.\d+"
)


def human_ensembl_id(name: str) -> str:
    """Return a name as a human Ensembl gene id without version, or '' if it is not one.

    Pseudo-autosomal copies on Y (`ENSGR...`, `..._PAR_Y`) get the id of the copy on X.

    >>> human_ensembl_id("ENSG00000002586.20_PAR_Y")
    'ENSG00000002586'
    """
    if not name.startswith("ENSG") or not _HUMAN_ID.fullmatch(name):
        return ""
    return name[:15].replace("R", "0")


def other_species(names: Sequence[str]) -> str | None:
    """Return the non-human species if most names are Ensembl ids of one, else None."""
    matches = [match for name in names if (match := _OTHER_ID.fullmatch(name))]
    if 2 * len(matches) <= len(names):
        return None
    return _SPECIES.get(matches[0][1], f"a species with ids such as {matches[0][0]}")


def spellings(name: str) -> Iterator[str]:
    """Yield other spellings of the same human gene, the most reliable first.

    Handles a genome prefix (`GRCh38_TP53`), a symbol joined to its id (`U6_ENSG00000278757`),
    R's dots for hyphens (`HLA.A`) and upper-cased open reading frames (`C1ORF112`).
    """
    if match := _ID_AT_END.search(name):
        yield match[0]
    if match := _GENOME_PREFIX.match(name):
        yield name[match.end() :]
    if "." in name:
        yield name.replace(".", "-")
        yield name.replace(".", "-", 1)
    if match := _OPEN_READING_FRAME.fullmatch(name):
        yield f"{match[1]}orf{match[2]}{match[3]}"


def without_unique_suffix(name: str) -> str:
    """Drop the suffix that anndata (`-1`) or R (`.1`) adds to a repeated name; '' without one."""
    match = _UNIQUE_SUFFIX.fullmatch(name, max(name.rfind("-"), name.rfind(".")))
    return name[: match.start()] if match else ""


def looks_coding(name: str) -> bool:
    """Tell whether an unresolved symbol may belong to a protein-coding gene."""
    return not _NON_CODING.fullmatch(name)
