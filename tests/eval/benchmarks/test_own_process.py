"""A peer in a process of its own: the same answers, the same errors, and an end."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from eval.benchmarks.own_process import OwnProcess
from eval.benchmarks.peers import Missing
from hyperasr.errors import HyperASRError


def summing(x: Tensor, *, times: int = 1) -> Any:
    return lambda: (os.getpid(), float(x.sum()) * times)


def missing() -> Any:
    raise Missing("no such peer")


def failing() -> Any:
    return partial(divmod, 1, 0)


def dying() -> Any:
    return partial(os._exit, 7)


def test_it_works_elsewhere_and_gives_the_same() -> None:
    x = torch.arange(6.0)
    peer = OwnProcess(summing, x, times=2)
    pid, total = peer()
    assert pid != os.getpid()
    assert total == summing(x, times=2)()[1]
    assert peer() == (pid, total), "kept between calls"
    peer.close()
    assert peer._process.exitcode == 0
    peer.close()


def test_errors_come_back_as_they_are() -> None:
    with pytest.raises(Missing, match="no such peer"):
        OwnProcess(missing)
    peer = OwnProcess(failing)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            peer()
    peer.close()


def test_a_process_that_is_gone_is_named() -> None:
    peer = OwnProcess(dying)
    for _ in range(2):
        with pytest.raises(HyperASRError, match="status 7"):
            peer()
