import pytest

from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.port import Setting
from edgeloop.runtime.engines.settings import Aim, Found, is_parallel, settings_for, thread_counts


@pytest.mark.parametrize(
    ("cores", "expected"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (4, (1, 2, 4)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8)), (0, (1,))],
)
def test_threads_worth_trying_are_powers_of_two_and_all_cores(cores: int, expected: tuple[int, ...]) -> None:
    assert thread_counts(cores) == expected


def test_litert_is_tried_through_both_interfaces() -> None:
    assert settings_for(EngineName.LITERT, cores=2) == (
        Setting(threads=1, interface="interpreter"),
        Setting(threads=2, interface="interpreter"),
        Setting(threads=1, interface="compiled"),
        Setting(threads=2, interface="compiled"),
    )


@pytest.mark.parametrize("name", [EngineName.ONNXRUNTIME, EngineName.OPENVINO])
def test_engine_of_one_interface_is_tried_with_each_number_of_threads(name: EngineName) -> None:
    assert settings_for(name, cores=4) == (Setting(threads=1), Setting(threads=2), Setting(threads=4))


def test_number_of_threads_that_somebody_insists_on_is_tried_even_beyond_the_cores() -> None:
    assert settings_for(EngineName.ONNXRUNTIME, cores=2, threads=4) == (Setting(threads=4),)


def test_accelerators_come_after_the_cpu_without_those_that_fail_and_those_of_other_engines() -> None:
    found = (
        Found(engine=EngineName.ONNXRUNTIME, accelerator="CUDAExecutionProvider"),
        Found(engine=EngineName.ONNXRUNTIME, accelerator="QNNExecutionProvider", problem="no driver"),
        Found(engine=EngineName.OPENVINO, accelerator="GPU"),
    )
    assert settings_for(EngineName.ONNXRUNTIME, cores=1, found=found) == (
        Setting(),
        Setting(accelerator="CUDAExecutionProvider"),
    )


def test_accelerator_is_tried_through_the_interface_that_reaches_it() -> None:
    found = (Found(engine=EngineName.LITERT, accelerator="gpu", interface="compiled"),)
    made = settings_for(EngineName.LITERT, cores=1, found=found)
    assert made[-1] == Setting(interface="compiled", accelerator="gpu")


def test_only_litert_s_compiled_model_keeps_other_threads_waiting() -> None:
    kept = [
        (name, setting.interface)
        for name in EngineName
        for setting in settings_for(name, cores=1)
        if not is_parallel(name, setting)
    ]
    assert kept == [(EngineName.LITERT, "compiled")]


def test_what_takes_turns_is_not_tried_for_several_at_a_time() -> None:
    for name in EngineName:
        tried = settings_for(name, cores=4, aim=Aim.SIDE_BY_SIDE)
        assert tried
        assert all(is_parallel(name, setting) for setting in tried)
    gpu = Found(engine=EngineName.LITERT, accelerator="gpu", interface="compiled")
    assert settings_for(EngineName.LITERT, cores=1, found=(gpu,), aim=Aim.SIDE_BY_SIDE) == (
        Setting(interface="interpreter"),
        Setting(interface="compiled", accelerator="gpu"),
    )
