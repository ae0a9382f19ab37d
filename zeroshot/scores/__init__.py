"""Scores of cells against label texts (cells x candidates), and the FAISS index of the labels."""
