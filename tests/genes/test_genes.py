from pathlib import Path

import numpy as np
import pytest

from langcell.genes import gene_table
from langcell.genes.spellings import looks_coding
from langcell.genes.vocabulary import GeneTable, GeneVocabulary

SMALL = "\n".join(
    [
        "# small",
        "ensembl_id\tsymbol\tbiotype\tis_linked\tprevious\taliases",
        "ENSG00000000001\tAAA\tprotein_coding\t1\tOLD1|ENSG00000000009\tnick",
        "ENSG00000000002\tBBB\tprotein_coding\t1\tTWICE\tshared",
        "ENSG00000000003\tCCC\tprotein_coding\t1\tTWICE\tshared",
        "ENSG00000000004\tPAR\tprotein_coding\t1\t\t",
        "ENSG00000000005\tPAR\tprotein_coding\t0\t\t",
        "ENSG00000000006\tMIX\tprotein_coding\t0\t\t",
        "ENSG00000000007\tMIX\tlncRNA\t1\t\t",
        "ENSG00000000008\tHLA-A\tprotein_coding\t1\tC1orf9\t",
    ]
)


@pytest.fixture(scope="module")
def table() -> GeneTable:
    return GeneTable(SMALL)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("AAA", 1),
        ("OLD1", 1),
        ("nick", 1),
        ("ENSG00000000001.14", 1),
        ("ENSG00000000009", 1),  # replaced id
        ("ENSG00000000002.3_PAR_Y", 2),
        ("ENSGR0000000002", 2),
        ("PAR", 4),  # HGNC's of two coding genes
        ("MIX", 6),  # the only coding one
        ("HLA.A", 8),  # R's spelling
        ("C1ORF9", 8),
        ("GRCh38_AAA", 1),
        ("XYZ_ENSG00000000003", 3),
    ],
)
def test_one_gene_has_many_spellings(table: GeneTable, name: str, number: int) -> None:
    resolution = table.resolve([name])
    assert resolution.ensembl_ids.tolist() == [f"ENSG0000000000{number}"]
    assert resolution.is_protein_coding.tolist() == [True]
    assert resolution.share_coding_resolved == 1


def test_names_of_several_genes_are_dropped_and_listed(table: GeneTable) -> None:
    resolution = table.resolve(["AAA", "TWICE", "shared", "NOGENE"])
    assert resolution.ensembl_ids.tolist() == ["ENSG00000000001", "", "", ""]
    assert resolution.ambiguous == ["TWICE", "shared"]
    assert resolution.unresolved == ["NOGENE"]
    assert resolution.share_coding_resolved == pytest.approx(1 / 4)


def test_duplicates_are_listed_however_they_are_written(table: GeneTable) -> None:
    resolution = table.resolve(["AAA", "OLD1", "AAA-1", "AAA.2", "BBB", "BBB"])
    assert resolution.duplicates == ["OLD1", "AAA-1", "AAA.2", "BBB"]


def test_an_alias_beside_the_genes_own_name_means_something_else(table: GeneTable) -> None:
    assert table.resolve(["AAA", "nick"]).ambiguous == ["nick"]


def test_a_unique_suffix_needs_its_base_name_in_the_file(table: GeneTable) -> None:
    assert table.resolve(["AAA-1", "BBB"]).unresolved == ["AAA-1"]


def test_ids_that_were_retired_stay_for_older_vocabularies(table: GeneTable) -> None:
    resolution = table.resolve(["ENSG00000000001", "ENSG00000099999.2"])
    assert resolution.kind == "ensembl"
    assert resolution.retired == ["ENSG00000099999.2"]
    assert resolution.ensembl_ids[1] == "ENSG00000099999"
    assert resolution.n_resolved == 1
    assert resolution.share_coding_resolved == 0.5


@pytest.mark.parametrize(
    ("names", "species"),
    [
        (["ENSMUSG00000051951.6", "ENSMUSG00000025902"], "mouse"),
        (["ENSRNOG00000000001"], "rat"),
        (["Actb", "Gapdh", "Cd3e", "Cd4", "Ms4a1", "Ptprc", "Gad2", "Lyz2", "Ins2", "Xist", "Malat1", "Aqp4", "Epcam"], "mouse or rat"),
    ],
)  # fmt: skip
def test_other_species_are_refused_with_the_reason(names: list[str], species: str) -> None:
    with pytest.raises(ValueError, match=f"those of {species} .*human genes only: use human data"):
        GeneTable.bundled().resolve(names)


