"""Trials in a child process, with real delegate libraries that are as broken as drivers are."""

import shutil
import subprocess
from pathlib import Path

import pytest

from edgeloop.contracts.errors import NotFound, Unavailable
from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.accelerators import find_accelerators
from edgeloop.runtime.engines.find import load_engine
from edgeloop.runtime.engines.litert import load_delegate
from edgeloop.runtime.engines.port import Setting
from edgeloop.runtime.engines.probe import probe_model
from edgeloop.runtime.engines.trial import Trial, What, try_out, try_setting

_HEAD = "#include <stdlib.h>\n#include <stdint.h>\n#include <unistd.h>\n#include <stddef.h>\n"
_CREATE = "void* tflite_plugin_create_delegate(char** k, char** v, size_t n, void (*say)(const char*))"
_DESTROY = "void tflite_plugin_destroy_delegate(void* d) {}\n"
# tensorflow/lite/core/c/common.h: TfLiteDelegate, its first members; Prepare is what hands nodes over.
_IDLE = (
    "struct Delegate { void* data; int (*prepare)(void*, void*); void* more[3]; int64_t flags; void* builder; };\n"
    "static int prepare(void* context, void* self) { return 0; }\n"
    "static struct Delegate idle = {0, prepare, {0, 0, 0}, 0, 0};\n"
)
SOURCES = {
    "aborts": f"{_HEAD}{_DESTROY}{_CREATE} {{ abort(); }}",
    "refuses": f'{_HEAD}{_DESTROY}{_CREATE} {{ say("no such chip on the bus"); return NULL; }}',
    "hangs": f"{_HEAD}{_DESTROY}{_CREATE} {{ for (;;) pause(); }}",
    "idles": f"{_HEAD}{_DESTROY}{_IDLE}{_CREATE} {{ return &idle; }}",
    "is none": f"{_HEAD}int nothing(void) {{ return 0; }}",
    "prints": f'{_HEAD}{_DESTROY}{_CREATE} {{ write(1, "hello\\n", 6); say("printed"); return NULL; }}',
}


@pytest.fixture(scope="module")
def delegates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of delegates' libraries by what is wrong with them."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here to make faulty delegates with")
    folder = tmp_path_factory.mktemp("delegates")
    made = {}
    for number, (fault, source) in enumerate(SOURCES.items()):
        code, library = folder / f"{number}.c", folder / f"libfaulty{number}.so"
        code.write_text(source)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, code], check=True, timeout=60)
        made[fault] = str(library)
    return made


def _try(accelerator: str, *, timeout_s: float = 60.0) -> str | None:
    setting = Setting(interface="interpreter", accelerator=accelerator)
    return try_setting(EngineName.LITERT, probe_model(EngineName.LITERT), setting, timeout_s=timeout_s)


def test_what_lies_in_the_working_folder_takes_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('a stranger was imported')")
    monkeypatch.chdir(tmp_path)
    assert try_setting(EngineName.LITERT, probe_model(EngineName.LITERT), Setting()) is None


@pytest.mark.parametrize("name", list(EngineName))
def test_setting_that_works_has_no_problem(name: EngineName) -> None:
    assert try_setting(name, probe_model(name), Setting(threads=2)) is None


def test_batch_is_tried_too() -> None:
    name = EngineName.ONNXRUNTIME
    assert "cannot take 3 at a time" in str(try_setting(name, probe_model(name), Setting(), batch=3))


def test_bytes_that_are_no_model_are_the_problem() -> None:
    assert "no LiteRT model" in str(try_setting(EngineName.LITERT, b"nothing", Setting()))


def test_delegate_that_aborts_ends_only_its_own_process(delegates: dict[str, str]) -> None:
    assert "was ended by SIGABRT" in str(_try(delegates["aborts"]))


def test_delegate_that_hangs_is_stopped(delegates: dict[str, str]) -> None:
    assert _try(delegates["hangs"], timeout_s=2) == "it did not answer within 2 s and was stopped"


def test_delegate_without_its_chip_says_what_it_said(delegates: dict[str, str]) -> None:
    assert "no such chip on the bus" in str(_try(delegates["refuses"]))


def test_what_a_delegate_prints_does_not_spoil_the_answer(delegates: dict[str, str]) -> None:
    assert "printed" in str(_try(delegates["prints"]))


def test_delegate_that_leaves_all_to_the_cpu_is_a_problem(delegates: dict[str, str]) -> None:
    assert "would run on the CPU after all" in str(_try(delegates["idles"]))


def test_loading_on_a_delegate_that_leaves_all_to_the_cpu_is_unavailable(delegates: dict[str, str]) -> None:
    with pytest.raises(Unavailable, match="CPU after all"):
        load_engine(EngineName.LITERT, probe_model(EngineName.LITERT), setting=Setting(accelerator=delegates["idles"]))


def test_library_that_is_no_delegate_is_unavailable(delegates: dict[str, str]) -> None:
    with pytest.raises(Unavailable, match="is no LiteRT delegate"):
        load_delegate(delegates["is none"])


def test_delegate_that_refuses_is_unavailable_in_this_process_too(delegates: dict[str, str]) -> None:
    with pytest.raises(Unavailable, match="no such chip"):
        load_delegate(delegates["refuses"])


def test_library_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound, match="libnothing_of_the_kind"):
        load_delegate("libnothing_of_the_kind.so")


def test_file_that_is_no_library_is_unavailable(tmp_path: Path) -> None:
    library = tmp_path / "libtext.so"
    library.write_text("this is text")
    with pytest.raises(Unavailable, match="cannot be loaded"):
        load_delegate(str(library))


def test_faulty_delegates_are_reported_with_their_problem_and_absent_ones_left_out(delegates: dict[str, str]) -> None:
    asked = (delegates["aborts"], delegates["refuses"], delegates["idles"], "libnothing_of_the_kind.so")
    found = {one.accelerator: one.problem for one in find_accelerators(delegates=asked)}
    assert "SIGABRT" in found[delegates["aborts"]]
    assert "no such chip" in found[delegates["refuses"]]
    assert found[delegates["idles"]] == ""  # it starts; whether it takes a model, only a model tells
    assert "libnothing_of_the_kind.so" not in found


def test_provider_that_this_build_lacks_is_unavailable() -> None:
    setting = Setting(accelerator="NoSuchExecutionProvider")
    with pytest.raises(Unavailable, match="has no 'NoSuchExecutionProvider'"):
        load_engine(EngineName.ONNXRUNTIME, probe_model(EngineName.ONNXRUNTIME), setting=setting)


def test_provider_that_sends_inputs_to_a_server_is_no_accelerator() -> None:
    listed = try_out(Trial(what=What.LIST, engine=EngineName.ONNXRUNTIME)).found
    assert not {"AzureExecutionProvider", "CPUExecutionProvider"} & set(listed)


def test_device_that_openvino_does_not_find_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"finds no device 'NPU\.9'"):
        load_engine(EngineName.OPENVINO, probe_model(EngineName.OPENVINO), setting=Setting(accelerator="NPU.9"))
