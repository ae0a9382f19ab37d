"""Gene set recovery from gene embeddings: `python -m benchmarks.accuracy.gene_sets`.

A few genes of each set are given, and every method ranks all other genes: AUROC of the rest of the set
against genes outside it, over three draws. Sets are gene families with a common stem of their symbols,
which no method reads, and published marker genes of a cell type (the ten types with the most, human
lists only). The embeddings are those of the model, which was trained on cells and their types.
Baselines: the same classifier on principal components of log CPM over the 62 cell types of a training
panel (Tabula Sapiens), whose genes all methods are compared on, mean expression there, the number of
types that express a gene (10 CPM), and chance. Nothing was tuned.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from benchmarks.data.arguments import add_model, make_parser, parse
from langcell.genes.gene_table import GeneTable
from langcell.model.langcell import LangCell
from zeroshot.evidence.gene_sets import fit_set, gene_vectors

GIVEN = (3, 5, 10)
_DRAWS, _FEWEST, _COMPONENTS = 3, 20, 50
_MOST = 10  # longest marker sets to use
_EXPRESSED = np.log1p(10)  # log CPM
_FAMILIES = {
    "ribosomal": r"RP[LS]\d+[AXYL]?\d*",
    "mitochondrial ribosomal": r"MRP[LS]\d+",
    "HLA": r"HLA-.+",
    "histone": r"H(1|2A|2B|3|4)[-CFJ].*",
    "zinc finger": r"ZNF\d+",
    "keratin": r"KRT\d+",
    "collagen": r"COL\d+A\d+",
    "proteasome": r"PSM[A-G]\d+",
    "NADH dehydrogenase": r"NDUF.+",
    "chemokine": r"(CCL|CXCL)\d+",
    "solute carrier": r"SLC\d+A\d+",
    "protocadherin": r"PCDH.+",
}
PANEL = Path("train/profiles/tabula_sapiens_basis.h5ad")
MARKERS = Path("markers/gptcelltype.csv")
Scorer = Callable[[np.ndarray], np.ndarray]  # from given rows to scores of all genes


def families(symbols: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of the genes of each family."""
    found = {}
    for name, pattern in _FAMILIES.items():
        rows = [row for row, each in enumerate(symbols) if re.fullmatch(pattern, each)]
        if len(rows) >= _FEWEST:
            found[name] = np.array(rows)
    return found


def marker_sets(path: Path, ids: np.ndarray, *, fewest: int = _FEWEST) -> dict[str, np.ndarray]:
    """Return the rows of the published marker genes of each cell type."""
    place = {each: row for row, each in enumerate(ids)}
    lists = pd.read_csv(path).dropna(subset=["manual_CLname", "marker"])
    found = {}
    # Drop lists of mouse genes, whose symbols are not in capitals (human ones are, except "orf").
    human = lists["marker"].str.replace("orf", "ORF").map(str.isupper)
    for name, part in lists[human].groupby("manual_CLname"):
        words = sorted({word.strip() for text in part["marker"] for word in text.split(",")})
        known = GeneTable.bundled().resolve([word for word in words if word]).ensembl_ids
        rows = sorted({place[each] for each in known if each in place})
        if len(rows) >= fewest:
            found[str(name)] = np.array(rows)
    largest = sorted(found, key=lambda name: (-len(found[name]), name))[:_MOST]
    return {name: found[name] for name in largest}


