"""Names of studies that an annotator learnt from."""

import pytest

from benchmarks.arena.leaks import TrainedOn

KNOWN = TrainedOn(
    sources=("fuma_PBMC_10x_68k Zheng 2017", "cpl_adult_lung_hca Madissoon, E. et al. Genome 21")
)


@pytest.mark.parametrize(
    ("study", "is_known"),
    [
        ("Zheng 2017", True),
        ("ZHENG et al., 2017", True),
        ("fuma_pbmc_10x_68k", True),
        ("pbmc", False),
        ("lung", False),
        ("cells", False),
        ("2017", False),
        ("", False),
    ],
)
def test_a_study_is_known_by_its_words_and_year_or_its_very_name(study, is_known):
    assert KNOWN.names(study) is is_known
