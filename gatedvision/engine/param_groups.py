"""Which parameters decay, and how fast each layer learns."""

from fnmatch import fnmatchcase
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from timm.models._manipulate import group_with_matcher
from timm.optim import param_groups_weight_decay

from gatedvision.engine.training_state import unwrap


class ParamGroups:
    """Builds the optimizer with one group of decayed and one of undecayed parameters.

    Biases, other 1-D parameters (norms, layer scales) and what the model's ``no_weight_decay()`` names do not decay.
    With layer decay there is such a pair for each layer of the backbone, and a layer's learning rate is
    ``lr * layer_decay ** (layers above it)``. The layers are those of the backbone's ``group_matcher``; what it does
    not name (its last norm and classifier) and what lies outside of the backbone (the heads of a task) is together the
    layer on top, which learns at ``lr``.

    Args:
        optim_wrapper_cfg: config of the optimizer wrapper, with ``optimizer=dict(type=..., lr=..., ...)``.
        paramwise_cfg: ``None`` or a dict of ``layer_decay``, a factor in (0, 1]; ``by_stage=True`` to count stages as
            layers instead of blocks; ``backbone_rate``, a factor in (0, 1] for all layers but the one on top; and
            ``rates``, further factors for parameters by name or glob pattern, such as ``{"backbone.gate.*": 10.0}``;
            of several that match, the first. Parameters at a rate of 0 stay as they are; their gradients are taken, and
            count where the norm of all is clipped.

    Raises:
        ValueError: ``paramwise_cfg`` holds another key, or a factor out of range.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        options = dict(paramwise_cfg or {})
        self.layer_decay: float = options.pop("layer_decay", 1.0)
        self.by_stage: bool = options.pop("by_stage", False)
        self.backbone_rate: float = options.pop("backbone_rate", 1.0)
        self.rates: dict[str, float] = dict(options.pop("rates", {}))
        if options:
            raise ValueError(
                f"paramwise_cfg takes layer_decay, by_stage, backbone_rate and rates only, got {', '.join(options)}"
            )
        for name, factor in (("layer_decay", self.layer_decay), ("backbone_rate", self.backbone_rate)):
            if not 0.0 < factor <= 1.0:
                raise ValueError(f"{name} must lie in (0, 1], got {factor}")
        for pattern, factor in self.rates.items():
            if not 0.0 <= factor < float("inf"):
                raise ValueError(f"the rate of {pattern!r} must be 0 or above and finite, got {factor}")
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.wrapper_cfg.pop("optimizer"))

    def __call__(self, model: Any) -> OptimWrapper:
        """Build the optimizer of a task model.

        Args:
            model: the task model, or its data-parallel wrapper; or a part of it, for an optimizer of its own.

        Returns:
            The optimizer in its wrapper.

        Raises:
            ValueError: layers are to learn at other rates, and it has no backbone; or it has no parameter of a name
                in ``rates``.
        """
        model = unwrap(model)
        weight_decay = self.optimizer_cfg.get("weight_decay", 0.0)
        exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=exempt)
        has_one_rate = self.layer_decay == self.backbone_rate == 1.0 and not self.rates
        if not has_one_rate:
            groups = self._split_by_rate(groups, model)
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, "params": groups})
        wrapper = OPTIM_WRAPPERS.build(self.wrapper_cfg, default_args={"type": OptimWrapper, "optimizer": optimizer})
        if has_one_rate:
            # mmengine would log a base rate beside the rates of the groups, and here they are all the same.
            wrapper.base_param_settings = None
        return wrapper

    def _split_by_rate(self, groups: list[dict[str, Any]], model: Any) -> list[dict[str, Any]]:
        layer_of, factor_of = self._layers(model), self._factors(model)
        top = max(layer_of.values())
        split: dict[tuple[int, float, float], dict[str, Any]] = {}
        for group in groups:
            for parameter in group["params"]:
                layer, factor = layer_of[id(parameter)], factor_of[id(parameter)]
                rate = self.layer_decay ** (top - layer) * (self.backbone_rate if layer < top else 1.0)
                lr = self.optimizer_cfg["lr"] * rate * factor
                empty = {"params": [], "weight_decay": group["weight_decay"], "lr": lr}
                split.setdefault((layer, factor, group["weight_decay"]), empty)["params"].append(parameter)
        return [split[key] for key in sorted(split)]

    def _factors(self, model: Any) -> dict[int, float]:
        """Factor of each parameter's rate by its name, by the parameter's identity.

        Raises:
            ValueError: a name matches no parameter.
        """
        factors, unused = {}, set(self.rates)
        for name, parameter in model.named_parameters():
            matches = [pattern for pattern in self.rates if fnmatchcase(name, pattern)]
            unused -= set(matches)
            factors[id(parameter)] = self.rates[matches[0]] if matches else 1.0
        if unused:
            raise ValueError(f"rates: {type(model).__name__} has no parameter {min(unused)!r}")
        return factors

    def _layers(self, model: Any) -> dict[int, int]:
        """Number of the layer of each parameter, counted from below, by the parameter's identity.

        Raises:
            ValueError: layers are to learn at other rates, and there is no backbone.
        """
        if self.layer_decay == self.backbone_rate == 1.0:
            return {id(parameter): 0 for parameter in model.parameters()}
        if not hasattr(model, "backbone"):
            raise ValueError(f"{type(model).__name__} has no backbone whose layers could learn at other rates")
        names = {id(parameter): name for name, parameter in model.backbone.named_parameters()}
        # What no pattern matches comes out on top, and nothing of a backbone is called like this.
        named = {names.get(id(parameter), f"(task).{name}"): parameter for name, parameter in model.named_parameters()}
        matcher = model.backbone.group_matcher(coarse=self.by_stage)
        layers: Any = group_with_matcher(iter(named.items()), matcher, reverse=True)
        return {id(parameter): layers[name] for name, parameter in named.items()}
