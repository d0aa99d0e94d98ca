"""What the loop asks of the processes it runs in, and the answers where there is only one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from aent.processes.share import Share

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


class ProcessesError(RuntimeError):
    """Processes cannot be started or were started otherwise than configured."""


class Processes:
    """One process: everything is here, and nothing has to be told to anybody.

    Subclasses have several. All of them call each method in the same order; what must not happen
    is that one of them leaves the loop without the others.
    """

    count = 1
    """How many there are."""
    rank = 0
    """Which one this is; the first one writes files."""

    def __init__(self, device: str = "cpu"):
        """Run on a device: cpu or cuda."""
        self.device = torch.device(device)

    @property
    def first(self) -> bool:
        """Whether this one writes metrics, states, checkpoints and progress."""
        return self.rank == 0

    def accelerator(self) -> Accelerator:
        """Accelerate's view of the processes, for libraries that want one."""
        from accelerate import Accelerator

        return Accelerator(cpu=self.device.type == "cpu")

    def share(self, prompts: int, minibatches: int) -> Share:
        """Which prompts of a step this process takes: as many of each minibatch as the others."""
        size = prompts // minibatches
        part = size // self.count
        starts = range(self.rank * part, prompts, size)
        return Share([start + n for start in starts for n in range(part)], prompts)

    def gather(self, values: Tensor) -> Tensor:
        """All processes' values [n, ...], with an n of each one's own, one behind the other."""
        return values

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes, the same bits in each of them."""
        return values

    def any(self, here: bool) -> bool:
        """Whether something is so in any process."""
        return here

    def agreed(self, decide: Callable[[], T]) -> T:
        """What the first process decides; it must not be made of tensors on a device."""
        return decide()

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module for training: gradients become means over the processes.

        Called before optimisers take the module's weights.
        """
        return module

    def accumulating(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around a forward and backward pass; the last of an optimiser step exchanges gradients."""
        return nullcontext()

    def norm(self, tensors: list[Tensor]) -> Tensor:
        """The norm of weights or gradients taken together."""
        return nn.utils.get_total_norm(tensors)

    def local(self, tensor: Tensor) -> Tensor:
        """The part of a weight or gradient that is here."""
        return tensor

    def clip_gradient(self, module: nn.Module, limit: float) -> Tensor:
        """Scale a module's gradient down to a norm; gives its norm before."""
        return nn.utils.clip_grad_norm_(module.parameters(), limit)

    @contextmanager
    def whole(self, module: nn.Module) -> Iterator[nn.Module]:
        """A prepared module with all weights here, for passes that nobody else takes part in."""
        yield module

    def module_state(self, module: nn.Module) -> dict[str, Any]:
        """A module's whole state, as of one process; empty in all processes but the first."""
        return module.state_dict()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """As `module_state`."""
        return optimizer.state_dict()

    def load_module(self, module: nn.Module, state: dict[str, Any]) -> None:
        """Load what `module_state` gave, in whatever number of processes; the first one has it."""
        module.load_state_dict(state)

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """As `load_module`."""
        optimizer.load_state_dict(state)

    def close(self) -> None:
        """Leave the group of processes."""
