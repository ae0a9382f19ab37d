"""Free-text labels: what resolves, what must not, and how many of the corpus's labels do."""

import csv
from pathlib import Path

import pytest

from ontology import LabelResolver, Ontology, labels
from ontology.labels import bundled_aliases
from ontology.wording import normalise

TINY = Path(__file__).parents[1] / "data" / "tiny.obo"


@pytest.fixture(scope="module")
def cl() -> Ontology:
    return Ontology.bundled()


@pytest.fixture(scope="module")
def resolver(cl: Ontology) -> LabelResolver:
    return LabelResolver(cl)


@pytest.fixture(scope="module")
def tiny() -> LabelResolver:
    return LabelResolver(Ontology.from_obo(TINY), aliases={"lefty": "CL:0000001", "l cell": "X:1"})


@pytest.mark.parametrize(
    ("label", "name", "how"),
    [
        ("CL:0000236", "B cell", "id"),
        ("cl_0000236", "B cell", "id"),
        ("http://purl.obolibrary.org/obo/CL_0000236", "B cell", "id"),
        ("B cell", "B cell", "name"),
        ("  b CELLS ", "B cell", "name"),
        ("B-lymphocytes", "B cell", "synonym"),
        ("Bcells", "B cell", "name"),
        ("NK cells", "natural killer cell", "synonym"),
        ("NK", "natural killer cell", "alias"),
        ("pDC", "plasmacytoid dendritic cell", "synonym"),
        ("γδ T cells", "gamma-delta T cell", "name"),
        ("γδ-T_cell", "gamma-delta T cell", "name"),
        ("Naïve B cells", "naive B cell", "name"),
        ("memory B", "memory B cell", "elliptic"),
        ("B cells, memory", "memory B cell", "reordered"),
        ("CD4+ T cells", "CD4-positive, alpha-beta T cell", "alias"),
        ("T cells CD8+", "CD8-positive, alpha-beta T cell", "reordered"),
        ("Microglia", "microglial cell", "alias"),
        ("native cell", "cell", "replaced"),
        ("CL:0000003", "cell", "replaced"),
    ],
)
def test_what_a_label_means(
    cl: Ontology, resolver: LabelResolver, label: str, name: str, how: str
) -> None:
    found = resolver.resolve([label])[0]
    assert found.label == label
    assert found.term_id is not None and cl.terms[found.term_id].name == name
    assert (found.how, found.suggestions) == (how, ())


@pytest.mark.parametrize(
    "label",
    [
        "",
        "?",
        "unknown",
        "doublet",
        "Cluster 3",
        "B cell 1",
        "NK/T",
        "B_Plasma",
        "Kidney",
        "PE",
        "PV1",
    ],
)
def test_what_is_not_guessed(resolver: LabelResolver, label: str) -> None:
    found = resolver.resolve([label])[0]
    assert (found.term_id, found.how) == (None, "unknown")


def test_ids_are_known_without_a_table_of_wordings(
    cl: Ontology, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "_table", None)
    resolver = LabelResolver(cl)
    assert [each.how for each in resolver.resolve(["CL:0000236", "CL_9999999"])] == [
        "id",
        "unknown",
    ]
    with pytest.raises(TypeError):
        resolver.resolve(["B cell"])


def test_a_wording_of_two_terms_suggests_both(cl: Ontology, resolver: LabelResolver) -> None:
    # DC1 was once the conventional dendritic cell; authors now write it for its CD141+ kind.
    found = resolver.resolve(["DC1"])[0]
    assert (found.term_id, found.how) == (None, "ambiguous")
    names = {cl.terms[term_id].name for term_id in found.suggestions}
    assert names == {"conventional dendritic cell", "CD141-positive myeloid dendritic cell"}


def test_synonyms_of_mouse_terms_do_not_take_a_common_wording(resolver: LabelResolver) -> None:
    assert resolver.resolve(["alpha cells"])[0].term_id == "CL:0000171", "of the pancreas"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("plasmacitoid dendritic cels", "plasmacytoid dendritic cell"),
        ("hepatocyt", "hepatocyte"),
        ("regulatory CD8 T cell", "CD8-positive, alpha-beta regulatory T cell"),
    ],
)
def test_suggestions_come_near(
    cl: Ontology, resolver: LabelResolver, label: str, name: str
) -> None:
    found = resolver.resolve([label])[0]
    assert found.term_id is None and len(found.suggestions) <= 3
    assert name in [cl.terms[term_id].name for term_id in found.suggestions]


def test_ids_that_stand_for_nothing(tiny: LabelResolver) -> None:
    lost, unknown = tiny.resolve(["CL:0000005", "CL:9999999"])
    assert (lost.term_id, lost.suggestions) == (None, ("CL:0000001", "CL:0000002"))
    assert (unknown.term_id, unknown.suggestions) == (None, ())


def test_exact_synonyms_count_and_related_ones_do_not(tiny: LabelResolver) -> None:
    exact, related, shared, replaced = tiny.resolve(["l-cells", "sinister cell", "twin", "dexter"])
    assert (exact.term_id, exact.how) == ("CL:0000001", "synonym")
    assert related.term_id is None
    assert (shared.how, shared.suggestions) == ("ambiguous", ("CL:0000002", "CL:0000003"))
    assert (replaced.term_id, replaced.how) == (None, "unknown"), "its name is 'dexter cell'"


def test_aliases_of_terms_that_a_release_lacks_are_left_out(tiny: LabelResolver) -> None:
    lefty, l_cell = tiny.resolve(["Lefty", "l cell"])
    assert (lefty.term_id, lefty.how) == ("CL:0000001", "alias")
    assert (l_cell.term_id, l_cell.how) == ("CL:0000001", "synonym")


def test_each_committed_alias_is_of_this_release_and_says_something_new(cl: Ontology) -> None:
    plain = LabelResolver(cl, aliases={})
    for label, term_id in bundled_aliases().items():
        assert term_id in cl.index, label
        found = plain.resolve([label])[0]
        assert found.term_id != term_id, f"{label} resolves without the alias"


def test_resolving_any_name_gives_its_term_or_an_honest_tie(
    cl: Ontology, resolver: LabelResolver
) -> None:
    cell_types = sorted(cl.descendants("CL:0000000"))
    for found, term_id in zip(
        resolver.resolve([cl.terms[i].name for i in cell_types]), cell_types, strict=True
    ):
        assert found.term_id == term_id or term_id in found.suggestions
    assert normalise("CD8-negative") == normalise("CD8-") == "cd8 negative"


def test_labels_seen_only_in_validation_studies(shared: Path, resolver: LabelResolver) -> None:
    anndata_io = pytest.importorskip("anndata.io")
    h5py = pytest.importorskip("h5py")

    def labels_of(split: str) -> set[str]:
        found: set[str] = set()
        for path in sorted((shared / "corpus" / split).glob("**/*.h5ad")):
            with h5py.File(path) as file:
                found |= set(map(str, anndata_io.read_elem(file["obs/cell_type"])))
        return found

    only = labels_of("validation") - labels_of("train")
    with (shared / "corpus" / "label_map.tsv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["base"] in only]
    exact = {row["base"]: row["cl_id"] for row in rows if row["quality"] == "exact"}
    found = {resolution.label: resolution.term_id for resolution in resolver.resolve(exact)}
    right = [label for label, term_id in exact.items() if found[label] == term_id]
    wrong = [label for label, term_id in exact.items() if found[label] not in (None, term_id)]
    print(f"right {len(right)}, wrong {len(wrong)}, unresolved of {len(exact)}")
    assert wrong == []
    assert len(right) >= 0.7 * len(exact)
