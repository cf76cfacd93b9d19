"""Settings: what they may be, and how far each reaches."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
import threading
import typing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npublas
from npublas import _config, _environment

CHOICES = {
    "device": ["auto", "npu", "cpu"],
    "precision": ["float32", "float16", "int8"],
    "float64": ["cpu", "float32"],
    "on_fallback": ["allow", "warn", "error"],
}
PROCESS_ONLY = ["runtime", "memory_limit", "cores"]
NUMBERS = ["threads"]


def current(name):
    return getattr(npublas.get_config(), name)


def in_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


# --- Values ---------------------------------------------------------------------------------------


def test_the_settings_at_the_start():
    assert npublas.Config() == npublas.Config(
        device="auto",
        precision="float32",
        float64="cpu",
        on_fallback="allow",
        runtime="auto",
        memory_limit="auto",
        cores=3,
        threads="auto",
    )
    assert [field.name for field in fields(npublas.Config)] == [*CHOICES, *PROCESS_ONLY, *NUMBERS]
    assert npublas.get_config().to_dict().keys() == {*CHOICES, *PROCESS_ONLY, *NUMBERS}
    with pytest.raises(FrozenInstanceError):
        npublas.get_config().device = "cpu"


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in CHOICES.items() for value in values]
)
def test_every_value_can_be_set_and_read(name, value):
    with npublas.config_context(**{name: value}):
        assert current(name) == value
    if value != "int8":
        npublas.set_config(**{name: value})
        assert current(name) == value


@given(
    st.fixed_dictionaries(
        {
            **{name: st.sampled_from(values) for name, values in CHOICES.items()},
            "threads": st.integers(1, 127) | st.just("auto"),
        }
    )
)
def test_packing_keeps_every_combination(settings):
    with npublas.config_context(**settings):
        assert _config.unpacked(_config.packed()) == settings
        inner = _config.unpacked(_config.packed(device="cpu", precision="int8"))
    assert inner == {**settings, "device": "cpu", "precision": "int8"}


@pytest.mark.parametrize("change", [npublas.set_config, npublas.config_context])
@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["gpu", "", "CPU", 0, True, ["cpu"]])
def test_a_wrong_value_is_an_error_that_lists_the_right_ones(change, name, value):
    with pytest.raises(npublas.ConfigurationError) as error:
        change(**{name: value})
    right = CHOICES[name]
    if change is npublas.set_config and name == "precision":
        right = right[:2]
    *first, last = map(repr, right)
    assert str(error.value) == f"{name} must be {', '.join(first)} or {last}, not {value!r}"


def test_a_configuration_error_is_a_value_error():
    assert issubclass(npublas.ConfigurationError, ValueError)
    assert not issubclass(npublas.ConfigurationError, npublas.NpuError)


@pytest.mark.parametrize("change", [npublas.set_config, npublas.config_context])
def test_an_unknown_name_is_an_error_that_lists_the_right_ones(change):
    with pytest.raises(npublas.ConfigurationError, match=r"no setting 'devise'.* device, precis"):
        change(devise="cpu")


def test_one_wrong_setting_leaves_all_as_they_were():
    before = npublas.get_config()
    with pytest.raises(npublas.ConfigurationError):
        npublas.set_config(device="cpu", precision="float16", cores=9)
    assert npublas.get_config() == before


@pytest.mark.parametrize(
    ("given", "bytes_"),
    [
        ("auto", "auto"),
        (8 << 20, 8 << 20),
        (np.int64(8 << 20), 8 << 20),
        (256 << 10, 256 << 10),
        (1 << 40, 1 << 40),
        ("1 TiB", 1 << 40),
        ("256.0001KiB", (256 << 10)),
        ("512MiB", 512 << 20),
        ("1.5 GiB", 3 << 29),
        ("512kib", 512 << 10),
        ("3MB", 3_000_000),
        ("2 GB", 2_000_000_000),
        ("300kB", 300_000),
        ("300001B", 300_001),
        ("524288", 524288),
    ],
)
def test_a_memory_limit_is_bytes_or_a_text_with_a_unit(given, bytes_):
    npublas.set_config(memory_limit=given)
    assert current("memory_limit") == bytes_


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, True, 1.5e6, "", "lots", "1 PiB", "-1MiB", "0", "MiB", b"1", "٣MB", "3\u212aiB"),
        *(1, 4096, (256 << 10) - 1, "255.9KiB", (1 << 40) + 1, "1.0000000000001TiB"),
        *(10**30, "9" * 400, np.bool_(True), np.zeros(2)),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_wrong_memory_limit_is_an_error_with_an_example(value):
    with pytest.raises(
        npublas.ConfigurationError, match=r"'auto', or from 256 KiB to 1 TiB.*'512MiB'"
    ):
        npublas.set_config(memory_limit=value)


def test_a_number_that_python_would_not_write_is_refused_like_others():
    with pytest.raises(npublas.ConfigurationError, match=r"not (an integer of|10000.*\.\.\.)"):
        npublas.set_config(memory_limit=10**5000)
    with pytest.raises(npublas.ConfigurationError, match=r"not '9999.*\.\.\."):
        npublas.set_config(memory_limit="9" * 5000)


def test_cores_may_be_an_integer_of_numpys():
    npublas.set_config(cores=np.int64(2))
    assert type(current("cores")) is int and current("cores") == 2


@pytest.mark.parametrize("function", [npublas.set_config, npublas.config_context])
def test_type_checkers_refuse_unknown_names(function):
    assert typing.get_type_hints(function)["unknown"] is typing.NoReturn


@pytest.mark.parametrize("value", [0, 4, -1, True, np.True_, "2", 1.0])
def test_cores_are_one_two_or_three(value):
    with pytest.raises(npublas.ConfigurationError, match="cores must be 1, 2 or 3, not"):
        npublas.set_config(cores=value)


@pytest.mark.parametrize("value", ["simulated", "", 1, True, b"/usr/lib/librknnrt.so", "."])
def test_a_runtime_is_a_word_or_a_path(value):
    with pytest.raises(npublas.ConfigurationError, match="'auto', 'simulator' or the path"):
        npublas.set_config(runtime=value)


def test_a_runtime_may_be_a_path_object(tmp_path):
    npublas.set_config(runtime=tmp_path / "librknnrt.so")
    assert current("runtime") == str(tmp_path / "librknnrt.so")
    npublas.set_config(runtime="librknnrt.so.2")
    assert current("runtime") == "librknnrt.so.2"


# --- Reach ----------------------------------------------------------------------------------------


def test_the_process_is_changed_for_all_threads_at_once():
    npublas.set_config(device="cpu")
    assert in_thread(lambda: current("device")) == "cpu"
    in_thread(lambda: npublas.set_config(device="npu"))
    assert current("device") == "npu"


def test_a_context_is_seen_by_its_own_thread_alone_and_ends_with_its_block():
    with npublas.config_context(device="cpu"):
        assert current("device") == "cpu"
        assert in_thread(lambda: current("device")) == "auto"
    assert current("device") == "auto"


def test_contexts_nest_and_leave_alone_what_they_do_not_name():
    with npublas.config_context(device="cpu", precision="float16"):
        with npublas.config_context(precision="int8", on_fallback="warn"):
            config = npublas.get_config()
            assert (config.device, config.precision, config.on_fallback) == ("cpu", "int8", "warn")
            with npublas.config_context(device="auto"):
                assert current("device") == "auto"
        assert (current("device"), current("precision")) == ("cpu", "float16")
        npublas.set_config(device="npu", float64="float32")
        assert (current("device"), current("float64")) == ("cpu", "float32")
    assert (current("device"), current("precision")) == ("npu", "float32")


def test_a_context_ends_with_an_exception_too():
    with pytest.raises(ZeroDivisionError), npublas.config_context(device="cpu"):
        raise ZeroDivisionError
    assert current("device") == "auto"


def test_a_context_can_be_entered_again_and_decorate():
    cpu = npublas.config_context(device="cpu")
    with cpu, cpu:
        assert current("device") == "cpu"
    assert current("device") == "auto"
    assert repr(cpu) == "config_context(device='cpu')"

    @cpu
    def device(depth=0):
        return device(depth - 1) if depth else current("device")

    assert device(3) == "cpu"
    assert current("device") == "auto"


def test_tasks_do_not_disturb_each_other():
    async def task(device, mine, other):
        with npublas.config_context(device=device):
            mine.set()
            await other.wait()
            return current("device")

    async def both():
        one, two = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(task("cpu", one, two), task("npu", two, one))

    assert asyncio.run(both()) == ["cpu", "npu"]


def test_wrap_carries_the_settings_into_a_thread_pool():
    def device(of, *, name):
        """Says."""
        return of.get_config().device, name

    with npublas.config_context(device="cpu"):
        wrapped = npublas.wrap(device)
    assert in_thread(lambda: wrapped(npublas, name="x")) == ("cpu", "x")
    assert wrapped(npublas, name="y") == ("cpu", "y")
    assert current("device") == "auto"
    assert (wrapped.__name__, wrapped.__doc__) == ("device", "Says.")
    with pytest.raises(TypeError):
        wrapped()
    assert current("device") == "auto"


async def a_coroutine():
    return 1


def a_generator():
    yield 1


async def an_asynchronous_generator():
    yield 1


class AsyncCallable:
    async def __call__(self):
        return 1


@pytest.mark.parametrize("take", [npublas.wrap, npublas.config_context(device="cpu")])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (a_coroutine, "a coroutine function.*with npublas.config_context"),
        (functools.partial(a_coroutine), "a coroutine function"),
        (AsyncCallable(), "a coroutine function"),
        (a_generator, "a generator function"),
        (an_asynchronous_generator, "an? asynchronous generator function"),
        (None, "needs a function, not NoneType"),
        ("f", "needs a function, not str"),
    ],
)
def test_what_would_run_after_its_call_is_refused(take, function, message):
    with pytest.raises(TypeError, match=message):
        take(function)


def test_int8_precision_is_not_for_the_whole_process():
    with pytest.raises(npublas.ConfigurationError, match=r"config_context\(precision='int8'\)"):
        npublas.set_config(precision="int8")
    with npublas.config_context(precision="int8"):
        assert current("precision") == "int8"


@pytest.mark.parametrize("name", PROCESS_ONLY)
def test_what_belongs_to_the_process_is_not_for_a_context(name):
    with pytest.raises(npublas.ConfigurationError, match=f"set_config.*NPUBLAS_{name.upper()}"):
        npublas.config_context(**{name: "auto"})


# --- Changing what belongs to the process ---------------------------------------------------------


@pytest.fixture
def changes(monkeypatch):
    """What the owner of the engine hears."""
    heard = []
    monkeypatch.setattr(_config, "_process_change", lambda old, new: heard.append((old, new)))
    return heard


def test_the_engines_owner_hears_of_its_own_settings_alone_and_before(changes):
    npublas.set_config(device="cpu", on_fallback="warn")
    npublas.set_config(runtime="auto", cores=3, memory_limit="auto")  # no change
    assert changes == []
    npublas.set_config(cores=2, device="npu")
    ((old, new),) = changes
    assert (old.cores, new.cores, old.device, new.device) == (3, 2, "cpu", "npu")


def test_a_refused_change_changes_nothing(monkeypatch):
    def refuse(old, new):
        assert npublas.get_config() == old
        raise npublas.NpuDeviceError("busy")

    with monkeypatch.context() as patch:
        patch.setattr(_config, "_process_change", refuse)
        with pytest.raises(npublas.NpuDeviceError):
            npublas.set_config(cores=1, device="cpu")
        assert (current("cores"), current("device")) == (3, "auto")


def test_many_threads_may_change_settings_at_once():
    def change(name):
        for _ in range(50):
            for value in CHOICES[name]:
                if value != "int8":
                    npublas.set_config(**{name: value})

    threads = [threading.Thread(target=change, args=(name,)) for name in CHOICES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    config = npublas.get_config()
    assert (config.device, config.precision) == ("cpu", "float16")
    assert (config.float64, config.on_fallback) == ("float32", "error")
    # What the loops read is what get_config says.
    assert _config.unpacked(_config.packed()) == {
        name: getattr(config, name) for name in [*CHOICES, *NUMBERS]
    }


# --- The environment ------------------------------------------------------------------------------

PROGRAM = "import json, npublas; print(json.dumps(npublas.get_config().to_dict()))"


def run(program=PROGRAM, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NPUBLAS_")}
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_environment_gives_the_starting_values_also_to_children():
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PROGRAM!r}])"
    done = run(
        program,
        NPUBLAS_DEVICE="cpu",
        NPUBLAS_PRECISION="float16",
        NPUBLAS_FLOAT64="float32",
        NPUBLAS_ON_FALLBACK="warn",
        NPUBLAS_RUNTIME="simulator",
        NPUBLAS_MEMORY_LIMIT="64MiB",
        NPUBLAS_CORES="2",
        NPUBLAS_THREADS="12",
    )
    assert json.loads(done.stdout) == {
        "device": "cpu",
        "precision": "float16",
        "float64": "float32",
        "on_fallback": "warn",
        "runtime": "simulator",
        "memory_limit": 64 << 20,
        "cores": 2,
        "threads": 12,
    }


def test_the_loops_start_with_the_environments_settings():
    program = """