def scorers(vectors: np.ndarray, expression: np.ndarray) -> dict[str, Scorer]:
    """Return the scorers by name.

    Parameters
    ----------
    vectors: gene embeddings of the model, shape (n_genes, width)
    expression: log CPM, shape (n_genes, n_types)
    """
    centred = expression - expression.mean(axis=1, keepdims=True)
    n_components = min(_COMPONENTS, *(size - 1 for size in expression.shape))
    components = PCA(n_components, random_state=0).fit_transform(centred)

    def learnt(inputs: np.ndarray) -> Scorer:
        def score(given: np.ndarray) -> np.ndarray:
            is_given = np.zeros(len(inputs), dtype=bool)
            is_given[given] = True
            return fit_set(inputs, is_given, inputs)

        return score

    return {
        "gene embeddings": learnt(vectors),
        "co-expression PCA": learnt(components),
        "mean expression": lambda given: expression.mean(axis=1),
        "types that express it": lambda given: (expression > _EXPRESSED).sum(axis=1).astype(float),
        "chance": lambda given: np.random.default_rng(len(given)).random(len(expression)),
    }


def measure(sets: dict[str, np.ndarray], ranked: dict[str, Scorer]) -> pd.DataFrame:
    """Score every method; return one row per method, set, number of given genes and draw."""
    rows = []
    for name, members in sets.items():
        for n_given in GIVEN:
            for draw in range(_DRAWS):
                given = np.random.default_rng([draw, n_given]).permutation(members)[:n_given]
                for method, score in ranked.items():
                    scores = score(given)
                    is_rest = np.zeros(len(scores), dtype=bool)
                    is_rest[members] = True
                    asked = np.setdiff1d(np.arange(len(scores)), given)
                    auroc = roc_auc_score(is_rest[asked], scores[asked])
                    rows.append((method, name, n_given, draw, auroc))
    return pd.DataFrame(rows, columns=["method", "set", "given", "draw", "auroc"])


def print_table(title: str, table: pd.DataFrame) -> None:
    """Print the mean AUROC over sets, and its standard deviation over draws."""
    print(f"\n{title}: {table['set'].nunique()} sets\n{'AUROC':<24}", end="")
    print("".join(f"{f'{n} given':>16}" for n in GIVEN))
    for method in table["method"].unique():
        by_draw = table[table.method == method].groupby(["given", "draw"]).auroc.mean()
        shown = [f"{by_draw[n].mean():.3f} sd {by_draw[n].std():.3f}" for n in GIVEN]
        print(f"{method:<24}" + "".join(f"{each:>16}" for each in shown))


def main() -> None:
    """Print tables and one JSON line."""
    parser = make_parser(__doc__)
    add_model(parser)
    given = parse(parser)
    corpus = given.shared / "corpus"
    if not (corpus / PANEL).is_file():
        sys.exit(f"no corpus in {given.shared}: {PANEL} is missing; name its folder with --shared")
    model = LangCell.from_pretrained(given.model)
    panel = anndata.read_h5ad(corpus / PANEL)
    values = panel.X.toarray() if hasattr(panel.X, "toarray") else np.asarray(panel.X)
    cpm = values / values.sum(axis=1, keepdims=True) * 1e6
    measured = GeneTable.bundled().resolve(panel.var_names).ensembl_ids
    known = pd.DataFrame(np.log1p(cpm.T), index=measured)
    known = known[(known.index != "") & ~known.index.duplicated()]
    ids = np.array(model.genes.ensembl_ids)
    rows = np.flatnonzero(np.isin(ids, known.index))
    ranked = scorers(gene_vectors(model)[rows], known.loc[ids[rows]].to_numpy())
    print(f"{given.model}; {len(rows):,} genes; {_DRAWS} draws")
    figures = []
    for title, sets in (
        ("families", families(np.array(model.genes.symbols)[rows])),
        ("markers of cell types", marker_sets(corpus / MARKERS, ids[rows])),
    ):
        table = measure(sets, ranked)
        print_table(title, table)
        means = table.groupby(["method", "given"]).auroc.mean().round(4).reset_index()
        figures += [{"sets": title, **row} for row in means.to_dict("records")]
        if title == "families":
            by_set = table[table.given == GIVEN[-1]].groupby(["set", "method"]).auroc.mean()
            print(by_set.unstack().round(3).to_string())
    print(json.dumps({"benchmark": "gene_sets", "model": given.model, "figures": figures}))


if __name__ == "__main__":
    main()
