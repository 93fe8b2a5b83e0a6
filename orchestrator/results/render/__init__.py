"""Renderings of a table: one format per file. Each takes the table model and gives text; none computes a number."""
