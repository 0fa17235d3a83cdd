"""What a module keeps of its last forward pass only."""

from typing import Any


class Transient:
    """Base of such a record: copies and files of the module get an empty one, since tensors with a gradient cannot go.

    Its class is made without arguments.
    """

    def __deepcopy__(self, memo: Any) -> "Transient":
        return type(self)()

    def __reduce__(self) -> Any:
        return type(self), ()
