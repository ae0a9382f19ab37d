"""One training step: collator, objective, gradient, teachers."""
