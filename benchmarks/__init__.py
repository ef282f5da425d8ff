"""Measurements that are reported, never asserted: `python -m benchmarks [name]`. Quote ratios of one run, not times."""
