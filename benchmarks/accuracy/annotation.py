"""Accuracy of models and baselines on the validation studies: `python -m benchmarks.accuracy.annotation`.

Every cell is annotated in three label spaces: the study's own types, the cell types of its tissue, and
all cell types. The baselines are fitted on the training split of the bundled model, over the genes
shared with the study. Models are selected on these studies, so their scores are optimistic.

Own labels are the distinct Cell Ontology ids of a study; cells without an id (doublets, unknown,
cell lines) are left out. Averages are over studies (the files of one study are averaged first);
intervals are 95 % bootstrap intervals over studies.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.accuracy.annotation_table import FileResult, print_tables, record_of
from benchmarks.baselines.annotators import Annotator, LangCellAnnotator
from benchmarks.baselines.baseline import Baseline, StudyMajority, TrainingMajority, TrainingSplit
from benchmarks.baselines.methods import METHODS, NAMES, missing_extra
from benchmarks.data.arguments import add_models, make_parser, parse
from benchmarks.data.studies import LabelledFile, label_spaces, read_validation_files
from benchmarks.data.training_cells import bundled_recipe
from benchmarks.scoring.scoring import score_space
from langcell.model.langcell import LangCell
from langcell.runtime.output_file import check_output, replaced_file
from ontology.graph import Ontology
from ontology.tissues import TissueMap
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.annotation.text_states import cache_folder


def run(
    annotators: Sequence[Annotator], files: Sequence[LabelledFile], ontology: Ontology
) -> Iterator[FileResult]:
    """Score every annotator on every file."""
    tissues = TissueMap(ontology)
    spaces = {file.name: label_spaces(file, ontology, tissues) for file in files}
    # File by file, so that annotators share cached data of a file.
    for file in files:
        for annotator in annotators:
            print(f"{annotator.name} on {file.name}", file=sys.stderr, flush=True)
            scores = {}
            for space, candidates in spaces[file.name].items():
                found = annotator.scores(file, candidates)
                scores[space] = score_space(file.truth_ids, found, candidates, ontology)
            yield FileResult(
                annotator=annotator.name,
                file=file,
                sizes={space: len(each) for space, each in spaces[file.name].items()},
                covered=sum(
                    each in spaces[file.name]["tissue"] for each in spaces[file.name]["own"]
                )
                / len(spaces[file.name]["own"]),
                scores=scores,
            )


def choose_baselines(
    given: str, corpus: Path, ontology: Ontology, cache: Path
) -> tuple[list[Annotator], list[str]]:
    """Return the baselines of `--baselines`, and a message for each one left out.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    names = [] if given == "none" else given.split(",") if given != "all" else list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(f"unknown baseline {unknown[0]!r}; known: all, none, {', '.join(NAMES)}")
    split = TrainingSplit(bundled_recipe(corpus), ontology)
    chosen: list[Annotator] = []
    skipped = []
    for name in names:
        if name == "majority":
            chosen += [TrainingMajority(split), StudyMajority()]
        elif extra := missing_extra(name):
            skipped.append(f"{name} left out: not installed; pip install 'langcell[{extra}]'")
        else:
            chosen.append(Baseline(METHODS[name], split, cache / "baselines"))
    return chosen, skipped


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    add_models(parser, "mini and mini-fast; none: baselines only")
    parser.add_argument(
        "--baselines", default="all", help=f"all, none or some of {','.join(NAMES)}"
    )
    parser.add_argument("--rerank", type=int, default=0, help="candidates to rerank; 0: off")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--json", type=Path, default=None, help="also write the scores to this file"
    )
    return parse(parser)


def main() -> None:
    """Run the benchmark."""
    arguments = parse_arguments()
    ontology = Ontology.bundled()
    corpus = arguments.shared / "corpus"
    options = AnnotateOptions(rerank=arguments.rerank)
    try:
        if arguments.json:
            check_output(arguments.json, suffixes=(".json",), overwrite=True)
        models = {
            name: LangCell.from_pretrained(name, device=arguments.device)
            for name in arguments.model or ["mini", "mini-fast"]
            if name != "none"
        }
        files = read_validation_files(corpus)
        baselines, skipped = choose_baselines(arguments.baselines, corpus, ontology, cache_folder())
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    for line in skipped:
        print(line, file=sys.stderr)
    annotators: list[Annotator] = [
        LangCellAnnotator(name, model, ontology, options) for name, model in models.items()
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # low coverage of small gene panels
        results = list(run(annotators + baselines, files, ontology))
    print_tables(results, skipped)
    record = {
        "benchmark": "annotation",
        "models": {name: model.sha256 for name, model in models.items()},
        "ontology_release": ontology.release,
        "rerank": arguments.rerank,
        "used_for": "model selection",
        "skipped": skipped,
        **record_of(results),
    }
    line = json.dumps(record)
    if arguments.json:
        with replaced_file(arguments.json) as temporary:
            temporary.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
