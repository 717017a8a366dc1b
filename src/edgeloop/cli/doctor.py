"""Doctor: what is installed and what runs, each finding with its fix."""

import json
import shutil
import ssl
import sys
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated

import httpx
import msgspec
import typer

from edgeloop.cli.say import emit_json
from edgeloop.cli.show import OPERATOR_DEFAULT, AsJson, Operator, show_table
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, NotFound, Unavailable

_OLDEST_SENSIBLE_S = 1_767_225_600  # 2026-01-01: this code is not older than that
_NEWEST_SENSIBLE_S = 4_102_444_800  # 2100-01-01
_LEAST_FREE_BYTES = 500 * 1024 * 1024
_MOST_SKEW_S = 60
_HUB_TIMEOUT_S = 5.0
_DAY_S = 86_400
_SHORT_S = 2 * _DAY_S  # timestamps hold for seven days and are asked for daily: this is five misses in a row


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. state: "ok", "warning" or "error"; fix: what to do, empty when ok."""

    what: str
    state: str
    found: str
    fix: str = ""


def doctor(
    folder: Annotated[Path, typer.Option("--dir", help="A device's, node's or cloud's folder to look into.")] = Path(),
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Look at Python, packages, engines, clock, disk, keys and reachability; exit code 5 if something is wrong."""
    findings = [
        *_python(),
        *_engines(),
        *_accelerators(),
        *_packages(),
        _clock(),
        _disk(folder),
        *_keys(folder),
        *_certificates(folder),
        *_hub(folder),
        *_signed(folder),
        *_reachability(operator),
        *_expiries(operator),
    ]
    if as_json:
        emit_json(findings)
    else:
        mark = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[red]error[/]"}
        show_table(
            "doctor", ("what", "state", "found", "fix"), [(f.what, mark[f.state], f.found, f.fix) for f in findings]
        )
    if any(finding.state == "error" for finding in findings):
        raise Unavailable("something is wrong; the findings say what and how to fix it")


