"""A training step as one CUDA graph: small networks wait for the launches of their kernels more than for the kernels.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import contextlib
import functools
import gc
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

# Steps taken without a graph before one is captured: libraries choose their algorithms and allocate in the first ones.
WARM_UP_STEPS = 3

# Takes the tensors of one batch and changes parameters, buffers and sums in place.
Step = Callable[[Mapping[str, Tensor]], None]


class CapturedStep:
    """Calls ``step`` with the tensors of a batch, from the fourth call on by replaying a graph of its kernels.

    The first ``warm_up`` calls are true steps on a side stream, so calls end with the bits that ``step`` alone ends
    with. ``step`` may hold nothing that depends on the values of tensors (``item``, copies to a CPU, masks of unknown
    size), must keep its results in tensors made before the first call, and must take what changes from step to step
    (the learning rate) as a tensor of the batch. Every batch has the names, shapes and dtypes of the first.

    On a CPU, and where a graph cannot be captured, ``step`` is called every time and ``reason`` says why; it is ''
    while a graph may still be captured or is in use. Dropout draws the numbers that it draws without a graph.
    """

    def __init__(self, step: Step, device: torch.device, warm_up: int = WARM_UP_STEPS):
        self.step = step
        self.device = device
        self.reason = "" if device.type == "cuda" else f"there are no graphs on a {device.type} device"
        self._left = max(1, warm_up)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: dict[str, Tensor] = {}
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        if not self.reason:
            self._stream, self._pool = _shared(device)

    @property
    def captured(self) -> bool:
        """Whether steps are replayed."""
        return self._graph is not None

    def __call__(self, batch: Mapping[str, Tensor]) -> None:
        """One step. Raises what ``step`` raises without a graph, ValueError for a batch of another form."""
        if self.reason:
            self.step(batch)
        elif self._left:
            self._warm_up(batch)
        else:
            if self._graph is None:
                self._capture(batch)
            self._replay(batch)

    def _warm_up(self, batch: Mapping[str, Tensor]) -> None:
        """A step on a side stream, since what was allocated on the main one may not be captured."""
        assert self._stream is not None
        self._left -= 1
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream), _listening(self._left == 0) as waits:
            self.step(batch)
        torch.cuda.current_stream(self.device).wait_stream(self._stream)
        if waits:
            self.reason = f"the step waits for the device ({waits[0]})"

    def _capture(self, batch: Mapping[str, Tensor]) -> None:
        """Record the step's kernels without running them."""
        self._batch = {name: tensor.clone() for name, tensor in batch.items()}
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        try:
            with torch.cuda.stream(self._stream), _no_garbage():
                # not by torch.cuda.graph, which collects garbage and empties the cache first, for as long as a short
                # training takes; thread_local: what other threads do on the device does not end the capture
                graph.capture_begin(self._pool, capture_error_mode="thread_local")
                try:
                    self.step(self._batch)
                finally:
                    graph.capture_end()
        except Exception as error:  # a step may do anything that cannot be captured
            self.reason = (str(error).splitlines() or [type(error).__name__])[0]
            self._batch = {}
            return
        self._graph = graph

    def _replay(self, batch: Mapping[str, Tensor]) -> None:
        if self._graph is None:
            self.step(batch)
            return
        if batch.keys() != self._batch.keys():
            raise ValueError(f"a captured step takes {sorted(self._batch)}, got {sorted(batch)}")
        for name, tensor in batch.items():
            place = self._batch[name]
            if (tensor.shape, tensor.dtype) != (place.shape, place.dtype):
                raise ValueError(
                    f"a captured step takes {name} as {place.dtype} {tuple(place.shape)}, got {tensor.dtype} "
                    f"{tuple(tensor.shape)}; train an incomplete batch without a graph"
                )
            place.copy_(tensor, non_blocking=True)
        self._graph.replay()


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Nothing of the device may be given back while a graph is captured."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@functools.cache
def _shared(device: torch.device) -> tuple[torch.cuda.Stream, Any]:
    """The side stream and the memory of all graphs on a device.

    Graphs may share memory, since none leaves a result there and one process replays one at a time. A graph that
    stays for ever keeps it, so that the next training finds it again.
    """
    stream, pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
    place = torch.zeros((), device=device)
    anchor = torch.cuda.CUDAGraph()
    torch.cuda.synchronize(device)
    with torch.cuda.stream(stream):
        anchor.capture_begin(pool, capture_error_mode="thread_local")
        place.add_(1)
        anchor.capture_end()
    _anchors.append(anchor)
    return stream, pool


_anchors: list[torch.cuda.CUDAGraph] = []


@contextlib.contextmanager
def _listening(wanted: bool) -> Iterator[list[str]]:
    """Collect what waits for the device. A capture that fails half-way leaves the allocator and the generator of
    random numbers in its mode, so a step that cannot be captured is found before."""
    found: list[str] = []
    if not wanted:
        yield found
        return
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for warning in caught:
        if "called a synchronizing CUDA operation" in str(warning.message):
            found.append(f"line {warning.lineno} of {warning.filename}")
        elif "debug mode is a prototype" not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
