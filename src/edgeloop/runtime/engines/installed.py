"""Which engines are installed here, told from the packages alone.

Apart from `find`, which loads them: an agent says what its machine has before it holds a model, and until then it
should not pay for NumPy and the adapters.
"""

from importlib.util import find_spec
from pathlib import Path

from edgeloop.contracts.manifest import EngineName

PACKAGES = {
    EngineName.LITERT: "ai-edge-litert",
    EngineName.ONNXRUNTIME: "onnxruntime",
    EngineName.OPENVINO: "openvino",
}
"""The package that each engine comes in; its module is called the same, with `_` for `-`."""


def installed_engines() -> dict[EngineName, str]:
    """The engines whose package is installed, with its version; none of them is loaded."""
    versions = {name: _version(package) for name, package in PACKAGES.items()}
    return {name: version for name, version in versions.items() if version is not None}


def _version(package: str) -> str | None:
    """A package's version, None if it is not installed.

    The folder that an installer leaves beside a package bears name and version, so it is enough to look at names;
    importlib.metadata reads the files in it with Python's mail parser, which takes 15 ms of a first answer to import.
    Source: PyPA, "Recording installed projects".
    """
    module = package.replace("-", "_")
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    beside = Path(next(iter(spec.submodule_search_locations))).parent
    found = sorted(beside.glob(f"{module}-*.dist-info"))
    if len(found) == 1:
        return found[0].name.removeprefix(f"{module}-").removesuffix(".dist-info")
    from importlib import metadata  # a Linux distribution's own package, say, lies otherwise

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
