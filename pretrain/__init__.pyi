"""Turning labelled expression data and the Cell Ontology into weights."""

from .corpus.build import build_corpus as build_corpus
from .corpus.options import BuildOptions as BuildOptions
from .recipe.config import Recipe as Recipe
from .recipe.recipe_file import read_recipe as read_recipe
from .run.dry_run import plan as plan
from .run.training import train as train
