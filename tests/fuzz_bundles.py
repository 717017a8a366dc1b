"""Malformed bundles: archives, manifests, arrays and models, up to their first answers.

Hashes are mended after what they are of was changed, so that what lies behind them is reached. In earnest nothing
reaches that far unless it was signed: the signature is what stands between a stranger and an engine's loader. Of the
three engines, LiteRT's loader (ai-edge-litert 2.3) does not survive every file that is not sound: about one in 500
that had a bit changed ended the process by SIGSEGV or SIGABRT, or never came back; it checks the file's structure, but
not what its operators say of one another. There is no cheap guard but a process of its own (`engines.trial`), so here
its models are only cut short or replaced by something else, which it does notice. ONNX Runtime's and OpenVINO's get
any damage.
"""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from builders import Parts
from edgeloop.bundle.archive import Bundle, digest, entries, open_bundle
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.manifest import EngineName, Variant
from edgeloop.runtime.candidates import candidates
from edgeloop.runtime.load import load_first
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.replay import Judge
from fuzz_bytes import GENERIC, Mutator, mutated, noise, truncated
from fuzz_case import Case
from fuzz_models import sound_parts

_NUMBERS = (
    0, 1, -1, 2, 3, 255, 256, 65_536, 10**6, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30, 0.0, -0.0, 0.5, 1.5,
    -1.5, 1e-9, 1e-45, 1e-320, 1e9, 1e38, 1e39, 1e308, -1e308,
)  # fmt: skip
_ODD = (
    (3.4e38, -3.4e38),
    (float("nan"), 1.0),
    (float("inf"), float("-inf")),
    (1e30, -1e30, 0.0),
    (0.0, -0.0),
    (1e-45, 1e-38),
    (100.0,),
)
_WORDS = (
    "", "a", "image", "logits", "scores", "softmax", "none", "a" * 64, "0" * 64, "a" * 100_000, "../../etc/passwd",
    "\x1b[2J", "\0", "\u202e", "nchw", "NHWC", "nhw", "hwnc", "zz", "uint8", "f32", "object", "classification",
    "detection", "resize", "litert", "openvino", "onnxruntime", "int8", "1.0.0", "\U0001f600", "tensor", "series",
)  # fmt: skip
_MISSHAPEN = (None, True, False, [], {}, [None], [[]], {"a": 1}, [1, 2, 3, 4, 5, 6], [0.5] * 300, {"step": "grey"})
_PLAIN = (stat.S_IFREG | 0o644) << 16
_Json = Any


