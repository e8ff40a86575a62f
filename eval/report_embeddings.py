"""The map of embeddings: what a hypernetwork hears of each utterance, flattened to a plane."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.bench import Bench
from eval.report_blocks import Block, figure, note
from eval.report_figures import points_in_plane
from eval.scores import labels
from hyperasr.errors import ConfigError

__all__ = ["embedding_blocks", "principal_plane", "umap_plane"]

Floats = NDArray[np.float64]


def principal_plane(points: Floats) -> tuple[Floats, float]:
    """Return the coordinates (n, 2) along the two directions of most variance, and their share.

    Args:
        points: (n, d), at least 3 points of at least 2 dimensions.
    """
    centred = points - points.mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    # A direction has no sign of its own: its largest entry is made positive.
    signs = np.sign(directions[np.arange(2), np.abs(directions[:2]).argmax(1)])
    share = float((values[:2] ** 2).sum() / (values**2).sum())
    return centred @ (directions[:2] * signs[:, None]).T, share


def umap_plane(points: Floats, seed: int) -> Floats | None:
    """Return UMAP's coordinates (n, 2); None where umap-learn is not installed.

    Source: McInnes, Healy and Melville 2018, UMAP: Uniform Manifold Approximation and Projection
        for Dimension Reduction, arXiv 1802.03426.
    """
    try:
        from umap import UMAP
    except ImportError:
        return None
    with warnings.catch_warnings():
        # It says that a seed costs it its threads.
        warnings.simplefilter("ignore")
        return np.asarray(UMAP(random_state=seed).fit_transform(points), dtype=np.float64)


def embedding_blocks(bench: Bench, name: str) -> list[Block]:
    """Return the maps of one system's embeddings of the test set.

    Raises:
        ConfigError: the system does not listen, or there are too few utterances.
    """
    system = bench.systems[name]
    if not system.conditioned:
        raise ConfigError(f"{system.folder} listens to no embedding; give a hypernetwork's folder")
    source: Any = system.model.source
    embs = (bench.embeddings(system) - source.emb_mean) / source.emb_std
    points = embs.double().cpu().numpy()
    if len(points) < 3:
        raise ConfigError(f"a map needs at least 3 utterances, the test set has {len(points)}")
    plane, share = principal_plane(points)
    planes = [("PCA", plane)]
    around = umap_plane(points, bench.config.seed)
    if around is not None:
        planes.append(("UMAP", around))
    cohorts = labels(bench.column("cohort"), bench.column("domain"))
    severities = [float("nan") if s is None else float(s) for s in bench.column("severity")]
    n_speakers = len(set(bench.column("speaker")))
    about = (
        f"{len(points)} test utterances of {n_speakers} unseen speakers; standardised with the "
        f"training's mean and deviation. The plane of PCA holds {100 * share:.0f} percent of the "
        "variance."
    )
    drawn = points_in_plane(planes, cohorts, severities)
    blocks = [figure("Embeddings of the test set", about, drawn)]
    if around is None:
        blocks.append(note("UMAP is left out: umap-learn is not installed."))
    return blocks
