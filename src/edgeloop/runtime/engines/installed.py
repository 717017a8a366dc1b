"""Which engines are installed here, told from the packages alone.

Apart from `find`, which loads them: an agent says what its machine has before it holds a model, and until then it
should not pay for NumPy and the adapters.
"""

from importlib import metadata

from edgeloop.contracts.manifest import EngineName

PACKAGES = {
    EngineName.LITERT: "ai-edge-litert",
    EngineName.ONNXRUNTIME: "onnxruntime",
    EngineName.OPENVINO: "openvino",
}
"""The package that each engine comes in."""


def installed_engines() -> dict[EngineName, str]:
    """The engines whose package is installed, with its version; none of them is loaded."""
    found = {}
    for name, package in PACKAGES.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