def test_the_bundled_table_knows_genes_by_today_and_before() -> None:
    table = GeneTable.bundled()
    assert table.version == "GENCODE 48"
    assert 19_000 < table.is_protein_coding.sum() < 21_000
    renamed = {
        "GNB2L1": "RACK1", "SEPT7": "SEPTIN7", "MARCH1": "MARCHF1", "HIST1H4C": "H4C3",
        "HIST2H2AA3": "H2AC18", "H2AFZ": "H2AZ1", "ATP5B": "ATP5F1B", "ATP5G2": "ATP5MC2",
        "SEPP1": "SELENOP", "FAM46C": "TENT5C", "C10orf54": "VSIR", "CECR1": "ADA2",
        "TMEM66": "SARAF", "WBSCR22": "BUD23", "IL8": "CXCL8", "QARS": "QARS1",
        "HDGFRP2": "HDGFL2", "COX1": "MT-CO1", "CTGF": "CCN2", "GPR56": "ADGRG1",
    }  # fmt: skip
    found = [table.symbol(gene) for gene in table.resolve(list(renamed)).ensembl_ids]
    assert found == list(renamed.values())
    assert table.resolve(["CD99"]).ensembl_ids.tolist() == ["ENSG00000002586"]
    assert table.resolve(["C9orf142"]).ensembl_ids.tolist() == ["ENSG00000310560"]


def test_clone_names_do_not_look_coding() -> None:
    non_coding = ["RP11-34P13.7", "AL627309.1", "LINC00115", "MIR21", "A1BG-AS1", "SNORD13", "7SK"]
    assert not any(map(looks_coding, non_coding))
    assert all(map(looks_coding, ["C1orf112", "HLA-DRB1", "KRT8", "H2AC18", "NKX2-1"]))


def test_published_files_resolve(shared: Path) -> None:
    h5py = pytest.importorskip("h5py")
    files = sorted((shared / "corpus").glob("*/*/*.h5ad"))
    assert len(files) > 90
    for path in files:
        with h5py.File(path) as file:
            var = file["var"]
            names = var[var.attrs["_index"]].asstr()[:]
        assert GeneTable.bundled().resolve(names).share_coding_resolved > 0.9, path.name


@pytest.fixture
def vocabulary() -> GeneVocabulary:
    return GeneVocabulary(
        ensembl_ids=("ENSG00000000003", "ENSG00000148362", "ENSG00000000457"),
        symbols=("TSPAN6", "PAXX", "SCYL3"),
        medians=np.array([2.001186019549122, 0.1, 1 / 3]),
    )


def test_special_tokens_stand_around_the_genes(vocabulary: GeneVocabulary) -> None:
    assert (vocabulary.pad_id, vocabulary.mask_id) == (0, 1)
    assert (vocabulary.n_genes, vocabulary.cls_id, vocabulary.size) == (3, 5, 6)
    ids = ["ENSG00000000457", "nothing", "ENSG00000000003", "ENSG00000148362", "ENSG00000310560"]
    # the last is the current id of the one before it
    assert vocabulary.token_ids(ids).tolist() == [4, -1, 2, 3, 3]


@pytest.mark.parametrize("tokens", [[], [3, 4, 2]])
def test_a_vocabulary_is_read_as_it_was_written(
    tmp_path: Path, vocabulary: GeneVocabulary, tokens: list[int]
) -> None:
    written = GeneVocabulary(
        ensembl_ids=vocabulary.ensembl_ids,
        symbols=vocabulary.symbols,
        medians=vocabulary.medians,
        gene_tokens=np.array(tokens, dtype=np.int64),
    )
    written.write(tmp_path / "genes.tsv")
    read = GeneVocabulary.read(tmp_path / "genes.tsv")
    assert read.ensembl_ids == written.ensembl_ids
    assert read.symbols == written.symbols
    assert np.array_equal(read.medians, written.medians)
    assert np.array_equal(read.gene_tokens, written.gene_tokens)


def test_the_released_vocabulary_is_readable(shared: Path) -> None:
    vocabulary = GeneVocabulary.read(shared / "parity" / "geneformer_v1_genes.tsv.gz")
    assert (vocabulary.n_genes, vocabulary.cls_id, vocabulary.size) == (25_424, 25_426, 25_427)
    assert vocabulary.token_ids(["ENSG00000000003"]).tolist() == [2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"medians": np.array([1.0, 0.0, 1.0])}, "positive and finite"),
        ({"medians": np.array([1.0])}, "must have length 3"),
        ({"ensembl_ids": ("a", "a", "b")}, "each Ensembl id only once"),
        ({"gene_tokens": np.array([2, 2, 3])}, "2 to 4, each once"),
    ],
)
def test_a_broken_vocabulary_is_refused(change: dict[str, object], message: str) -> None:
    good = {"ensembl_ids": ("a", "b", "c"), "symbols": ("", "", ""), "medians": np.ones(3)}
    with pytest.raises(ValueError, match=message):
        GeneVocabulary(**{**good, **change})  # type: ignore[arg-type]


def test_a_table_without_medians_is_not_a_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "genes.tsv").write_text("ensembl_id\tsymbol\nENSG1\tA\n")
    with pytest.raises(ValueError, match="column 'median' is missing"):
        GeneVocabulary.read(tmp_path / "genes.tsv")


def test_current_ids_are_known_without_an_index_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(["# x", "header", "ENSG00000010610\tCD4\tprotein_coding\t1\t\t"])
    monkeypatch.setattr(gene_table, "_index", None)
    found = GeneTable(text).resolve(["ENSG00000010610", "ENSG00000010610.7"])
    assert found.ensembl_ids.tolist() == 2 * ["ENSG00000010610"]
    with pytest.raises(TypeError):
        GeneTable(text).resolve(["CD4"])
