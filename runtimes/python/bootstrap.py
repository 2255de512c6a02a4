"""Starts Python functions: the entry point of the managed Python runtimes. Filled by the next change."""