class Bundles:
    """Bundles from the archive to an answer. folder: where a case writes its archive."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "made-1.0.0.edgeloop"
        self._parts = sound_parts()
        self._steps = [step for parts in self._parts for step in _document(parts)["preprocess"]]
        self._outputs = [_document(parts)["output"] for parts in self._parts]
        self._archives = [_zipped(_members(parts)) for parts in self._parts]

    def case(self, rng: Random) -> Case:
        """One bundle."""
        parts = rng.choice(self._parts)
        route = rng.choices(("archive", "members", "manifest", "text", "arrays", "models"), (25, 8, 40, 7, 8, 12))[0]
        name, data = getattr(self, f"_{route}")(rng, parts)
        return Case(route, name, data, partial(self._open, data, rng.random() < 0.2))

    def _open(self, data: bytes, by_load: bool) -> None:
        self._path.write_bytes(data)
        try:
            bundle = open_bundle(self._path)
            bundle.verify()
            use(bundle, by_load=by_load)
        finally:
            self._path.unlink()

    def _archive(self, rng: Random, parts: Parts) -> tuple[str, bytes]:
        """The bytes of the archive itself."""
        return mutated(rng, self._archives, _OWN)

    def _members(self, rng: Random, parts: Parts) -> tuple[str, bytes]:
        """A sound archive of members that are not."""
        change = rng.choice(_MEMBERS)
        return change.__name__, change(rng, _members(parts))

    def _manifest(self, rng: Random, parts: Parts) -> tuple[str, bytes]:
        """A manifest whose JSON is sound, and whose content is not."""
        document = _document(parts)
        names = [self._change(rng, document) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        return "+".join(names), _zipped({"manifest.json": to_json(document)} | _files(parts))

    def _text(self, rng: Random, parts: Parts) -> tuple[str, bytes]:
        """A manifest whose JSON may not be sound."""
        name, text = mutated(rng, [to_json(parts.manifest)], (_nested, _endless))
        return name, _zipped({"manifest.json": text} | _files(parts))

    def _arrays(self, rng: Random, parts: Parts) -> tuple[str, bytes]:
        """Golden samples, references or examples that are damaged; their hashes hold."""
        models = {variant.file for variant in parts.manifest.variants}
        arrays = sorted(parts.files.keys() - models)
        chosen = rng.choice(arrays)
        name, data = mutated(rng, [parts.files[one] for one in (chosen, *arrays)], (_npy_reshaped,) * 3)
        return name, _zipped(_members(_replaced(parts, chosen, data)))

    def _models(self, rng: Random, parts: Parts) -> tuple[str, bytes]:
        """A model that is damaged; its hash holds. Its variant comes first."""
        if rng.random() < 0.4:
            parts = self._parts[-1]  # the one with a variant for each engine
        variants = parts.manifest.variants
        chosen = rng.choice(variants)
        data = parts.files[chosen.file]
        others = [one.files[one.manifest.variants[0].file] for one in self._parts]
        if chosen.engine is EngineName.LITERT:
            change = rng.choice((truncated, noise, lambda rng, _: rng.choice(others)))
            name, made = f"{chosen.engine} {getattr(change, '__name__', 'foreign')}", change(rng, data)
        elif chosen.engine is EngineName.ONNXRUNTIME and rng.random() < 0.3:
            name, made = "other constants", _constants_changed(rng, data)
        else:
            name, made = mutated(rng, [data, data, data, rng.choice(others)], ())
        first = (chosen, *(one for one in variants if one is not chosen))
        return name, _zipped(_members(_replaced(parts.changed(variants=first), chosen.file, made)))

    def _change(self, rng: Random, document: dict[str, _Json]) -> str:
        steps = document.get("preprocess")
        if rng.random() < 0.1 and isinstance(steps, list):
            steps.insert(rng.randrange(len(steps) + 1), dict(rng.choice(self._steps)))
            return "a step more"
        if rng.random() < 0.05:
            document["output"] = rng.choice(self._outputs)
            return "another output"
        if rng.random() < 0.02:
            document["labels"] = rng.choice((["a"] * 50_000, [f"l{place}" for place in range(50_000)]))
            return "many labels"
        holder, key = _place(rng, document)
        if rng.random() < 0.15:
            del holder[key]
            return f"without {key!s:.20}"
        holder[key] = _other(rng, holder[key])
        return f"other {key!s:.20}"


def use(bundle: Bundle, *, by_load: bool) -> None:
    """What a device does with a bundle: load, replay the golden samples, answer them, and as a stream."""
    manifest = bundle.manifest
    variants = candidates(manifest, EngineName)
    predictor = load_first(bundle, variants) if by_load else Predictor(bundle, manifest.variants[0])
    try:
        judge = Judge(bundle, predictor.variant)
        for sample in judge.inputs:
            judge.take(predictor.basis(sample))
        judge.verdict()
        predictor.predict(judge.inputs[0])
        for _ in predictor.stream(list(judge.inputs[:3])):
            pass
    finally:
        predictor.close()


def _place(rng: Random, document: dict[str, _Json]) -> tuple[Any, Any]:
    """A holder and a key in it, at any depth: more often in what the runtime computes with than in the rest."""
    top = rng.choices(
        ("input", "preprocess", "output", "variants", "golden", "reference", "reuse", "budget", "lineage", "files", ""),
        (15, 25, 25, 10, 8, 8, 5, 1, 2, 2, 6),
    )[0]
    holder: Any = document
    key: Any = top if document.get(top) else rng.choice(sorted(document))
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.85:
        holder = holder[key]
        key = rng.choice(sorted(holder) if isinstance(holder, dict) else range(len(holder)))
    return holder, key


def _other(rng: Random, value: _Json) -> _Json:
    """Something else, mostly of the same type."""
    if rng.random() < 0.2:
        return rng.choice((*_MISSHAPEN, rng.choice(_NUMBERS), rng.choice(_WORDS)))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice((rng.choice(_NUMBERS), -value, value + 1, value * 2, value * 1000, float(value), int(value)))
    if isinstance(value, str):
        return rng.choice((rng.choice(_WORDS), value.upper(), value[:-1], value + "x"))
    if isinstance(value, list):
        return rng.choice((value[:-1], value + value, value[::-1], [*value, rng.choice(_NUMBERS)], value * 30))
    if isinstance(value, dict):
        return rng.choice(({**value, "unknown": 1}, {}, {str(key).upper(): one for key, one in value.items()}))
    return rng.choice(_NUMBERS)


def _document(parts: Parts) -> dict[str, _Json]:
    made = msgspec.json.decode(to_json(parts.manifest))
    assert isinstance(made, dict)
    return made


def _files(parts: Parts) -> dict[str, bytes]:
    return {f"files/{sha256}": data for sha256, data in sorted(parts.files.items())}


def _members(parts: Parts) -> dict[str, bytes]:
    return {"manifest.json": to_json(parts.manifest)} | _files(parts)


def _replaced(parts: Parts, old: str, data: bytes) -> Parts:
    """Another file where this one was, by its own hash, with its own size."""
    files = {sha256: content for sha256, content in parts.files.items() if sha256 != old} | {digest(data): data}
    variants = tuple(_resized(one, len(data)) if one.file == old else one for one in parts.manifest.variants)
    text = to_json(msgspec.structs.replace(parts.manifest, variants=variants)).replace(
        old.encode(), digest(data).encode()
    )
    manifest = msgspec.json.decode(text, type=type(parts.manifest))
    return Parts(msgspec.structs.replace(manifest, files=entries(files.values())), files)


def _resized(variant: Variant, size_bytes: int) -> Variant:
    return msgspec.structs.replace(variant, size_bytes=max(1, size_bytes))


def _zipped(members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(_info(name), data)
    return made.getvalue()


def _info(name: str) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = _PLAIN
    return made


def member_compressed(rng: Random, members: dict[str, bytes]) -> bytes:
    """Deflated, by one of the ways that ZIP has."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made.getvalue()


