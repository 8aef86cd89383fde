"""The journal's tables, over its one connection and within its transactions: a file for each, or for a few."""
