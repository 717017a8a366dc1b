"""Open a bundle and have it answer: the variant, engine and setting that answer soonest here."""

import math
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from edgeloop.bundle.archive import Bundle, digest, open_bundle
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, NotFound, Unavailable
from edgeloop.contracts.manifest import EngineName, Variant
from edgeloop.runtime.candidates import candidates
from edgeloop.runtime.engines.installed import installed_engines
from edgeloop.runtime.engines.port import MOST_THREADS, Setting
from edgeloop.runtime.engines.settings import Aim, Found
from edgeloop.runtime.known import known_accelerators
from edgeloop.runtime.outcome import RACE_S, Race
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.remembered import Key, cache_folder, key_of, recall, remember


def load(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    threads: int | None = None,
    race_s: float = RACE_S,
    cache: bool = False,
    enrolled: str | os.PathLike[str] | None = None,
) -> Predictor:
    """Open a bundle and load what answers soonest on this machine.

    At the first load here, whatever could run the bundle and passes its golden samples is timed for race_s seconds;
    the winner is remembered for this bundle, machine and these libraries, and a later load takes it at once. race_s
    0 skips the race: the variant that was fastest where it was made, on one thread, unless a winner is remembered.
    engine: "litert", "onnxruntime" or "openvino" to insist on one. threads: to insist on a number. cache: let answers
    stand for the same or nearly the same input (`manifest.Reuse`); streams do so anyway. enrolled: examples for an
    embedding, as `Predictor.save_enrolled` wrote them. Raises NotFound, Corrupt, InvalidInput, or Unavailable if no
    engine here runs any variant.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise InvalidInput(f"threads is {threads:,}; expected 1 to {MOST_THREADS:,}")
    if not (race_s >= 0 and math.isfinite(race_s)):
        raise InvalidInput(f"race_s is {race_s}; expected seconds, or 0 for no race")
    bundle = open_bundle(path)
    predictor = load_fastest(bundle, able_here(bundle, engine), threads=threads, race_s=race_s)
    if cache:
        from edgeloop.runtime.cache import ResultCache

        predictor.cache = ResultCache(bundle.manifest)
    if enrolled is not None:
        predictor.load_enrolled(enrolled)
    return predictor


def able_here(bundle: Bundle, engine: str | None = None) -> list[Variant]:
    """The variants that the engines installed here could run, or one of them alone, the most promising first.

    Raises InvalidInput if there is no such engine, Unavailable if no variant is for it.
    """
    if engine is not None and engine not in set(EngineName):
        raise InvalidInput(f"there is no engine {engine!r}; known: {', '.join(EngineName)}")
    able = candidates(bundle.manifest, (EngineName(engine),) if engine else installed_engines())
    if not able:
        offered = ", ".join(f"{v.engine} {v.precision}" for v in bundle.manifest.variants)
        here = engine or ", ".join(installed_engines()) or "no engine"
        raise Unavailable(
            f"no variant of {bundle.manifest.ref} is for what may run it here: it offers {offered}; here that is {here}"
        )
    return able


def load_fastest(
    bundle: Bundle,
    variants: Sequence[Variant],
    *,
    threads: int | None = None,
    race_s: float = RACE_S,
    folder: Path | None = None,
    aim: Aim = Aim.SOONEST,
) -> Predictor:
    """The remembered winner; else the winner of a race; else, without a race, the first candidate that loads.

    variants: those that may run, the most promising first. folder: where winners are remembered; the user's cache
    folder unless told; those for Aim.SIDE_BY_SIDE apart from the others. Raises Corrupt if a file of theirs is not
    what the manifest's hash says, Unavailable if none of them runs.
    """
    where = folder or races_folder()
    found = known_accelerators(folder)
    key = race_key(bundle, variants, threads, found, aim=aim)
    known = recall(where, key, Race)
    if known is not None:
        predictor = _remembered(bundle, known)
        if predictor is not None:
            return predictor
    _require_sound(bundle, variants)
    if race_s <= 0:
        return load_first(bundle, variants, threads=threads or 1)
    from edgeloop.runtime.race import run_race  # not when the winner is remembered: 6 ms of a first answer

    race, predictor = run_race(bundle, variants=variants, threads=threads, found=found, aim=aim, seconds=race_s)
    remember(where, key, race)
    return predictor


def remember_race(bundle: Bundle, variants: Sequence[Variant], race: Race, *, threads: int | None = None) -> None:
    """Keep a race's outcome, for later loads here."""
    remember(races_folder(), race_key(bundle, variants, threads, known_accelerators()), race)


def races_folder() -> Path:
    """Where winners are remembered unless told."""
    return cache_folder() / "races"


def race_key(
    bundle: Bundle,
    variants: Iterable[Variant],
    threads: int | None,
    found: Iterable[Found] = (),
    *,
    aim: Aim = Aim.SOONEST,
) -> Key:
    """What a race's outcome holds for: these variants of this bundle, this machine, these libraries."""
    runners = " ".join(sorted(f"{variant.engine}:{variant.file}" for variant in variants))
    beside = " ".join(sorted(f"{one.engine}:{one.accelerator}" for one in found if not one.problem))
    apart = f" {aim}" if aim is Aim.SIDE_BY_SIDE else ""
    return key_of(f"{digest(bundle.manifest_bytes)} {runners} {threads} {beside}{apart}")


def load_first(bundle: Bundle, variants: Iterable[Variant], *, threads: int = 1) -> Predictor:
    """Load the first of these that loads, unmeasured. Raises Unavailable with every reason if none does."""
    reasons = []
    for variant in variants:
        try:
            return Predictor(bundle, variant, setting=Setting(threads=threads))
        except EdgeloopError as error:
            reasons.append(f"{variant.engine} {variant.precision}: {error}")
    from edgeloop.runtime.race import none_runs

    raise Unavailable(none_runs(bundle, reasons))


def _require_sound(bundle: Bundle, variants: Iterable[Variant]) -> None:
    """Raise Corrupt if a file is damaged: else its variant would be passed over as one that does not run here."""
    for sha256 in dict.fromkeys(variant.file for variant in variants):
        with suppress(NotFound):  # of a device's folder, which holds what it was told to run
            bundle.read(sha256)


def _remembered(bundle: Bundle, known: Race) -> Predictor | None:
    """The winner of an earlier race; None if it does not load any more, so that a new race is run."""
    winner = known.winner
    for variant in bundle.manifest.variants:
        if variant.file == winner.variant and variant.engine is winner.engine:
            try:
                predictor = Predictor(bundle, variant, setting=winner.setting)
            except EdgeloopError:
                return None
            predictor.race = known
            return predictor
    return None