def _python() -> list[Finding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    tls = Finding("tls", "ok", ssl.OPENSSL_VERSION)
    return [Finding("python", "ok", version), tls]


def _engines() -> list[Finding]:
    from edgeloop.contracts.manifest import EngineName
    from edgeloop.runtime.engines.find import probe_engine
    from edgeloop.runtime.engines.installed import PACKAGES, installed_engines

    installed = installed_engines()
    findings = []
    for name in EngineName:
        if name not in installed:
            findings.append(Finding(f"engine {name}", "warning", "not installed", f"pip install {PACKAGES[name]}"))
            continue
        failure = probe_engine(name)
        if failure is None:
            findings.append(Finding(f"engine {name}", "ok", f"{installed[name]}, ran a model"))
        else:
            findings.append(Finding(f"engine {name}", "error", failure, "reinstall its package"))
    if not installed:
        findings.append(Finding("engines", "error", "none", "pip install ai-edge-litert"))
    return findings


def _accelerators() -> list[Finding]:
    """What is found is remembered: races take part of it from then on."""
    from edgeloop.runtime.known import look_for_accelerators

    return [
        Finding(f"{one.engine} {one.accelerator}", "ok", f"not used: {one.problem}" if one.problem else one.detail)
        for one in look_for_accelerators()
    ]


def _packages() -> list[Finding]:
    from importlib import metadata

    extras = {
        "server": ("litestar", "uvicorn", "sqlalchemy", "alembic", "obstore"),
        "toolchain": (
            *("keras", "tensorflow-cpu", "ai-edge-quantizer", "onnx", "tf2onnx", "onnxslim", "onnxruntime", "openvino"),
            *("nncf", "scikit-learn", "skl2onnx", "skops", "tflite-micro", "optuna", "plotly", "mlxtend"),
        ),
        "torch": ("torch", "litert-torch", "onnxscript"),
        "ray": ("ray",),
    }
    findings = []
    for extra, packages in extras.items():
        missing = []
        for package in packages:
            try:
                metadata.version(package)
            except metadata.PackageNotFoundError:
                missing.append(package)
        if missing:
            fix = f"pip install 'edgeloop[{extra}]', unless this machine is only a device"
            findings.append(Finding(f"extra {extra}", "warning", f"lacks {', '.join(missing)}", fix))
        else:
            findings.append(Finding(f"extra {extra}", "ok", "complete"))
    return findings


def _clock() -> Finding:
    now_s = time.time()
    said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    if not _OLDEST_SENSIBLE_S < now_s < _NEWEST_SENSIBLE_S:
        fix = "set the clock, for example with NTP; until then the hub's time signs requests, and inference goes on"
        return Finding("clock", "error", said, fix)
    return Finding("clock", "ok", said)


def _disk(folder: Path) -> Finding:
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(place).free
    found = f"{free / 1024**3:.1f} GB free at {place.absolute()}"
    if free < _LEAST_FREE_BYTES:
        return Finding("disk", "error", found, "free some space: updates and the outbox need it")
    return Finding("disk", "ok", found)


def _keys(folder: Path) -> list[Finding]:
    from edgeloop.hub.tls import CA_CERT

    findings = []
    places = ("device.pem", "online/*.pem", "keys/*.pem", "keys/*.key", "tls/*.key")
    # A certificate is for everybody to read.
    for path in sorted(one for place in places for one in folder.glob(place) if one.name != CA_CERT):
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            fix = f"chmod 600 {path}"
            findings.append(Finding(f"key {path.name}", "error", f"others may read it (mode {mode:o})", fix))
        else:
            findings.append(Finding(f"key {path.name}", "ok", f"{path}, mode {mode:o}"))
    if not findings:
        fix = "name a device's, node's or cloud's folder with --dir to look at its keys"
        findings.append(Finding("keys", "ok", f"none in {folder.absolute()}", fix))
    return findings


def _certificates(folder: Path) -> list[Finding]:
    """A server's certificate, and the private authority that signed it."""
    from edgeloop.hub.tls import WARN_DAYS, ServerFiles, days_left

    files = ServerFiles(folder / "tls")
    findings = []
    for path, fix in ((files.cert, f"edgeloop tls renew --dir {folder}"), (files.ca, "found a new authority in time")):
        if not path.is_file():
            continue
        try:
            left = days_left(path)
        except EdgeloopError as error:
            findings.append(Finding(f"certificate {path.name}", "error", str(error), fix))
            continue
        state = "error" if left < 0 else "warning" if left < WARN_DAYS else "ok"
        found = f"expired {-left:.0f} days ago" if left < 0 else f"good for {left:.0f} days"
        findings.append(Finding(f"certificate {path.name}", state, found, "" if state == "ok" else fix))
    return findings


def _hub(folder: Path) -> list[Finding]:
    """The hub that a device or node in this folder belongs to."""
    from edgeloop.transport.membership import read_membership

    try:
        member = read_membership(folder)
        trusted = ssl.create_default_context(cafile=member.ca) if member.ca else True
        answer = httpx.get(f"{member.hub_url}/v1/sync", timeout=_HUB_TIMEOUT_S, verify=trusted)
    except NotFound:
        return []
    except InvalidInput as error:
        return [Finding("hub", "error", str(error), "what was found says what to do")]
    except EdgeloopError as error:
        return [Finding("hub", "error", str(error), "enrol again in a new folder")]
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        fix = "check the link, the address and that the hub runs; until then the device goes on by itself"
        return [Finding("hub", "warning", f"no answer from {member.hub_url}: {error}", fix)]
    said = answer.headers.get("date")
    skew_s = abs(time.time() - parsedate_to_datetime(said).timestamp()) if said else 0.0
    found = f"{member.hub_url} answers, clocks {skew_s:.0f} s apart"
    if skew_s > _MOST_SKEW_S:
        return [Finding("hub", "warning", found, "set this machine's clock or the hub's")]
    return [Finding("hub", "ok", found)]


def _signed(folder: Path) -> list[Finding]:
    """What a device or node in this folder has that is signed: until when it holds, and what time it proves."""
    from edgeloop.transport.floor import read_marks

    kept = sorted((folder / "trust").glob("*/*.json"))
    expires_s = []
    for path in kept:
        try:
            expires_s.append(datetime.fromisoformat(json.loads(path.read_bytes())["signed"]["expires"]).timestamp())
        except (ValueError, KeyError, TypeError) as error:
            fix = "nothing: it is fetched anew when it is next needed"
            return [Finding("signed metadata", "warning", f"{path} cannot be read: {error!r}", fix)]
    if not expires_s:
        return []
    newest_s = max((mark.signed_at_s for mark in read_marks(folder / "trust" / "floor.json").values()), default=0.0)
    now_s = time.time()
    if now_s < newest_s - _DAY_S:
        fix = "set the clock; until then the newest signed time and the hub's time count for what is expired"
        found = f"something signed on {_day(newest_s)} was seen here, the clock says {_day(now_s)}"
        return [Finding("signed metadata", "error", found, fix)]
    left_s = min(expires_s) - now_s
    if left_s < _SHORT_S:
        fix = "see that the hub is reached, and the cloud above it; inference goes on, updates wait"
        word = "expired on" if left_s < 0 else "holds only until"
        return [Finding("signed metadata", "warning", f"{word} {_day(min(expires_s))}", fix)]
    return [Finding("signed metadata", "ok", f"holds until {_day(min(expires_s))}")]


def _expiries(operator: str) -> list[Finding]:
    """What the cloud's offline keys signed: until when."""
    from edgeloop.transport.cloud_api import CloudApi, read_operator

    if not Path(operator).is_file():
        return []
    try:
        with CloudApi(read_operator(operator)) as api:
            roles = api.keys().roles
    except (EdgeloopError, httpx.InvalidURL):
        return []  # the finding before this one says why
    findings = []
    for role in roles:
        if role.expires_at_s is not None:
            what, until = f"signature {role.repository} {role.role}", f"holds until {_day(role.expires_at_s)}"
            if role.warning:
                state = "error" if role.expires_at_s < time.time() else "warning"
                findings.append(Finding(what, state, role.warning, f"edgeloop keys renew {role.role}"))
            else:
                findings.append(Finding(what, "ok", until))
    return findings


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _reachability(operator: str) -> list[Finding]:
    from edgeloop.transport.cloud_api import CloudApi, read_operator

    if not Path(operator).is_file():
        return [Finding("cloud", "ok", "no operator file here, not looked for", "name one with --operator to look")]
    try:
        where = read_operator(operator)
        with CloudApi(where) as api:
            status = api.status()
    except EdgeloopError as error:
        return [Finding("cloud", "error", str(error), "start it with 'edgeloop cloud serve', or correct the address")]
    except httpx.InvalidURL as error:
        return [Finding("cloud", "error", str(error), "correct the address in the operator file")]
    skew_s = abs(time.time() - status.time_s)
    found = f"{where.url}, {status.devices} devices, clocks {skew_s:.1f} s apart"
    if skew_s > _MOST_SKEW_S:
        return [Finding("cloud", "warning", found, "set this machine's clock or the cloud's")]
    return [Finding("cloud", "ok", found)]
