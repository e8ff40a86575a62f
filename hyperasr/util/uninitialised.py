"""Modules of torch without first values, for weights that are loaded or set at once."""

from __future__ import annotations

from typing import Any

from torch.overrides import TorchFunctionMode


class Uninitialised(TorchFunctionMode):
    """A block of this thread in which the functions of `torch.nn.init` leave a tensor as it is.

    Drawing values takes time and torch's global random state, and on the device ``meta`` it imports
    sympy and torch._dynamo.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, but for one of `torch.nn.init` return its tensor."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
