"""Several processes that train one model together, started by torchrun; one process alone is a team of one."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from danlu.training.objective import Batch, Loss, Objective


class Team:
    """This process's place among all that torchrun started. The leader alone writes."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.size > 1 and not distributed.is_initialized():
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
            # DistributedDataParallel imports this, and imported beside a group it keeps that alive past leave(), to the end of the process.
            importlib.import_module("torch._dynamo")
            distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")

    def leave(self) -> None:
        """Part from the others and end the group's threads: one that lets go of a tensor while Python ends aborts the process."""
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes, shows and decides."""
        return self.rank == 0

    def agree(self, value: Any) -> Any:
        """The leader's value, in every process."""
        if self.size == 1:
            return value
        told = [value]
        distributed.broadcast_object_list(told, src=0)
        return told[0]

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """First the leader alone does what is inside, then the others."""
        if self.size > 1 and not self.leads:
            distributed.barrier()
        yield
        if self.size > 1 and self.leads:
            distributed.barrier()

    def total(self, *numbers: float) -> list[float]:
        """Sums over all processes."""
        if self.size == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(sums)
        return sums.tolist()  # type: ignore[no-any-return]

    def share(self, module: nn.Module) -> None:
        """Give every process the leader's weights."""
        if self.size > 1:
            for weight in module.parameters():
                distributed.broadcast(weight.data, src=0)

    def draw_apart(self, seed: int, step: int) -> None:
        """Let every process but the leader draw numbers of its own, for dropout, from this step on."""
        if self.rank:
            torch.manual_seed(hash((seed, step, self.rank)))

    def learner(self, module: nn.Module, objective: Objective) -> Learner:
        """What computes losses; backward() leaves in every process the mean of all processes' gradients."""
        return Learner(module, objective, self.size)


class Learner:
    """A model with what it learns; gradients of several processes meet in the last of a step's parts."""

    def __init__(self, module: nn.Module, objective: Objective, processes: int) -> None:
        self.inner = _Learning(module, objective)
        # BERT's pooler, for one, has no gradient where next sentences are not asked for.
        self.outer = DistributedDataParallel(self.inner, find_unused_parameters=True) if processes > 1 else None

    def loss(self, batch: Batch) -> Loss:
        """How wrong the model is on a part of a step."""
        total = (self.outer or self.inner)(batch)
        assert self.inner.found is not None
        return Loss(total=total, count=self.inner.found.count, right=self.inner.found.right)

    @contextmanager
    def gathering(self, last: bool) -> Iterator[None]:
        """While open, gradients are added up here, and in the last part among all processes."""
        if self.outer is None or last:
            yield
        else:
            with self.outer.no_sync():
                yield


class _Learning(nn.Module):
    """A loss as a module's forward pass, which is what DistributedDataParallel hooks into."""

    def __init__(self, module: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.module, self.objective = module, objective
        self.found: Loss | None = None

    def forward(self, batch: Batch) -> Tensor:
        self.found = self.objective.loss(self.module, batch)
        return self.found.total if batch.asks else self.found.total * 0
