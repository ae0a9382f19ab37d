"""Explain calls: the genes that raise or lower them, and the markers of the called type."""
