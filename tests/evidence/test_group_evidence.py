"""Evidence on the calls of groups: directions, shares, what is read, and when there is none."""

import numpy as np
import pandas as pd
import pytest

from langcell.checkpoints.checkpoint import resolve_checkpoint
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from zeroshot.annotation.annotate import annotate
from zeroshot.evidence.explain import ExplainOptions, explain
from zeroshot.evidence.group_evidence import (
    GroupCall,
    annotating_model,
    candidates_below,
    explain_groups,
)
from zeroshot.labels.queries import query_features, read_queries

pytestmark = pytest.mark.filterwarnings("ignore:low gene coverage")
LABELS = ["B cell", "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell"]
B, CD4, CD8 = "CL:0000236", "CL:0000624", "CL:0000625"
T = "CL:0000084"
ONTOLOGY = Ontology.bundled()


@pytest.fixture(scope="module")
def model(tiny_bag):
    return LangCell.from_pretrained(str(tiny_bag))


@pytest.fixture
def annotated(make_cells, tiny_bag):
    adata = make_cells(40)
    annotate(adata, labels=LABELS, model=str(tiny_bag))
    adata.obs["leiden"] = ["0", "1"] * 20
    return adata


def _call(group, term_id, weights, rival_id="", rival_weights=None):
    names = {"": "", **{each: ONTOLOGY.terms[each].name for each in (term_id, rival_id) if each}}
    return GroupCall(
        group=group,
        call=names[term_id],
        term_id=term_id,
        weights=np.array(weights),
        rival=names[rival_id],
        rival_id=rival_id,
        rival_weights=None if rival_weights is None else np.array(rival_weights),
    )


def _explained(adata, calls, **options):
    members = adata.obs["leiden"].to_numpy(dtype=object)
    details = adata.uns["langcell"]
    return explain_groups(adata, calls, members, details, ontology=ONTOLOGY, **options)


def _effects(genes):
    return {gene.symbol: gene.effect for gene in genes}


def test_a_call_of_one_candidate_is_explained_as_by_explain(annotated, model):
    call = _call("1", B, [0.6, 0, 0], CD8, [0, 0, 0.2])
    found = _explained(annotated, [call])
    assert found.keys() == {"1"}
    table = explain(
        annotated,
        cluster_key="leiden",
        label="B cell",
        against="CD8-positive, alpha-beta T cell",
        labels=LABELS,
        model=model,
        options=ExplainOptions(n_genes=6),
    )
    rows = table[table["target"] == "1"]
    for kind, sides in (
        ("label", (found["1"].raising, found["1"].lowering)),
        ("against", (found["1"].leading, found["1"].trailing)),
    ):
        wanted = rows[rows["evidence"] == kind].set_index("gene")
        effects = {**_effects(sides[0]), **_effects(sides[1])}
        assert effects == pytest.approx(wanted["effect"].to_dict(), abs=1e-6)
        assert len(sides[0]) == len(sides[1]) == 6
        for gene in (*sides[0], *sides[1]):
            shares = wanted.loc[gene.symbol, ["share_expressed", "share_elsewhere"]]
            assert [gene.inside, gene.outside] == shares.tolist()


def test_a_broad_call_rests_on_the_candidates_below_it(annotated, model):
    weights = [0.0, 0.3, 0.1]
    found = _explained(annotated, [_call("0", T, weights)], n_genes=400)["0"]
    apart = []
    for label in LABELS[1:]:
        table = explain(
            annotated,
            cluster_key="leiden",
            label=label,
            against="B cell",
            labels=LABELS,
            model=model,
            options=ExplainOptions(n_genes=400),
        )
        rows = table[(table["evidence"] == "label") & (table["target"] == "0")]
        apart.append(rows.set_index("gene")["effect"])
    both = pd.concat(apart, axis=1).fillna(0)
    mean = both.iloc[:, 0] * 0.75 + both.iloc[:, 1] * 0.25
    effects = {**_effects(found.raising), **_effects(found.lowering)}
    assert effects == pytest.approx(mean[list(effects)].to_dict(), abs=1e-5)
    assert not found.leading and not found.trailing, "there is no runner-up"


def test_a_few_cells_speak_for_a_group(annotated):
    seen = []
    annotated.obs["leiden"] = ["few"] * 3 + ["many"] * 37
    _explained(annotated, [_call("many", B, [1, 0, 0])], progress=lambda *n: seen.append(n))
    assert seen == [(3, 28), (28, 28)], "25 of the 37"


def test_candidates_of_another_release_are_below_nothing():
    keys = ["CL:0000624", "CL:9999999", "text: a cell that glows", "CL:0000236"]
    assert candidates_below(T, keys, ONTOLOGY).tolist() == [True, False, False, False]
    assert not candidates_below("CL:9999999", keys, ONTOLOGY).any()
    glows = candidates_below("text: a cell that glows", keys, ONTOLOGY)
    assert glows.tolist() == [False, False, True, False]


def test_the_model_is_the_one_that_made_the_calls_or_none(annotated, model, tiny_model, tmp_path):
    details = annotated.uns["langcell"]
    assert annotating_model(details).sha256 == model.sha256
    assert annotating_model({**details, "model": "gone"}, model) is model
    with pytest.raises(ValueError, match="made with other weights"):
        annotating_model({**details, "model": str(tiny_model)})
    with pytest.raises(ValueError, match="made with other weights"):
        annotating_model({**details, "model_sha256": ""})
    with pytest.raises(OSError, match="no checkpoint folder"):
        annotating_model({**details, "model": str(tmp_path / "gone" / "too")})
    with pytest.raises(ValueError, match="does not say which model"):
        annotating_model({})


def test_a_model_of_the_hub_is_not_fetched(monkeypatch):
    asked = []
    monkeypatch.setattr("langcell.checkpoints.hub._is_online", lambda: asked.append(1) or True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="'nobody/nothing'"):
        resolve_checkpoint("nobody/nothing", download=False)
    assert not asked


def test_free_text_is_explained_by_its_words(make_cells, tiny_bag, model, monkeypatch):
    adata = make_cells(20)
    words = "text: a cell that glows"
    features = query_features(read_queries(["B cell"], ONTOLOGY), model)
    monkeypatch.setattr("zeroshot.evidence.group_evidence.query_features", lambda *_: features)
    annotate(adata, labels=["B cell", "T cell"], model=str(tiny_bag))
    adata.obs["leiden"] = "0"
    adata.uns["langcell"]["candidate_ids"] = np.array(["CL:0000084", words], dtype=object)
    call = GroupCall(group="0", call="a cell that glows", term_id="", weights=np.array([0, 0.5]))
    found = _explained(adata, [call])["0"]
    assert found.raising and not found.markers
    assert all(np.isnan(gene.outside) for gene in found.raising), "no other group"
