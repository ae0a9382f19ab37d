"""Make ontology/data/tissue_cell_types.tsv: which cell types studies found in which tissues.

Run from the repository root, where the corpus lies:

    python scripts/make_tissue_table.py --shared ../shared

Only the training files of the corpus are read, and of these only three columns of obs. A row of the
table is a tissue, a cell type, and the studies that found it there, as facts without numbers of
cells. A study bears the name of its first file.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

from benchmarks.data.studies import shared_folder
from langcell.counts.obs_columns import read_obs_column
from ontology.graph import Ontology

TABLE = Path(__file__).resolve().parents[1] / "ontology" / "data" / "tissue_cell_types.tsv"
COLUMNS = ("tissue_ontology_term_id", "cell_type_ontology_term_id", "study")


def read_facts(corpus: Path) -> dict[tuple[str, str], set[str]]:
    """Return tissue id, cell type id -> studies, over all training files.

    Raises
    ------
    FileNotFoundError
        If there are none.
    """
    paths = sorted((corpus / "train").glob("*/*.h5ad"), key=lambda path: path.stem)
    if not paths:
        raise FileNotFoundError(f"no training files in {corpus / 'train'}; name --shared")
    anatomy, cell_types = Ontology.bundled("UBERON"), Ontology.bundled()
    names: dict[str, str] = {}
    facts: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path in paths:
        columns = [read_obs_column(path, column) for column in COLUMNS]
        for tissue, cell_type, study in sorted(set(zip(*columns, strict=True))):
            where, what = anatomy.current(tissue), cell_types.current(cell_type)
            if where and what:
                facts[where, what].add(names.setdefault(study, path.stem))
    return facts


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, default=shared_folder(), help="folder with corpus/")
    facts = read_facts(parser.parse_args().shared / "corpus")
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["tissue", "cell_type", "studies"])
        for (tissue, cell_type), studies in sorted(facts.items()):
            writer.writerow([tissue, cell_type, ",".join(sorted(studies))])
    print(f"{TABLE.name}: {len(facts)} pairs, {len({t for t, _ in facts})} tissues")


if __name__ == "__main__":
    main()
