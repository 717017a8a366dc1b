"""scikit-learn estimators and pipelines as Models: .skops files, and pickles when a person vouches for them."""

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Refused, Unavailable
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.source.model import Feeds, Format, Model, Run
from edgeloop.toolchain.unpacking import require_unpackable

SKOPS_SUFFIX = ".skops"
SKLEARN_PICKLES = (".pkl", ".pickle", ".joblib")

INPUT = "input"
PROBABILITIES, SCORES, PREDICTION = "probabilities", "scores", "prediction"


def load_sklearn(path: Path, *, trust_pickle: bool = False) -> Model:
    """A fitted estimator or pipeline. trust_pickle: load a pickle, which runs whatever code it holds.

    Raises NotFound; Refused if the file holds types that are not scikit-learn's, or is a pickle without trust;
    Corrupt; InvalidInput if it holds something else; Unavailable if scikit-learn or skops is missing.
    """
    if not path.is_file():
        raise NotFound(f"there is no model at {path}")
    data = path.read_bytes()
    if path.suffix == SKOPS_SUFFIX:
        return wrap_sklearn(_load_skops(data, path.name), name=path.name, data=data)
    if not trust_pickle:
        raise Refused(
            f"{path.name} is a pickle: loading it runs whatever code it holds. If you made it yourself, say "
            "--trust-pickle; else ask for it as .skops (skops.io.dump(estimator, 'model.skops'))"
        )
    return wrap_sklearn(_load_pickle(path), name=path.name, data=data)


def wrap_sklearn(estimator: Any, *, name: str = "estimator", data: bytes | None = None) -> Model:
    """A fitted estimator or pipeline as a Model; data: its file's bytes, as skops makes them where None.

    Input "input" (1, features) float32. Output "probabilities" (1, classes) where it has predict_proba; else "scores"
    (1, classes), its decision_function, with two classes as (-d, d), of an outlier detector (1, 1); else "prediction"
    (1, targets). Raises
    InvalidInput if it is not fitted or has none of these.
    """
    width = getattr(estimator, "n_features_in_", None)
    if width is None or not hasattr(estimator, "predict"):
        raise InvalidInput(
            f"{name} holds {type(estimator).__name__}; expected a fitted estimator or pipeline that predicts"
        )
    output, ask = _question(estimator)
    run = _runner(output, ask, mirrored=output == SCORES and hasattr(estimator, "classes_"))
    inputs = (TensorSpec(INPUT, (1, int(width)), "float32"),)
    made = run({INPUT: np.zeros((1, int(width)), np.float32)})[output]
    return Model(
        name=name,
        format=Format.SKLEARN,
        native=estimator,
        inputs=inputs,
        outputs=(TensorSpec(output, tuple(made.shape), "float32"),),
        run=run,
        data=_skops_bytes(estimator) if data is None else data,
    )


def sklearn_weights(model: Model) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every fitted array of numbers, by the name of its estimator and attribute."""
    stack = [(model.name, model.native)]
    while stack:
        where, estimator = stack.pop()
        for key, value in vars(estimator).items():
            if key == "steps":
                stack.extend((f"{where}.{step}", one) for step, one in value if hasattr(one, "__dict__"))
            elif key.endswith("_") and isinstance(value, np.ndarray) and value.dtype.kind == "f":
                yield f"{where}.{key}", value


def _load_skops(data: bytes, name: str) -> Any:
    try:
        import sklearn  # noqa: F401 - skops loads its classes by name
        from skops import io as skops_io
    except ImportError as error:
        raise Unavailable(
            f".skops models need skops and scikit-learn ({error}); install them with: pip install 'edgeloop[toolchain]'"
        ) from error
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            require_unpackable(archive, name)
        unknown = skops_io.get_untrusted_types(data=data)
        if unknown:
            raise Refused(
                f"{name} holds types that are neither scikit-learn's nor NumPy's: {', '.join(sorted(unknown))}; their "
                "code would run. Leave them out of the pipeline, or do their work in the data's preparation"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return skops_io.loads(data, trusted=[])
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, EOFError) as error:
        raise Corrupt(f"{name} cannot be loaded as a skops file: {str(error).splitlines()[0]}") from error


def _load_pickle(path: Path) -> Any:
    try:
        import joblib
    except ImportError as error:
        raise Unavailable(
            f"pickled estimators need scikit-learn ({error}); install it with: pip install 'edgeloop[toolchain]'"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return joblib.load(path)  # the person vouched for it: see load_sklearn
    except (pickle.UnpicklingError, ValueError, EOFError, KeyError, IndexError, AttributeError, ImportError) as error:
        raise Corrupt(f"{path.name} cannot be loaded as a pickled estimator: {error}") from error


def _skops_bytes(estimator: Any) -> bytes:
    from skops import io as skops_io

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bytes(skops_io.dumps(estimator))


def _question(estimator: Any) -> tuple[str, Any]:
    if hasattr(estimator, "predict_proba"):
        return PROBABILITIES, estimator.predict_proba
    if hasattr(estimator, "decision_function"):
        return SCORES, estimator.decision_function
    return PREDICTION, estimator.predict


def _runner(output: str, ask: Any, *, mirrored: bool) -> Run:
    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = np.asarray(ask(np.asarray(feeds[INPUT], np.float32)), np.float32)
        except ValueError as error:
            raise InvalidInput(f"the estimator turns these inputs down: {str(error).splitlines()[0]}") from error
        if made.ndim == 1:
            made = np.stack([-made, made], axis=1) if mirrored else made[:, np.newaxis]
        return {output: made}

    return run