def member_special(rng: Random, members: dict[str, bytes]) -> bytes:
    """A link, a folder, a device; a name that leads out; a comment; another date."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in members.items():
            info = _info(name)
            if rng.random() < 0.3:
                info.external_attr = rng.choice((0o120777, 0o040755, 0o020644, 0o100644, 0o777)) << 16
                info.filename = rng.choice(
                    (name, f"../{name}", f"/{name}", name.upper(), f"{name}/", f"x\x1b[2J{name}")
                )
                info.comment = rng.choice((b"", b"x" * 60_000))
            archive.writestr(info, data)
        archive.comment = rng.choice((b"", b"PK\x05\x06" + bytes(18)))
    return made.getvalue()


def member_lost(rng: Random, members: dict[str, bytes]) -> bytes:
    """One is not there, another's content, or one more than listed."""
    names = sorted(members)
    name, other = rng.choice(names), rng.choice(names)
    return _zipped(
        rng.choice(
            (
                {one: data for one, data in members.items() if one != name},
                members | {name: members[other]},
                members | {name: b""},
                members | {f"files/{digest(b'x')}": b"x"},
                {},
                {"manifest.json": members["manifest.json"]},
            )
        )
    )


def members_many(rng: Random, members: dict[str, bytes]) -> bytes:
    """Thousands of members, of one name or of as many."""
    plain = _zipped(members)
    made, count = io.BytesIO(), rng.choice((300, 20_000))
    if rng.random() < 0.5:
        with zipfile.ZipFile(made, "w") as archive:
            for number in range(count // 10):
                archive.writestr(f"files/{digest(b'%d' % number)}", b"")
        return made.getvalue()
    # The central directory's first entry again and again, each of the one member.
    start = int.from_bytes(plain[-6:-2], "little")
    entry = plain[start : start + 46 + int.from_bytes(plain[start + 28 : start + 30], "little")]
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(entry) * count, start, 0)
    return plain[:start] + entry * count + end


