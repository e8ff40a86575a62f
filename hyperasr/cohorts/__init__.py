"""Cohorts: manifests, simulated cohorts, splits, sampling and caches."""
