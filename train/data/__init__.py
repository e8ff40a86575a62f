"""Recordings to train on, develop with and test on: corpora, who is in which split, manifests."""
