"""Reading OBO files: exact facts of a tiny one, a whole release, and broken ones."""

import gzip
from pathlib import Path

import pytest

from ontology import Ontology, all_cell_types
from ontology.obo import read_obo
from ontology.term import Synonym

TINY = Path(__file__).parents[1] / "data" / "tiny.obo"
HEADER = "format-version: 1.4\nontology: made\n\n"


def test_facts_of_the_tiny_file() -> None:
    source = read_obo(TINY)
    assert (source.name, source.release) == ("tiny", "2020-02-29")
    assert source.relations == ("is_a", "develops_from", "part_of")
    left = source.terms["CL:0000001"]
    assert left.definition == "A cell on the left."
    assert left.synonyms == ("L cell",)
    assert left.loose_synonyms == (Synonym(text="sinister cell", scope="RELATED"),)
    assert source.terms["CL:0000000"].definition == 'A "cell" (with quotes). [not a reference]'


def test_is_a_is_apart_from_other_relations() -> None:
    terms = read_obo(TINY).terms
    assert terms["CL:0000002"].parents == ("CL:0000000",)
    assert terms["CL:0000002"].related == (("part_of", "UBERON:0000001"),)
    assert terms["CL:0000003"].parents == ("CL:0000001", "CL:0000002")
    assert terms["CL:0000003"].related == (("develops_from", "CL:0000001"),)


def test_obsolete_terms_name_what_stands_for_them() -> None:
    ontology = Ontology.from_obo(TINY)
    assert ontology.current("CL:0000004") == "CL:0000002"
    assert ontology.current("CL:0000005") is None
    assert ontology.terms["CL:0000005"].consider == ("CL:0000001", "CL:0000002")


def test_a_replacement_that_leads_round_in_a_circle_stands_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "round.obo"
    stanzas = (
        f"[Term]\nid: X:{i}\nname: x{i}\nis_obsolete: true\nreplaced_by: X:{1 - i}\n\n"
        for i in (0, 1)
    )
    path.write_text(HEADER + "".join(stanzas))
    assert Ontology.from_obo(path).current("X:0") is None


def test_gzip_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "tiny.obo.gz"
    path.write_bytes(gzip.compress(TINY.read_bytes()))
    assert read_obo(path) == read_obo(TINY)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is it an OBO file"),
        (b"cell_type,count\nB cell,3\n", "not a well-formed OBO file"),
        (b"\xff\xfe\x00binary", "not UTF-8 text"),
        (b"format-version: 1.4\n\n[Term]\nname: no id\n", "not a well-formed OBO file"),
        (
            b"format-version: 1.4\n\n[Term]\nid: X:1\nname: x\nsynonym: unquoted EXACT []\n",
            "synonym without quotation marks",
        ),
        (
            b"format-version: 1.4\n\n[Term]\nid: X:1\nname: x\nrelationship: part_of\n",
            "not a well-formed OBO file",
        ),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes, line: str) -> None:
    path = tmp_path / "broken.obo"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=line) as caught:
        read_obo(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_cut_gzip_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cut.obo.gz"
    path.write_bytes(gzip.compress(TINY.read_bytes())[:-20])
    with pytest.raises(ValueError, match="not a complete gzip file"):
        read_obo(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ontology file .*none\.obo does not exist"):
        read_obo(tmp_path / "none.obo")


@pytest.fixture(scope="module")
def release(shared: Path) -> Ontology:
    return Ontology.from_obo(shared / "ontology" / "cl-2024-04-05.obo.gz")


def test_a_whole_release(release: Ontology) -> None:
    assert (release.name, release.release) == ("cl", "2024-04-05")
    assert {"is_a", "part_of", "develops_from"} <= set(release.relations)
    b_cell = release.terms["CL:0000236"]
    assert b_cell.name == "B cell" and b_cell.parents == ("CL:0000945",)
    assert b_cell.synonyms == ("B lymphocyte", "B-lymphocyte", "B-cell")
    assert ("capable_of", "GO:0019724") in b_cell.related
    assert release.lca("CL:0000624", "CL:0000625") == "CL:0000791"


def test_cell_types_of_a_whole_release_are_of_the_cell_ontology_alone(release: Ontology) -> None:
    cell_types = all_cell_types(release)
    assert all(term_id.startswith("CL:") for term_id in cell_types)
    assert 2_500 < len(cell_types) < 2_998, "the release has 2,998 terms, obsolete ones included"


def test_both_sources_agree_on_most_ancestors(release: Ontology) -> None:
    bundled = Ontology.bundled()
    both = set(all_cell_types(bundled)) & set(all_cell_types(release))
    pairs = [(i, above) for i in both for above in release.ancestors(i) & both]
    kept = sum(above in bundled.ancestors(i) for i, above in pairs)
    # Two years of curation lie between the releases.
    assert kept > 0.9 * len(pairs)
