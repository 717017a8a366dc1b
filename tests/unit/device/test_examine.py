"""Whose failure it is that a variant does not run: the model's, for good, or this machine's, for now."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builders import Parts, as_bundle, make_parts
from edgeloop.bundle.shelf import Shelf
from edgeloop.device.examine import Findings, Question, _give_way, examine


def _examined(parts: Parts, folder: Path, *, damaged: str = "", lacks: str = "") -> Findings:
    """What is found of the first variant. damaged, lacks: files on the shelf that are not what they were."""
    shelf = Shelf(folder / "bundles")
    for sha256, data in parts.files.items():
        if sha256 != lacks:
            shelf.put(sha256, data)
    if damaged:
        (shelf.folder / "files" / damaged).write_bytes(b"another content")
    question = Question(
        shelf=str(shelf.folder),
        variant=parts.manifest.variants[0].file,
        races=str(folder / "races"),
        threads=None,
        race_s=0.0,
        parent=os.getpid(),
        within_s=60.0,
    )
    return examine(question, as_bundle(parts).manifest_bytes)


def test_engine_that_cannot_be_imported_is_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # Python's own way to say: this cannot be imported
    found = _examined(make_parts(), tmp_path)
    assert ("ONNX Runtime is not installed here" in str(found.failure), found.is_passing) == (True, True)


def test_golden_file_that_the_disk_damaged_or_lost_is_the_machines(tmp_path: Path) -> None:
    parts = make_parts()
    damaged = _examined(parts, tmp_path / "a", damaged=parts.manifest.golden.outputs)
    lost = _examined(parts, tmp_path / "b", lacks=parts.manifest.golden.inputs)
    assert ("is damaged" in str(damaged.failure), damaged.is_passing) == (True, True)
    assert ("was not fetched, or was removed" in str(lost.failure), lost.is_passing) == (True, True)


def test_file_that_is_no_model_is_the_models(tmp_path: Path) -> None:
    found = _examined(make_parts().with_model(b"no model at all"), tmp_path)
    assert ("does not run: " in str(found.failure), found.is_passing) == (True, False)


@pytest.mark.skipif(sys.platform != "linux", reason="a thread's own priority is Linux's")
@pytest.mark.parametrize("agent_at", [0, 15])
def test_trial_is_never_less_polite_than_its_agent(agent_at: int) -> None:
    """A service with Nice=15 that does not run as root may not become less so: its every trial would fail."""

    def given_way() -> tuple[int, int]:
        mine = threading.get_native_id()
        before = max(agent_at, os.getpriority(os.PRIO_PROCESS, mine))
        os.setpriority(os.PRIO_PROCESS, mine, before)
        _give_way()
        return before, os.getpriority(os.PRIO_PROCESS, mine)

    with ThreadPoolExecutor(1) as polite:
        before, after = polite.submit(given_way).result()
    assert after == max(before, 10)
