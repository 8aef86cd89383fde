"""Benchmarks: one question per file, each against a floor measured in the same run."""
