"""Several processes on PyTorch's distributed engines, set up by accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    fsdp2_prepare_model,
)
from torch import Tensor, nn
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from aent.processes.one import Processes

T = TypeVar("T")


class SeveralProcesses(Processes):
    """Processes that hold copies (DDP) or parts (FSDP2) of the models and divide the batch."""

    def __init__(self, device: str, sharded: str | None = None):
        """Join the group that the launcher describes in the environment.

        Args:
            device: cpu or cuda.
            sharded: share models out by FSDP2 and compute in this type, float32 or bfloat16;
                None for copies.
        """
        self.sharded = sharded is not None
        plugin = _sharding(sharded) if sharded else None
        self._accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision="no",  # the update's own autocast does it, as in one process
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
            fsdp_plugin=plugin,
        )
        if plugin and not self._accelerator.is_fsdp2:  # accelerate knows it on GPUs only
            state = self._accelerator.state
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
        super().__init__(str(self._accelerator.device))
        self.count, self.rank = self._accelerator.num_processes, self._accelerator.process_index

    def accelerator(self) -> Accelerator:
        """The accelerator that set the processes up."""
        return self._accelerator

    def gather(self, values: Tensor) -> Tensor:
        """See `Processes.gather`."""
        sizes = self._gather_equal(torch.tensor([len(values)], device=self.device)).tolist()
        padded = values.new_zeros((max(sizes), *values.shape[1:]))
        padded[: len(values)] = values
        parts = self._gather_equal(padded).chunk(self.count)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def _gather_equal(self, values: Tensor) -> Tensor:
        """Values [n, ...] of all processes, n the same in all of them."""
        kind = values.dtype
        values = (values.to(torch.uint8) if kind == torch.bool else values).contiguous()
        parts = [torch.empty_like(values) for _ in range(self.count)]
        dist.all_gather(parts, values)
        return torch.cat(parts).to(kind)

    def sum(self, values: Tensor) -> Tensor:
        """See `Processes.sum`; gathered and then added in the order of ranks."""
        return self._gather_equal(values[None]).sum(dim=0)

    def any(self, here: bool) -> bool:
        """See `Processes.any`."""
        return bool(self.sum(torch.tensor(int(here), device=self.device)))

    def agreed(self, decide: Callable[[], T]) -> T:
        """See `Processes.agreed`. What the first process raises ends it, and so all of them."""
        found: list[Any] = [decide() if self.first else None]
        dist.broadcast_object_list(found, src=0)
        decided: T = found[0]
        return decided

    def prepare(self, module: nn.Module) -> nn.Module:
        """See `Processes.prepare`; FSDP2 changes the module in place, DDP wraps it."""
        if not self.sharded:
            prepared: nn.Module = self._accelerator.prepare_model(module)
            return prepared
        fsdp2_prepare_model(self._accelerator, module)
        assert isinstance(module, FSDPModule)
        # The outermost part would stay gathered otherwise, and be stale after an optimiser step
        # that follows a pass without gradients.
        module.set_reshard_after_forward(True)
        # The first part that runs is taken for the outermost one; sampling runs inner parts first.
        settling: Any = module
        settling.settle = lambda: None
        register_fsdp_forward_method(module, "settle")
        settling.settle()
        return module

    def accumulating(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """See `Processes.accumulating`; FSDP2 exchanges each time, since that saves memory."""
        if last or self.sharded:
            return nullcontext()
        waiting: AbstractContextManager[Any] = self._accelerator.no_sync(module)
        return waiting

    def norm(self, tensors: list[Tensor]) -> Tensor:
        """See `Processes.norm`."""
        return _full(super().norm(tensors))

    def local(self, tensor: Tensor) -> Tensor:
        """See `Processes.local`."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def clip_gradient(self, module: nn.Module, limit: float) -> Tensor:
        """See `Processes.clip_gradient`."""
        return _full(super().clip_gradient(module, limit))

    @contextmanager
    def whole(self, module: nn.Module) -> Iterator[nn.Module]:
        """See `Processes.whole`."""
        parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield module.module if isinstance(module, DistributedDataParallel) else module
        finally:
            for part in parts:
                part.set_reshard_after_forward(True, recurse=False)
                part.reshard()

    def module_state(self, module: nn.Module) -> dict[str, Any]:
        """See `Processes.module_state`."""
        return self._gathered(module.state_dict(keep_vars=True))

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """See `Processes.optimizer_state`."""
        return self._gathered(optimizer.state_dict())

    def _gathered(self, state: dict[str, Any]) -> dict[str, Any]:
        """Gather one tensor after the other, and keep them in the first process's memory."""
        seen: dict[int, Tensor] = {}

        def whole(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: whole(item) for key, item in value.items()}
            if not isinstance(value, Tensor):
                return value
            if id(value) not in seen:  # tied weights stay one tensor
                here = _full(value.detach())
                seen[id(value)] = here.cpu() if self.first else here.new_empty(0)
            return seen[id(value)]

        found: dict[str, Any] = whole(state)
        return found if self.first else {}

    @torch.no_grad()
    def load_module(self, module: nn.Module, state: dict[str, Any]) -> None:
        """See `Processes.load_module`."""
        for name, tensor in module.state_dict(keep_vars=True).items():
            tensor.copy_(self._placed(state.get(name), tensor))

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """See `Processes.load_optimizer`."""
        params = [param for group in optimizer.param_groups for param in group["params"]]
        outline = self.agreed(lambda: _outline(state))
        for place, values in outline["state"].items():
            for name, value in values.items():
                if isinstance(value, torch.Size):
                    given = state["state"][place][name] if self.first else None
                    values[name] = self._placed(given, params[place])
        optimizer.load_state_dict(outline)

    def _placed(self, value: Tensor | None, like: Tensor) -> Tensor:
        """The first process's tensor, with the type, device and share of another one."""
        full = torch.empty(like.shape, dtype=like.dtype, device=self.device)
        if value is not None:
            full.copy_(value)
        if isinstance(like, DTensor):
            return distribute_tensor(full, like.device_mesh, like.placements)
        dist.broadcast(full, src=0)
        return full

    def close(self) -> None:
        """See `Processes.close`."""
        self._accelerator.end_training()


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _sharding(dtype: str) -> FullyShardedDataParallelPlugin:
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if dtype == "bfloat16" else None, reduce_dtype=torch.float32
    )
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        reshard_after_forward=True,
        mixed_precision_policy=precision,
        cpu_ram_efficient_loading=False,
    )


def _outline(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state with shapes in place of the tensors that are shaped like a weight."""
    return state | {
        "state": {
            place: {
                name: value.shape if isinstance(value, torch.Tensor) and value.ndim else value
                for name, value in values.items()
            }
            for place, values in state["state"].items()
        }
    }
