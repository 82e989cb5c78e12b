"""Work of a device, captured as a CUDA graph and launched as one.

A small network's step is some fifty operations, each of which takes longer to launch than to do. A
graph holds them as they were when it was captured: the operations, the numbers that Python gave
them, and the addresses of their tensors. What differs from launch to launch must lie in tensors
that stay where they are; who holds a graph must see that all else is as it was, see ``form``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_BEFORE_CAPTURE = 2
"""Times that the work is done first, in which libraries set up what a graph could not hold."""


class CannotCaptureError(RuntimeError):
    """What torch says of work that cannot be captured, in its first line; none of it was done."""


class Captured:
    """Work on tensors that stay where they are; on CUDA a graph, from the third time on.

    Args:
        work: what is done at each call. It may not ask for the value of a tensor.
        device: where the tensors are.
    """

    def __init__(self, work: Callable[[], None], device: torch.device) -> None:
        self._work, self._device, self._can_capture = work, device, can_capture(device)
        self._left = _BEFORE_CAPTURE
        self._launch: Callable[[], None] | None = None

    @property
    def is_graph(self) -> bool:
        """Whether there is a graph, so that the work itself is done no more."""
        return self._launch is not None

    def __call__(self) -> None:
        """Do the work.

        Raises:
            CannotCaptureError: at the third time; what the work itself raises, before.
        """
        if self._launch is not None:
            self._launch()
        elif not self._can_capture:
            self._work()
        elif self._left:
            aside(self._work, self._device)
            self._left -= 1
        else:
            try:
                self._launch = graph_of(self._work, self._device)
            except RuntimeError as problem:
                raise CannotCaptureError(str(problem).partition("\n")[0]) from problem
            self._launch()


def can_capture(device: torch.device) -> bool:
    """Whether there are graphs of work on a device."""
    return device.type == "cuda"


def aside(work: Callable[[], None], device: torch.device) -> None:
    """Do the work on a stream of its own, as what is captured later will be."""
    with torch.cuda.device(device):
        stream, here = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(here)
        try:
            with torch.cuda.stream(stream):
                work()
        finally:
            here.wait_stream(stream)


def graph_of(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What launches the work as a graph; capturing notes what is to be done, and does nothing."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # torch's own for captures may be of another device
        # Other threads may go on allocating: those of a loader, say.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            work()

    def launch() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return launch
