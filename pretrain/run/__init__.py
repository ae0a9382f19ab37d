"""A training run: model, Lightning module, callbacks, validation, run folder."""
