"""Data sets in memory, their rows, batches and lineage, and the folder of synthetic images."""
