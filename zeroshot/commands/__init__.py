"""The commands of this package: annotate (zeroshot), explain, export, fewshot, report, search."""