import numpy as np, npublas
npublas.matmul(np.ones((2, 2)), np.ones((2, 2)))
print(npublas.counters().reasons[0].text)"""
    assert run(program, NPUBLAS_DEVICE="cpu").stdout == 'device="cpu" was asked for\n'


OTHERS = ["lock_file", "lock_timeout", "run_timeout", "trial_timeout", "unsupported_runtime"]
OTHERS += ["verbose"]


def test_every_variable_of_npublas_is_accepted_and_in_the_documentation():
    limits = {"NPUBLAS_LOCK_TIMEOUT": "0", "NPUBLAS_RUN_TIMEOUT": "86400"}
    limits |= {"NPUBLAS_TRIAL_TIMEOUT": "0.001", "NPUBLAS_LOCK_FILE": "/nowhere/lock"}
    limits |= {"NPUBLAS_UNSUPPORTED_RUNTIME": "1", "NPUBLAS_VERBOSE": "0"}
    done = run(**limits, NPUBLAS_SIMULATOR_LOG="0", NPUBLAS_TEST_MODEL="x")
    assert done.returncode == 0, done.stderr
    listed = run(NPUBLAS_DEVISE="cpu").stderr.strip().rsplit("it has ")[-1].split(", ")
    assert listed == sorted(
        f"NPUBLAS_{name.upper()}" for name in [*CHOICES, *PROCESS_ONLY, *NUMBERS, *OTHERS]
    )
    document = Path(__file__).parents[1] / "docs" / "configuration.md"
    table = document.read_text().partition("## From the environment")[2]
    for name in listed:
        assert f"\n| `{name}` |" in table


def test_a_timeout_is_read_again_when_it_is_needed(monkeypatch):
    monkeypatch.setenv("NPUBLAS_RUN_TIMEOUT", "0")
    with pytest.raises(npublas.ConfigurationError, match=r"NPUBLAS_RUN_TIMEOUT=0: .*more than 0"):
        _environment.seconds("NPUBLAS_RUN_TIMEOUT", 20.0)
    monkeypatch.setenv("NPUBLAS_RUN_TIMEOUT", "3.5")
    assert _environment.seconds("NPUBLAS_RUN_TIMEOUT", 20.0) == 3.5


def test_an_empty_variable_counts_as_not_set():
    names = [*CHOICES, *PROCESS_ONLY, *NUMBERS, *OTHERS, "devise"]
    done = run(**{f"NPUBLAS_{name.upper()}": "" for name in names})
    assert npublas.Config(**json.loads(done.stdout)) == npublas.Config()


@pytest.mark.parametrize(
    ("variable", "value", "right"),
    [
        ("DEVICE", "gpu", "'auto', 'npu' or 'cpu'"),
        ("PRECISION", "half", "'float32' or 'float16', not"),
        ("PRECISION", "int8", "'float32' or 'float16', not 'int8'; that is for a config_context"),
        ("FLOAT64", "1", "'cpu' or 'float32'"),
        ("ON_FALLBACK", "raise", "'allow', 'warn' or 'error'"),
        ("RUNTIME", "simulated", "'auto', 'simulator' or the path"),
        ("MEMORY_LIMIT", "much", "'512MiB'"),
        ("CORES", "4", "1, 2 or 3"),
        ("CORES", "two", "1, 2 or 3"),
        ("CORES", "٣", "1, 2 or 3"),
        ("CORES", "9" * 5000, "1, 2 or 3"),
        ("MEMORY_LIMIT", "4096", "256 KiB to 1 TiB"),
        ("VERBOSE", "yes", "0 or 1"),
        ("UNSUPPORTED_RUNTIME", "yes", "0 or 1"),
        ("LOCK_TIMEOUT", "-1", "seconds, at least 0 and at most 86400"),
        ("LOCK_TIMEOUT", "soon", "seconds, at least 0 and at most 86400"),
        ("RUN_TIMEOUT", "0", "seconds, more than 0 and at most 86400"),
        ("RUN_TIMEOUT", "nan", "seconds, more than 0 and at most 86400"),
        ("TRIAL_TIMEOUT", "0.0", "seconds, more than 0 and at most 86400"),
        ("TRIAL_TIMEOUT", "86401", "seconds, more than 0 and at most 86400"),
        ("DEVISE", "cpu", "it has NPUBLAS_CORES, NPUBLAS_DEVICE, "),
    ],
)
def test_a_wrong_variable_is_named_with_its_value_and_the_right_ones(variable, value, right):
    done = run(**{f"NPUBLAS_{variable}": value})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        f"npublas.ConfigurationError: environment variable NPUBLAS_{variable}={value}: "
    )
    assert right in last
