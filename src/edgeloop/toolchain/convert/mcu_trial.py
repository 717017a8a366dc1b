"""A LiteRT model under TensorFlow Lite Micro's interpreter, in a process of its own.

The interpreter trusts its model and its arena: given one that is too small it may overwrite memory instead of saying
so. Here that ends this process only, and `mcu`, which starts it, sees how it ended.

    python -m edgeloop.toolchain.convert.mcu_trial MODEL ARENA_BYTES FEEDS OUTPUTS

FEEDS, OUTPUTS: .npz of arrays (N, 1, ...), named by their place in the graph. What native code says, among it how
much of the arena was used, goes to standard error.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

NOT_INSTALLED = 5


def main(model: str, arena_bytes: str, feeds: str, outputs: str) -> int:
    """Run every sample; returns the exit code."""
    try:
        from tflite_micro import runtime
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return NOT_INSTALLED
    interpreter = runtime.Interpreter.from_bytes(Path(model).read_bytes(), arena_size=int(arena_bytes))
    made: list[list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]] = []
    with np.load(feeds) as arrays:
        inputs = [arrays[f"{place}"] for place in range(len(arrays.files) - 1)]
        count = int(arrays["outputs"])
    for sample in range(len(inputs[0])):
        for place, array in enumerate(inputs):
            interpreter.set_input(array[sample], place)
        interpreter.invoke()
        made.append([np.asarray(interpreter.get_output(place)) for place in range(count)])
    interpreter.print_allocations()
    sys.stderr.flush()
    kept: dict[str, Any] = {f"{place}": np.stack([one[place] for one in made]) for place in range(count)}
    np.savez(outputs, **kept)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
