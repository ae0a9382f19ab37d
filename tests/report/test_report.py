"""The report as a file: what stands in it, what it loads, how large it is, how it looks."""

import shutil
import subprocess
from html.parser import HTMLParser

import anndata
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from scipy import sparse

from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from tests.support.command_line import run_langcell
from zeroshot.annotation.annotate import annotate
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.decide.decoding import decode
from zeroshot.decide.options import DecodeOptions
from zeroshot.report.report import ReportOptions, write_report

TYPES = ("CL:0000236", "CL:0000084", "CL:0000624", "CL:0000623", "CL:0000576")
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """What a page links, loads and shows."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.ids, self.words = [], [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.words.append(data)

    def values(self, tag, name):
        return [value for each, key, value in self.attributes if (each, key) == (tag, name)]


@pytest.fixture
def make_annotated(make_cells):
    """Return a function that makes counts with calls as annotating leaves them."""

    def make(n_cells=48, *, has_confidence=True, adata=None):
        rng = np.random.default_rng(0)
        adata = make_cells(n_cells) if adata is None else adata
        terms = Ontology.bundled().terms
        best = rng.integers(0, len(TYPES), n_cells)
        names = np.array([terms[each].name for each in TYPES], dtype=object)
        adata.obs["langcell_leaf_label"] = pd.Categorical(names[best])
        adata.obs["langcell_leaf_ontology_term_id"] = pd.Categorical(np.array(TYPES)[best])
        adata.obs["langcell_margin"] = rng.uniform(0, 0.3, n_cells).astype(np.float32)
        if has_confidence:
            called = np.where(best == 2, 1, best)  # CD4-positive T cells back off to T cells
            labels, ids = names[called], np.array(TYPES, dtype=object)[called]
            labels[:5], ids[:5] = "unknown", ""
            adata.obs["langcell_label"] = pd.Categorical(labels)
            adata.obs["langcell_ontology_term_id"] = pd.Categorical(ids)
            adata.obs["langcell_confidence"] = rng.uniform(0.9, 1, n_cells).astype(np.float32)
            adata.obs["langcell_leaf_confidence"] = rng.uniform(0, 1, n_cells).astype(np.float32)
            adata.obs["langcell_ood"] = rng.uniform(0, 1, n_cells).astype(np.float32)
        adata.obsm["X_langcell"] = rng.normal(size=(n_cells, 16)).astype(np.float32)
        adata.obsm["langcell_scores"] = sparse.csr_matrix(rng.dirichlet(np.ones(5), n_cells))
        adata.uns["langcell"] = {
            "version": "0.1.0",
            "source": "cells.h5ad",
            "model": "mini-fast",
            "model_sha256": "ab" * 32,
            "ontology_release": Ontology.bundled().release,
            "candidates": "given",
            "candidate_ids": np.array(TYPES, dtype=object),
            "candidate_names": names,
            "counts_source": "X",
            "counts_transform": "none",
            "gene_coverage": {
                "share_coding_resolved": 1.0,
                "n_genes": 400,
                "n_known_genes": 400,
                "median_known_genes": 250.0,
            },
            "parameters": {"allow_normalized": False, "rerank": 0, "top_k": 10},
        }
        return adata

    return make


def _page(source, tmp_path, *, model=None, **options):
    out = tmp_path / "report.html"
    write_report(source, out, model=model, options=ReportOptions(overwrite=True, **options))
    return Page(out.read_text(encoding="utf-8"))


def test_links_lead_somewhere_and_nothing_is_loaded(make_annotated, tmp_path):
    page = _page(make_annotated(), tmp_path)
    assert len(set(page.ids)) == len(page.ids)
    links = page.values("a", "href")
    assert {link[1:] for link in links if link.startswith("#")} <= set(page.ids)
    addresses = [link for link in links if not link.startswith("#")]
    assert "http://purl.obolibrary.org/obo/CL_0000236" in addresses
    assert all(each.startswith("http://purl.obolibrary.org/obo/CL_") for each in addresses)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    others = [(tag, name) for tag, name, value in page.attributes if "://" in value and tag != "a"]
    assert not others
    assert all(value.startswith("data:image/") for value in page.values("img", "src"))
    assert "url(" not in page.text and "@import" not in page.text
    policy = page.values("meta", "content")
    assert any("default-src 'none'" in each for each in policy)


def test_sections_come_in_reading_order(make_annotated, tmp_path):
    page = _page(make_annotated(), tmp_path)
    assert page.ids == [
        *("verdict", "warnings", "read", "map", "groups", "agreement", "tree", "confidence"),
        *("unusual", "provenance"),
    ]
    assert page.tags.count("h1") == 1
    assert all(page.values("img", "alt"))
    assert len(page.values("img", "src")) == 6  # three maps, two of confidence, outliers
    assert "48 cells" in page.text and "Only 5 types could be called" in page.text
    assert "5 cells are unknown" in page.text
    assert (
        "langcell zeroshot --h5ad cells.h5ad --model mini-fast --labels 'CL:0000236; " in page.text
    )
    assert "abababab" in page.text


def test_words_of_the_data_are_never_markup(make_annotated, tmp_path):
    adata = make_annotated()
    adata.obs["leiden"] = pd.Categorical([HOSTILE, "1"] * 24)
    adata.obs["cell_type"] = pd.Categorical(["B cell", "T cell", HOSTILE] * 16)
    adata.uns["langcell"] |= {"model": HOSTILE, "source": HOSTILE, "version": HOSTILE}
    adata.uns["langcell"]["parameters"][HOSTILE] = HOSTILE
    adata.obs["langcell_label"] = adata.obs["langcell_label"].cat.rename_categories(
        {"monocyte": HOSTILE}
    )
    page = _page(adata, tmp_path)
    assert "script" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert all(value.startswith("data:image/") for value in page.values("img", "src"))
    assert page.text.count("<script>alert(1)</script>") >= 5


def test_calls_without_confidence_are_said_to_be_unjudged(make_annotated, tmp_path):
    page = _page(make_annotated(has_confidence=False), tmp_path)
    assert "Confidence is not calibrated" in page.text
    assert "without a calibrated confidence" in page.text
    assert "unusual" not in page.ids and "best candidate called" not in page.text
    assert "Confidence was calibrated" not in page.text


def test_reliability_is_drawn_where_it_was_recorded(make_annotated, tmp_path):
    adata = make_annotated()
    assert "Confidence is not calibrated" in _page(adata, tmp_path).text
    adata.uns["langcell"]["calibration"] = {"id": "0123", "fitted_on": "Kang 2018"}
    page = _page(adata, tmp_path)
    assert "Confidence was calibrated on labelled cells of Kang 2018" in page.text
    assert "The file does not record the reliability" in page.text
    assert "Confidence is not calibrated" not in page.text
    n_figures = len(page.values("img", "src"))
    adata.uns["langcell"]["calibration"] |= {
        "reliability": {
            "measured_on": "all cell types as candidates",
            "ece": 0.12,
            "confidence": np.array([0.5, 0.9]),
            "accuracy": np.array([0.4, 0.9]),
            "n_cells": np.array([100, 300]),
            "levels": np.array([0.5, 0.8, 0.95]),
            "coverage": np.array([0.95, 0.7, 0.2]),
            "risk": np.array([0.2, 0.08, 0.01]),
        }
    }
    adata.uns["langcell"]["parameters"]["confidence"] = 0.78
    page = _page(adata, tmp_path)
    assert len(page.values("img", "src")) == n_figures + 2
    assert "Measured on those studies: all cell types as candidates." in page.text
    assert "confidence and accuracy differ by 0.12 on average" in page.text
    assert "At 0.8, 70% of the cells were called and 8% of these calls were wrong" in page.text
    assert "The file does not record the reliability" not in page.text
    described = " ".join(page.values("img", "alt"))
    assert "0.50: 0.40 right; 0.90: 0.90 right" in described
    assert "0.95: 20% called, 1% of them wrong" in described
    assert "measured_on" not in page.text, "figures are not listed in the provenance again"


def test_the_report_of_a_file_is_that_of_its_anndata_and_repeats(make_annotated, tmp_path):
    adata = make_annotated()
    adata.obs["leiden"] = pd.Categorical(["a", "b", "c"] * 16)
    adata.write_h5ad(tmp_path / "x.h5ad")
    of_file = _page(tmp_path / "x.h5ad", tmp_path)
    again = _page(tmp_path / "x.h5ad", tmp_path)
    assert of_file.text == again.text and of_file.attributes == again.attributes
    of_memory = _page(adata, tmp_path)
    assert of_file.values("img", "src") == of_memory.values("img", "src")
    start, end = "Cluster by cluster", "The calls in the Cell Ontology"
    assert _between(of_file.text, start, end) == _between(of_memory.text, start, end)


def _between(text, start, end):
    return text[text.index(start) : text.index(end)]


def test_evidence_stands_beside_each_call(make_cells, tiny_bag, tmp_path):
    adata = make_cells(60)
    adata.obs["leiden"] = ["0", "1", "2"] * 20
    annotate(
        adata,
        labels=["B cell", "CD8-positive, alpha-beta T cell", "monocyte"],
        model=str(tiny_bag),
        options=AnnotateOptions(confidence=0.3),
    )
    page = _page(adata, tmp_path)
    assert page.text.count("raise the call") == page.text.count("lower the call") == 3
    assert "favour the call over" in page.text
    assert "Without evidence genes" not in page.text
    shares = [title for title in page.values("span", "title") if title.startswith("expressed in")]
    assert len(shares) == 3 * (6 + 3 + 4 + 2)
    assert "of the cells of other clusters (median); effect +" in shares[0]
    adata.write_h5ad(tmp_path / "x.h5ad")
    of_file = _page(tmp_path / "x.h5ad", tmp_path)
    assert shares == [t for t in of_file.values("span", "title") if t.startswith("expressed in")]


def test_without_model_or_counts_or_scores_the_page_says_why_it_has_no_evidence(
    make_annotated, tiny_bag, tmp_path
):
    adata = make_annotated()
    text = "Without evidence genes: the calls were made with other weights (sha256 abababababab)"
    assert text in _page(adata, tmp_path).text
    adata.uns["langcell"]["model"] = str(tmp_path / "gone")
    assert (
        "Without evidence genes: the model that made the calls is not available: no checkpoint"
        in _page(adata, tmp_path).text
    )
    model = LangCell.from_pretrained(str(tiny_bag))
    adata.uns["langcell"]["model_sha256"] = model.sha256
    page = _page(adata, tmp_path, model=model)
    assert "raise the call" in page.text and "Without evidence" not in page.text
    counts = adata.X
    adata.X = adata.X * 0.37
    page = _page(adata, tmp_path, model=model)
    assert "Without evidence genes: AnnData: no raw counts" in page.text
    assert "raise the call" not in page.text and "Type by type" in page.text
    adata.X = counts
    del adata.obsm["langcell_scores"]
    assert "the file has no scores" in _page(adata, tmp_path, model=model).text


def test_a_hundred_thousand_cells_stay_under_five_megabytes(
    make_annotated, coding_genes, tiny_bag, tmp_path
):
    n_cells, rng = 100_000, np.random.default_rng(0)
    counts = sparse.random(
        n_cells, 40, density=0.1, format="csr", random_state=rng, dtype=np.float32
    )
    counts.data = np.ceil(counts.data * 5).astype(np.float32)
    names = [f"c{i}" for i in range(n_cells)]
    adata = anndata.AnnData(
        X=counts,
        obs=pd.DataFrame(index=names),
        var=pd.DataFrame(index=coding_genes[:40]),
    )
    adata = make_annotated(n_cells, adata=adata)
    # Scattered evenly: of all maps the one that compresses worst.
    adata.obsm["X_umap"] = rng.uniform(size=(n_cells, 2))
    adata.obs["leiden"] = pd.Categorical(rng.integers(0, 60, n_cells).astype(str))
    model = LangCell.from_pretrained(str(tiny_bag))
    adata.uns["langcell"]["model_sha256"] = model.sha256
    page = _page(adata, tmp_path, model=model)
    assert (tmp_path / "report.html").stat().st_size < 5_000_000
    assert page.text.count("raise the call") == 60
    assert "20,000 of the 100,000 cells" in page.text
    assert page.tags.count("details") >= 1  # rows beyond the first 30


def test_what_cannot_be_reported_is_one_line(make_cells, make_annotated, tmp_path):
    with pytest.raises(ValueError, match="has no langcell_leaf_label.* annotate it first"):
        write_report(make_cells(30), tmp_path / "x.html")
    with pytest.raises(ValueError, match="must end in .html"):
        write_report(make_annotated(), tmp_path / "x.pdf")
    (tmp_path / "x.html").write_text("mine")
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        write_report(make_annotated(), tmp_path / "x.html")
    with pytest.raises(ValueError, match="no column 'nope' in obs to group cells by"):
        _page(make_annotated(), tmp_path, cluster_key="nope")
    assert (tmp_path / "x.html").read_text() == "mine"
    assert not list(tmp_path.glob("*.tmp"))


def _langcell(*words, cwd):
    return run_langcell(cwd, *words)


def test_the_command_line_writes_reports(make_cells, tiny_bag, tmp_path):
    make_cells(30).write_h5ad(tmp_path / "cells.h5ad")
    words = ("zeroshot", "--h5ad", "cells.h5ad", "--model", tiny_bag, "--threads", 1)
    refused = _langcell(*words, "--out", "x.csv", "--report", "x.html", cwd=tmp_path)
    assert refused.returncode == 1 and "--report reads an annotated h5ad" in refused.stderr
    done = _langcell(*words, "--out", "x.h5ad", "--report", "x.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["wrote\tx.h5ad", "wrote\tx.html"]
    again = _langcell("report", "--h5ad", "x.h5ad", "--out", "y.html", cwd=tmp_path)
    assert again.returncode == 0 and again.stdout == "wrote\ty.html\n", again.stderr
    assert (tmp_path / "x.html").read_bytes() == (tmp_path / "y.html").read_bytes()
    assert "langcell zeroshot --h5ad cells.h5ad" in (tmp_path / "x.html").read_text()


def test_second_calls_and_tissues_have_their_place(make_cells, tiny_bag, tmp_path):
    model = LangCell.from_pretrained(str(tiny_bag))
    adata = make_cells(40)
    adata.obs["batch"] = pd.Categorical(["a", "b"] * 20)
    options = AnnotateOptions(tissue="lung")
    annotate(adata, model=model, model_name=str(tiny_bag), options=options)
    decode(adata, DecodeOptions(smooth=1.0, cluster_key="batch"))
    adata.write_h5ad(tmp_path / "named.h5ad")
    for source in (adata, tmp_path / "named.h5ad"):
        page = _page(source, tmp_path, model=model)
        assert "second" in page.ids and 'obs["langcell_smooth_label"]' in page.text
        assert "Scores smoothed over neighbouring cells (lambda 1" in page.text
        assert "One call for each of 2 clusters (batch)" in page.text
        assert (
            "Tissue: lung (UBERON:0002048):" in page.text and "The tissue was given." in page.text
        )
        assert "was fitted on this study" not in page.text


def test_a_study_that_the_calibration_knows_is_told(make_annotated, tmp_path):
    adata = make_annotated()
    adata.uns["langcell"]["calibration"] = {"id": "0123", "fitted_on": "Baron 2016, Kang 2018"}
    adata.obs["study"] = "Kang et al. 2018"
    assert "The calibration was fitted on this study" in _page(adata, tmp_path).text
    adata.obs["study"] = "King 2018"
    assert "was fitted on this study" not in _page(adata, tmp_path).text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium (apt-get install chromium)")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_draws_it(make_annotated, tmp_path, width):
    adata = make_annotated()
    adata.obsm["X_umap"] = np.random.default_rng(1).normal(size=(48, 2))
    _page(adata, tmp_path)
    picture = tmp_path / "page.png"
    words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}"]
    words += [f"--window-size={width},2400", f"file://{tmp_path / 'report.html'}"]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    pixels = (imread(picture)[:, :, :3] * 255).round().astype(int)
    assert pixels.shape == (2400, width, 3)
    is_drawn = (pixels < 250).any(axis=2)
    # From top to bottom, and with margins on both sides: nothing is cut off or sticks out.
    assert is_drawn[:300].any() and is_drawn[-400:].any()
    assert not is_drawn[:, :10].any() and not is_drawn[:, -8:].any()
    for colour in ((0x33, 0x22, 0x88), (0x88, 0xCC, 0xEE)):  # tiles and bar of the verdict
        assert (pixels[:800] == colour).all(axis=2).sum() > 200


def test_a_map_is_made_of_the_features_where_the_file_has_none(make_annotated, tmp_path):
    few = _page(make_annotated(20), tmp_path)
    assert "the first two principal components (too few cells for a UMAP)" in few.text
    first, second = (_page(make_annotated(70), tmp_path) for _ in range(2))
    assert "a UMAP of the model's cell features (X_langcell)" in first.text
    assert first.values("img", "src") == second.values("img", "src")
