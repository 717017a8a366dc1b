"""Who feeds whom in a Keras network, as far as moving factors between layers needs to know.

Neighbours: `equalize` moves them, `aware` looks where activations end.
"""

from collections import Counter
from typing import Any

from edgeloop.toolchain.backend import import_keras


class Topology:
    """The calls of a functional keras.Model."""

    def __init__(self, net: Any) -> None:
        by_depth = net._nodes_by_depth
        self.nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
        self._calls = Counter(node.operation.name for node in self.nodes)
        self._outputs = {id(tensor) for tensor in net.outputs}
        self._users: dict[int, list[Any]] = {}
        for node in self.nodes:
            for tensor in node.input_tensors:
                self._users.setdefault(id(tensor), []).append(node)

    def is_called_once(self, node: Any) -> bool:
        """Whether its layer works at this one place: a shared layer's weights belong to several."""
        return self._calls[node.operation.name] == 1

    def only_user(self, node: Any) -> Any | None:
        """The one node that reads this one's one output; None if others do, or the model gives it out."""
        if len(node.outputs) != 1 or id(node.outputs[0]) in self._outputs:
            return None
        users = self._users.get(id(node.outputs[0]), [])
        return users[0] if len(users) == 1 and len(users[0].input_tensors) == 1 else None


def functional(net: Any) -> Any:
    """The same layers as a functional keras.Model, also of a Sequential one."""
    keras = import_keras()
    if type(net) is keras.Sequential:
        return keras.Model(net.inputs, net.outputs[0] if len(net.outputs) == 1 else net.outputs)
    return net


def activation_name(layer: Any) -> str | None:
    """What a layer applies to its result: "linear", "relu", ...; None for a layer without such an attribute."""
    found = getattr(layer, "activation", None)
    return None if found is None else str(getattr(found, "__name__", found))
