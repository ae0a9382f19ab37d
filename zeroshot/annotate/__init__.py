"""Annotate cells: from counts to calls and scores."""
