"""Settings on a command line, ``KEY=VALUE``, with values that may hold spaces."""

from argparse import ArgumentError, ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction


class CfgOptions(DictAction):
    """mmengine's action, but for spaces: it takes them out of every value, and paths have them.

    ``KEY=VALUE`` replaces a setting by a number, ``True``, ``False``, ``None`` or a text; ``KEY=V1,V2`` and
    ``KEY=(V1,V2)`` by a list and a tuple of them.
    """

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,  # pyright: ignore[reportArgumentType]
    ) -> None:
        """Add settings to those that were given before.

        Raises:
            ArgumentError: if one is not ``KEY=VALUE``, or its brackets do not match.
        """
        options = dict(getattr(namespace, self.dest, None) or {})
        for setting in values or ():
            key, equals, value = setting.partition("=")
            if not key or not equals:
                raise ArgumentError(self, f"settings are KEY=VALUE, got {setting!r}")
            try:
                options[key] = self._parse(value)
            except AssertionError as error:
                raise ArgumentError(self, f"{error}, in {setting!r}") from error
        setattr(namespace, self.dest, options)

    def _parse(self, value: str) -> Any:
        bare = value.strip("'\"")
        if "," in bare or (bare[:1], bare[-1:]) in (("(", ")"), ("[", "]")):
            return self._parse_iterable(value)
        return self._parse_int_float_bool(bare)
