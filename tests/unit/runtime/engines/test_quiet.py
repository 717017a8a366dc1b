import ctypes
import os
import platform
import subprocess
import sys
import threading

import pytest

from edgeloop.runtime.engines.quiet import complaint, said, stdio_muted, without_native_chatter


def test_native_chatter_is_dropped_and_news_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with without_native_chatter():
        os.write(2, b"INFO: [environment.cc:36] Creating LiteRT environment with options\n")
        os.write(2, b"ERROR: something is wrong\n")
    assert capfd.readouterr().err == "ERROR: something is wrong\n"


def _print_in_c(word: bytes) -> None:
    library = ctypes.CDLL(None)
    stderr = ctypes.c_void_p.in_dll(library, "stderr")
    library.fputs(word, stderr)
    library.fflush(stderr)


ONLY_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere nothing is muted")


@ONLY_GLIBC
def test_what_c_prints_is_dropped_while_muted_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    _print_in_c(b"before ")
    with stdio_muted():
        _print_in_c(b"native ")
        with stdio_muted():
            _print_in_c(b"nested ")
        _print_in_c(b"still ")
        os.write(2, b"python ")
    _print_in_c(b"after")
    assert capfd.readouterr().err == "before python after"


@ONLY_GLIBC
def test_c_is_heard_again_after_many_threads_muted_it_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    def mute() -> None:
        for _ in range(2000):
            with stdio_muted():
                pass

    threads = [threading.Thread(target=mute) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _print_in_c(b"heard")
    assert capfd.readouterr().err == "heard"


def test_compiled_model_s_process_says_nothing_on_standard_error() -> None:
    code = (
        "from edgeloop.runtime.engines.find import EngineName, probe_engine; "
        "from edgeloop.runtime.engines.port import Setting; "
        "print(probe_engine(EngineName.LITERT, setting=Setting(interface='compiled')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("None\n", "", 0)


def test_python_is_heard_after_native_libraries_are_not() -> None:
    code = (
        "import os, sys, atexit\n"
        "atexit.register(lambda: print('late news', file=sys.stderr))\n"
        "from edgeloop.runtime.engines.quiet import without_native_farewell\n"
        "atexit.register(lambda: print('news', file=sys.stderr))\n"
        "without_native_farewell()\n"
        "class Late:\n"
        "    def __del__(self): os.write(2, b'native')\n"
        "late = Late()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.returncode) == ("news\nlate news\n", 0)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("ERROR: [x.h:1961]\n└ Some ops are not accelerated.\n\n", "Some ops are not accelerated."),
        ("one line", "one line"),
        ("Exception from a.cpp:1:\nCannot load library x\n\n", "Cannot load library x"),
        ("ERROR: [x.h:1961]\n└ ERROR: [y.cc:7] no room", "no room"),
        ("ERROR: [x.h:1961]\n└ ERROR: [y.cc:7]", "RuntimeError without a reason"),
        ("", "RuntimeError without a reason"),
    ],
)
def test_last_line_that_says_something_is_what_was_said(message: str, expected: str) -> None:
    assert said(RuntimeError(message)) == expected


def test_complaint_is_the_first_printed_error_that_says_something() -> None:
    printed = ["INFO: [a.cc:1] hello", "ERROR: [b.cc:2]", "ERROR: [c.cc:3] No adapters found", "ERROR: [d.cc:4] so no"]
    assert (complaint(printed), complaint(printed[:2])) == ("No adapters found", "")
