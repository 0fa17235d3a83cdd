"""Expert parallelism: the experts of a model spread over processes, all else in each of them (``expert_parallel``)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from gatedvision.engine.checkpoint_file import CheckpointError
from gatedvision.layers.moe import ExpertMlp, MoeMlp
from gatedvision.layers.moe_parallel import ExpertExchange


class ExpertParallel:
    """Cuts the experts of a model into shares, one for each process of a group, and keeps track of them.

    W processes make W / n groups of n neighbours. Each process computes its own batch, and within a group tokens
    travel to the process that has their expert and back. The gradients of experts are averaged over the groups, all
    others over all processes, as the mean over the joined batch wants it. So training is that of one process whose
    batch are the processes' batches one after the other, up to rounding and what is drawn at random, if

    - each process's batch is cut into the groups of images that the joined one would be: a multiple of the model's
      ``group_images`` in each process;
    - the optimizer looks at each element of a parameter alone, as SGD, Adam and AdamW do, and LAMB does not.

    Batches must be of one size in all processes, which the samplers see to unless ``round_up=False``.

    Checkpoints hold all experts, and load with any ``expert_parallel``, 1 included.

    Args:
        model: the task model, on any device; its experts are cut in place, the first process's, and moved to the
            device of this process.
        size: n, processes that share the experts of a layer; with 1 nothing is changed.

    Attributes:
        size: n.
        parameters: this process's shares by name.

    Raises:
        ValueError: ``size`` is no positive number, does not divide the number of processes or of experts, or the
            model has no experts, or no end to their capacity.
    """

    def __init__(self, model: nn.Module, size: int = 1) -> None:
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"expert_parallel must be a number of processes, at least 1, got {size!r}")
        self.size = size
        self.parameters: dict[str, nn.Parameter] = {}
        if size == 1:
            return
        num_processes = dist.get_world_size() if dist.is_initialized() else 1
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, ExpertMlp)}
        _check(layers, size, num_processes)
        _check_capacity(model, size)
        mesh = init_device_mesh(get_device(), (num_processes // size, size), mesh_dim_names=("replica", "expert"))
        self._replicas, self._sharers = mesh.get_group("replica"), mesh.get_group("expert")
        self._num_processes = num_processes
        self._index = mesh.get_local_rank("expert")
        exchange = ExpertExchange(self._sharers.group_name, size)
        for layer_name, layer in layers.items():
            exchange.attach(layer)
            for name, parameter in layer.named_parameters():
                self._cut_parameter(parameter)
                self.parameters[f"{layer_name}.{name}"] = parameter
        # What the data-parallel wrapper neither averages nor makes equal.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, list(self.parameters))

    def _cut_parameter(self, parameter: nn.Parameter) -> None:
        # Processes draw differently.
        whole = parameter.detach().to(get_device())
        dist.broadcast(whole, 0)
        parameter.data = self._cut(whole)
        if parameter.requires_grad:
            parameter.register_hook(self._average)

    def _average(self, gradient: Tensor) -> Tensor:
        """Average over the processes; those of the group have been added up where their tokens came together."""
        gradient = gradient.contiguous() / self._num_processes
        dist.all_reduce(gradient, group=self._replicas)
        return gradient

    def check_batches(self, loader: Any) -> None:
        """Refuse data of which some processes get fewer samples.

        Args:
            loader: a data loader.

        Raises:
            ValueError: its sampler does not round up.
        """
        if self.size > 1 and not getattr(loader.batch_sampler.sampler, "round_up", True):
            raise ValueError(f"expert_parallel={self.size} needs batches of one size: leave out the sampler's round_up")

    def clip_together(self, wrapper: OptimWrapper) -> None:
        """Make an optimizer that clips by the norm of its gradients count those of all experts, once each.

        Args:
            wrapper: the optimizer; changed in place.

        Raises:
            ValueError: it scales float16's losses, and processes would not leave out the same steps.
        """
        if self.size == 1:
            return
        if getattr(wrapper, "amp", None) == "fp16":
            raise ValueError(f"expert_parallel={self.size} does not go with amp 'fp16'; use bf16")
        if getattr(wrapper, "clip_func", None) is clip_grad_norm_:
            wrapper.clip_func = self.clip_grad_norm

    @torch.no_grad()
    def clip_grad_norm(self, parameters: Iterable[Tensor], max_norm: float, norm_type: float = 2.0) -> Tensor:
        """Scale the gradients of all processes down to a norm.

        Args:
            parameters: those with gradients, the same ones in all processes.
            max_norm: norm of all gradients together, of the experts elsewhere, too.
            norm_type: order of the norm.

        Returns:
            The norm before; it is the same in all processes.
        """
        parameters = list(parameters)
        shares = {id(parameter) for parameter in self.parameters.values()}
        gradients: tuple[list[Tensor], list[Tensor]] = ([], [])
        for parameter in parameters:
            if parameter.grad is not None:
                gradients[id(parameter) in shares].append(parameter.grad)
        common, own = (get_total_norm(some, norm_type).to(parameters[0]).view(1) for some in gradients)
        norms = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(norms, own, group=self._sharers)
        total = torch.linalg.vector_norm(torch.cat([common, *norms]), norm_type)
        clip_grads_with_norm_(parameters, max_norm, total)
        return total

    def join_checkpoint(self, checkpoint: dict[str, Any], wrapper: OptimWrapper) -> dict[str, Any]:
        """Put whole experts in the place of shares. All processes have to call it together.

        Args:
            checkpoint: with ``state_dict``, and perhaps ``ema_state_dict`` and ``optimizer``.
            wrapper: the optimizer.

        Returns:
            The checkpoint, in the first process with all experts.
        """
        return self._change_experts(checkpoint, wrapper, lambda name, share: self._join(share))

    def cut_checkpoint(self, checkpoint: dict[str, Any], wrapper: OptimWrapper | None = None) -> dict[str, Any]:
        """Put this process's shares in the place of whole experts.

        Args:
            checkpoint: see :meth:`join_checkpoint`.
            wrapper: the optimizer, if its state is of interest.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: it has another number of experts.
        """

        def cut(name: str, whole: Tensor) -> Tensor:
            wanted = len(self.parameters[name]) * self.size
            if len(whole) != wanted:
                raise CheckpointError(f"{name} in the checkpoint is of {len(whole)} experts, the model has {wanted}")
            return self._cut(whole)

        return self._change_experts(checkpoint, wrapper, cut)

    def _cut(self, whole: Tensor) -> Tensor:
        return whole.chunk(self.size)[self._index].clone()

    def _join(self, share: Tensor) -> Tensor:
        share = share.detach().to(get_device()).contiguous()
        shares = [torch.empty_like(share) for _ in range(self.size)]
        dist.all_gather(shares, share, group=self._sharers)
        # Only the first process saves.
        return torch.cat(shares).cpu() if dist.get_rank() == 0 else share

    def _change_experts(
        self, checkpoint: dict[str, Any], wrapper: OptimWrapper | None, change: Callable[[str, Tensor], Tensor]
    ) -> dict[str, Any]:
        """Change what a checkpoint holds of experts; called with the name of a parameter and a tensor of its."""
        if self.size == 1:
            return checkpoint
        changed = dict(checkpoint)
        for key, prefix in (("state_dict", ""), ("ema_state_dict", "module.")):
            if key in checkpoint:
                names = {f"{prefix}{name}": name for name in self.parameters}
                changed[key] = {
                    name: change(names[name], value) if name in names else value
                    for name, value in checkpoint[key].items()
                }
        if wrapper is not None and "optimizer" in checkpoint:
            names = {id(parameter): name for name, parameter in self.parameters.items()}
            order = [names.get(id(parameter)) for group in wrapper.param_groups for parameter in group["params"]]
            state = {
                index: {
                    key: change(name, value) if (name := order[index]) and _goes_along(value) else value
                    for key, value in values.items()
                }
                for index, values in checkpoint["optimizer"]["state"].items()
            }
            changed["optimizer"] = {**checkpoint["optimizer"], "state": state}
        return changed


def _goes_along(value: Any) -> bool:
    """Tell whether an entry of an optimizer's state is as the parameter; steps are counted by scalars."""
    return isinstance(value, Tensor) and value.ndim > 0


def _check(layers: dict[str, ExpertMlp], size: int, num_processes: int) -> None:
    """Refuse what cannot be shared.

    Raises:
        ValueError: see :class:`ExpertParallel`.
    """
    if not layers:
        raise ValueError(f"expert_parallel={size} is for models with experts, and this one has none")
    if num_processes % size:
        raise ValueError(
            f"expert_parallel={size} does not divide the number of processes, {num_processes}; "
            f"start a multiple of {size} with torchrun, or change it"
        )
    for name, layer in layers.items():
        num_experts = len(layer.fc1.weight)
        if num_experts % size:
            raise ValueError(f"expert_parallel={size} does not divide the {num_experts} experts of {name}")


def _check_capacity(model: nn.Module, size: int) -> None:
    """Refuse routers that give experts as much as there is.

    Raises:
        ValueError: there is one.
    """
    for name, layer in model.named_modules():
        router = layer.router if isinstance(layer, MoeMlp) else None
        for mode, factor in (("training", "capacity_factor"), ("evaluation", "eval_capacity_factor")):
            if getattr(router, factor, 1.0) == float("inf"):
                raise ValueError(f"expert_parallel={size} needs a finite capacity_factor, {name} has inf in {mode}")
