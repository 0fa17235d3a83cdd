"""Which parameters decay, and how fast each layer learns."""

from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from timm.models import group_parameters
from timm.optim import param_groups_weight_decay

from gatedvision.engine.training_state import unwrap


class ParamGroups:
    """Builds the optimizer with one group of decayed and one of undecayed parameters.

    Biases, other 1-D parameters (norms, layer scales) and what the model's ``no_weight_decay()`` names do not decay.
    With layer decay there is such a pair for each layer of the backbone, and a layer's learning rate is
    ``lr * layer_decay ** (layers above it)``.

    Args:
        optim_wrapper_cfg: config of the optimizer wrapper, with ``optimizer=dict(type=..., lr=..., ...)``.
        paramwise_cfg: ``None`` or ``dict(layer_decay=...)``, a factor in (0, 1].

    Raises:
        ValueError: ``paramwise_cfg`` holds another key, or a layer decay out of range.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        options = dict(paramwise_cfg or {})
        self.layer_decay: float = options.pop("layer_decay", 1.0)
        if options:
            raise ValueError(f"paramwise_cfg takes layer_decay only, got {', '.join(options)}")
        if not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"layer_decay must lie in (0, 1], got {self.layer_decay}")
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.wrapper_cfg.pop("optimizer"))

    def __call__(self, model: Any) -> OptimWrapper:
        """Build the optimizer of a task model.

        Args:
            model: the task model, or its data-parallel wrapper.

        Returns:
            The optimizer in its wrapper.
        """
        model = unwrap(model)
        weight_decay = self.optimizer_cfg.get("weight_decay", 0.0)
        exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=exempt)
        if self.layer_decay < 1.0:
            groups = self._split_by_layer(groups, model)
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, "params": groups})
        wrapper = OPTIM_WRAPPERS.build(self.wrapper_cfg, default_args={"type": OptimWrapper, "optimizer": optimizer})
        if self.layer_decay == 1.0:
            # mmengine would log a base rate beside the rates of the groups, and here they are all the same.
            wrapper.base_param_settings = None
        return wrapper

    def _split_by_layer(self, groups: list[dict[str, Any]], model: Any) -> list[dict[str, Any]]:
        backbone = model.backbone
        layer_of_name: Any = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
        top = max(layer_of_name.values())
        layer_of = {id(parameter): layer_of_name[name] for name, parameter in backbone.named_parameters()}
        split: dict[tuple[int, float], dict[str, Any]] = {}
        for group in groups:
            for parameter in group["params"]:
                # What lies on top of the backbone learns at the full rate.
                layer = layer_of.get(id(parameter), top)
                lr = self.optimizer_cfg["lr"] * self.layer_decay ** (top - layer)
                empty = {"params": [], "weight_decay": group["weight_decay"], "lr": lr}
                split.setdefault((layer, group["weight_decay"]), empty)["params"].append(parameter)
        return [split[key] for key in sorted(split)]