def central_changed(rng: Random, data: bytes) -> bytes:
    """A field of a central directory entry is another: method, flags, sizes, checksum, place."""
    places = [at for at in range(len(data) - 46) if data[at : at + 4] == b"PK\x01\x02"]
    if not places:
        return data
    at = rng.choice(places) + rng.choice((4, 6, 8, 10, 16, 20, 20, 24, 24, 28, 30, 32, 36, 38, 42, 42))
    made = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x01\0\0\0", b"\xff\xff\xff\x7f", rng.randbytes(4)))[
        : rng.choice((2, 4))
    ]
    return data[:at] + made + data[at + len(made) :]


def end_changed(rng: Random, data: bytes) -> bytes:
    """The record at the end says other numbers, or stands twice."""
    at = data.rfind(b"PK\x05\x06")
    if at < 0:
        return data
    place, made = at + rng.choice((4, 6, 8, 10, 12, 16, 20)), rng.choice((b"\xff\xff", b"\0\0", b"\x01\0", b"\xff\x7f"))
    return rng.choice(
        (data[:place] + made + data[place + 2 :], data + data[at:], data[:at] + b"PK\x06\x06" + data[at:])
    )


def content_changed(rng: Random, data: bytes) -> bytes:
    """A byte of a member is another, and its checksum holds."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError, EOFError, zlib.error):
        return data
    name = rng.choice(sorted(members)) if members else ""
    return _zipped(members | {name: rng.choice(GENERIC)(rng, members[name])}) if name else data


def _npy_reshaped(rng: Random, data: bytes) -> bytes:
    """Another shape, dtype or order in the header, as long as it was."""
    size = int.from_bytes(data[8:10], "little")
    header = data[10 : 10 + size].rstrip()
    old, new = rng.choice(
        (
            (b"(16,", b"(4, 4,"),
            (b"(16,", b"(2147483648, 4294967296,"),
            (b"(16,", b"(-16,"),
            (b"(16, ", b"(0, "),
            (b"False", b"True"),
            (b"<f4", b"|O8"),
            (b"<f4", b">f4"),
            (b"<f4", b"<f8"),
            (b"<f4", b"<i4"),
            (b"|u1", b"<f4"),
            (b"|u1", b"|b1"),
            (b"'shape'", b"'shapes'"),
            (b")", b", 1)"),
            (b"16", b"1" * 60),
            (b"{", b"[" * 300),
            (b"False", b"().__class__"),
        )
    )
    made = header.replace(old, new, 1)
    body = rng.choice((data[10 + size :], data[10 + size :], b"\0\0\xc0\x7f" * 64, b"\0\0\x80\x7f" * 64))
    return data[:8] + len(made + b"\n").to_bytes(2, "little") + made + b"\n" + body


def _constants_changed(rng: Random, data: bytes) -> bytes:
    """A sound ONNX model that answers numbers which nobody expects."""
    model = onnx.load_from_string(data)
    for tensor in model.graph.initializer:
        numbers = numpy_helper.to_array(tensor)
        if numbers.dtype == np.float32:
            odd = np.array(rng.choices(rng.choice(_ODD), k=numbers.size), np.float32).reshape(numbers.shape)
            changed = np.where(
                np.array([rng.random() < 0.3 for _ in range(numbers.size)]).reshape(numbers.shape), odd, numbers
            )
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    return bytes(model.SerializeToString())


def _nested(rng: Random, data: bytes) -> bytes:
    """As deep as a reader might go."""
    return rng.choice(
        (b"[" * 200_000, b'{"input":' * 50_000, data[:-1] + b',"lineage":' + b"[" * 5000 + b"]" * 5000 + b"}")
    )


def _endless(rng: Random, data: bytes) -> bytes:
    """Numbers and words that go on."""
    return data.replace(b":1,", b":1" + rng.choice((b"0" * 5000, b"." + b"9" * 5000, b"e9999")) + b",", 1)


_OWN: tuple[Mutator, ...] = (central_changed, central_changed, end_changed, content_changed, content_changed)
_MEMBERS: tuple[Callable[[Random, dict[str, bytes]], bytes], ...] = (
    member_compressed,
    member_special,
    member_special,
    member_lost,
    member_lost,
    members_many,
)
