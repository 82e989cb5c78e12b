"""``learn.html`` in headless Chromium: the exported steps that run there, and what people do."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import forwardly as fw
from browser import Browser, served
from forwardly.errors import UsageError

pytest.importorskip("onnx", reason="steps are exported by onnx: pip install 'forwardly[export]'")
ort = pytest.importorskip("onnxruntime", reason="pip install 'forwardly[export]'")

from forwardly.cli import main  # noqa: E402
from forwardly.export import page, web_runtime  # noqa: E402
from forwardly.export.page import Step, exported_steps, network, write_page  # noqa: E402
from in_chromium import NO_RUNTIME, why_not  # noqa: E402
from real_data import real_data  # noqa: E402

pytestmark = pytest.mark.unchecked  # as users build it
MODELS = tuple(
    f"{task}/{rule}"
    for task in ("teacher", "digits")
    for rule in ("pepita-modulated", "pepita-clean", "readout-only", "backprop")
)
RULES = ("pepita", "readout-only", "backprop")
SIZES = {"teacher": (16, 8, 1), "digits": (64, 16, 10), "mnist": (784, 64, 10)}
W1, W2 = "model.0.weight", "model.2.weight"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = write_page(tmp_path_factory.mktemp("page"))
    return path


@pytest.fixture
def opened(built: Path, browser: Browser) -> Iterator[Browser]:
    """The page, ready, and nothing running; it may complain of nothing."""
    yield from visit(browser, built.as_uri() + "#still")


@pytest.fixture(scope="module")
def asked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The page for tests that ask its thread, and leave it as it is."""
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield from visit(browser, built.as_uri() + "#still")
    browser.close()


def visit(browser: Browser, address: str) -> Iterator[Browser]:
    browser.emulate(1280, 900)
    browser.open("about:blank")
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(address)
    browser.until("document.documentElement.dataset.state")
    assert browser.evaluate("[...document.querySelectorAll(':disabled')].map(e => e.id)") == [
        "forget"
    ]
    said = browser.evaluate("document.getElementById('status').textContent")
    assert said.startswith(f"Ready: ONNX Runtime Web {web_runtime.VERSION}"), said
    yield browser
    assert browser.complaints == []


def ask(browser: Browser, call: str, **given: Any) -> Any:
    return browser.evaluate(f"forwardly.test.ask({json.dumps(call)}, {json.dumps(given)})")


def text(browser: Browser, element: str) -> str:
    return browser.evaluate(f"document.getElementById('{element}').textContent")


def tops(opened: Browser, places: tuple[str, ...]) -> list[float]:
    """How far down the page elements are."""
    of_each = "id => document.getElementById(id).getBoundingClientRect().top + scrollY"
    return opened.evaluate(f"{list(places)}.map({of_each})")


def click(browser: Browser, element: str) -> None:
    browser.evaluate(f"document.getElementById('{element}').click()")


def state_of(task: str, seed: int) -> dict[str, np.ndarray]:
    d, h, k = SIZES[task]
    rng = np.random.default_rng(seed)
    arrays = {
        W1: rng.normal(0, (2 / d) ** 0.5, (h, d)),
        W2: rng.normal(0, (2 / h) ** 0.5, (k, h)),
        "F": rng.uniform(-1, 1, (d, k)) * 0.5 * (6 / d) ** 0.5,
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def as_sent(state: dict[str, np.ndarray]) -> dict[str, Any]:
    return {n: {"data": a.ravel().tolist(), "shape": a.shape} for n, a in state.items()}


def saved(browser: Browser) -> bytes:
    """The file of PEPITA's weights."""
    letters = "Array.from(bytes, byte => String.fromCharCode(byte)).join('')"
    sent = browser.evaluate(f"forwardly.test.bytes('pepita').then(bytes => btoa({letters}))")
    return base64.b64decode(sent)


def numbers(sent: dict[str, float]) -> np.ndarray:
    """A typed array, which comes as an object with a key for each place."""
    return np.array(list(sent.values()), np.float32)


def received(state: dict[str, Any]) -> dict[str, np.ndarray]:
    return {n: numbers(value["data"]).reshape(value["shape"]) for n, value in state.items()}


@pytest.fixture(scope="module")
def mnist() -> page.Images:
    return page.some_of(fw.data.load("mnist", real_data("mnist"), seed=0))


@pytest.fixture(scope="module")
def hosted(mnist: page.Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page as a folder, with MNIST."""
    folder = tmp_path_factory.mktemp("hosted")
    written = write_page(folder, single_file=False, mnist=fw.data.load("mnist", seed=0))
    assert folder / "mnist.bin" in written
    with served(folder) as address:
        yield address


@pytest.fixture
def with_mnist(hosted: str, browser: Browser) -> Iterator[Browser]:
    """The same, MNIST chosen."""
    for opened in visit(browser, f"{hosted}learn.html#still"):
        assert f"{hosted}mnist.bin" not in opened.requests
        choose(opened, "mnist")
        assert f"{hosted}mnist.bin" in opened.requests
        yield opened
        others = [r for r in browser.requests if not r.startswith((hosted, "blob:", "data:"))]
        assert others == []


def choose(browser: Browser, name: str) -> None:
    browser.evaluate(f"document.querySelector('[name=digits-set][value={name}]').click()")
    browser.until(f"forwardly.digits.now.last === sets.{name}.last")
    assert browser.evaluate("forwardly.digits.now.epoch") == 0


class TestInABrowser:
    pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

    @pytest.mark.parametrize("model", MODELS)
    def test_100_steps_equal_onnxruntimes(self, model: str, asked: Browser) -> None:
        task = model.split("/")[0]
        d, _, k = SIZES[task]
        rng = np.random.default_rng(1)
        x = rng.random((50, d)).astype(np.float32)
        classes = task == "digits"
        target = rng.integers(k, size=50) if classes else rng.random((50, k)).astype(np.float32)
        rate, state = np.float32(0.05), state_of(task, 2)
        sent = {
            "x": {"data": x.ravel().tolist(), "shape": x.shape},
            "target": {
                "data": target.ravel().tolist(),
                "shape": target.shape,
                "classes": classes,
            },
        }
        found = ask(asked, "steps", model=model, state=as_sent(state), rate=0.05, count=100, **sent)

        (train,) = (step.train for step in exported_steps() if step.name == model)
        session = ort.InferenceSession(train)
        given = {*(value.name for value in session.get_inputs())}
        outputs = [value.name for value in session.get_outputs()]
        losses, before = [], dict(state)
        for _ in range(100):
            feeds = {**state, "x": x, "target": target, "learning_rate": np.asarray(rate)}
            results = session.run(None, {n: v for n, v in feeds.items() if n in given})
            named = dict(zip(outputs, results, strict=True))
            losses.append(float(named["loss"]))
            state |= {n[4:]: v for n, v in named.items() if n.startswith("new.")}
        np.testing.assert_allclose(found["losses"], losses, rtol=1e-4)
        for name, value in received(found["state"]).items():
            np.testing.assert_allclose(value, state[name], rtol=1e-4, atol=1e-5, err_msg=name)
        assert losses[-1] < losses[0]
        assert (state[W1] == before[W1]).all() == ("readout" in model)

    def test_digits_are_learned_as_in_python(self, asked: Browser) -> None:
        """Against the readable rules in torch, which know nothing of exported files."""
        digits = fw.data.load("digits", seed=0)
        x, target = digits.train.x, digits.train.target
        generator = torch.Generator().manual_seed(3)
        batches = [
            batch.tolist()
            for _ in range(10)
            for batch in torch.randperm(len(x), generator=generator).split(32)
            if len(batch) == 32
        ]
        state = state_of("digits", 4)
        settings = {"seed": 0, "rate": 0.3, "length": 0.5, "presynaptic": "clean", "set": "digits"}
        found = ask(asked, "learnDigits", settings=settings, state=as_sent(state), batches=batches)

        accuracies: dict[str, float] = {}
        for name in RULES:
            rule = network("digits", name, **({"presynaptic": "clean"} if name == "pepita" else {}))
            own = rule.state_dict()
            rule.load_state_dict(
                {**own, **{n: torch.as_tensor(a) for n, a in state.items() if n in own}}
            )
            optimizer = fw.LocalSGD(rule, 0.3)
            for batch in batches:
                optimizer.step(x[batch], target[batch])
            right = rule.predict(digits.test.x).argmax(1) == digits.test.target
            accuracies[name] = right.float().mean().item()
        assert found == pytest.approx(accuracies, abs=0.01)
        assert found["readout-only"] + 0.05 < found["pepita"] < found["backprop"] + 0.02

    def test_a_pass_that_is_drawn_agrees_with_the_exported_step(self, asked: Browser) -> None:
        look = ask(asked, "look", sample=5)
        clean, modulated = (
            np.array(list(look[p]["hidden"].values())) for p in ("clean", "modulated")
        )
        x, moved = (np.array(list(look[name].values())) for name in ("x", "modulatedX"))
        F, e = (np.array(list(look[name].values())) for name in ("F", "e"))
        np.testing.assert_allclose(moved, x + F * e[0], rtol=1e-5, atol=1e-7)
        first, last = map(numbers, look["updates"])
        np.testing.assert_allclose(
            first.reshape(8, 16), np.outer(clean - modulated, moved), atol=1e-6
        )
        np.testing.assert_allclose(last, e[0] * modulated, atol=1e-6)

    def test_breaking_it_changes_nothing(self, opened: Browser) -> None:
        click(opened, "teacher-one")
        opened.until("forwardly.teacher.now.epoch === 1")
        before = {rule: ask(opened, "state", task="teacher", rule=rule) for rule in RULES}
        click(opened, "teacher-break")
        opened.until("document.getElementById('teacher-said').textContent")
        said = text(opened, "teacher-said")
        assert said.count("the old weights kept") == 3
        assert "136 of 136 new weights are no numbers" in said
        assert {rule: ask(opened, "state", task="teacher", rule=rule) for rule in RULES} == before
        click(opened, "teacher-one")
        opened.until("forwardly.teacher.now.epoch === 2")
        assert ask(opened, "state", task="teacher", rule="pepita") != before["pepita"]

    def test_students_learn_as_the_blogs(self, opened: Browser) -> None:
        """In the order of the post's figure: backprop, PEPITA, the control."""
        opened.evaluate("forwardly.teacher.run(true)")
        opened.until("forwardly.teacher.now.epoch >= 2000")
        opened.evaluate("forwardly.teacher.run(false)")
        rows = opened.evaluate("forwardly.teacher.now.rows")
        first, last = ({rule: rows[rule][i][2] for rule in RULES} for i in (0, -1))
        assert len(set(first.values())) == 1, "they start from equal weights"
        assert last["backprop"] < last["pepita"] < 0.6 * last["readout-only"]
        frozen = ask(opened, "state", task="teacher", rule="readout-only")
        click(opened, "teacher-reset")
        opened.until("forwardly.teacher.now.epoch === 0")
        again = ask(opened, "state", task="teacher", rule="readout-only")
        assert frozen[W1] == again[W1]
        assert frozen[W2] != again[W2]

    def test_without_F_the_hidden_layer_does_not_learn(self, opened: Browser) -> None:
        opened.evaluate(
            "{ const s = document.getElementById('teacher-length'); s.value = 0;"
            " s.dispatchEvent(new Event('input')); }"
        )
        click(opened, "teacher-one")
        opened.until("forwardly.teacher.now.epoch === 1")
        states = [ask(opened, "state", task="teacher", rule=rule) for rule in RULES[:2]]
        assert not numbers(states[0]["F"]["data"]).any()
        assert states[0][W1] == states[1][W1]
        assert received(states[0])[W2] == pytest.approx(received(states[1])[W2], rel=1e-5)

    def test_what_diverges_is_told_and_kept(self, opened: Browser) -> None:
        opened.evaluate(
            "{ const s = document.getElementById('teacher-rate'); s.value = -2;"
            " s.dispatchEvent(new Event('input')); }"
        )
        opened.evaluate("forwardly.teacher.run(true)")
        opened.until("document.getElementById('teacher-said').textContent.startsWith('Diverged')")
        opened.evaluate("forwardly.teacher.run(false)")
        for rule in RULES:
            state = received(ask(opened, "state", task="teacher", rule=rule))
            assert all(np.isfinite(value).all() for value in state.values())

    def test_draw_read_teach_and_take_along(self, opened: Browser, tmp_path: Path) -> None:
        opened.evaluate("forwardly.digits.run(true)")
        opened.until("forwardly.digits.now.epoch >= 20")
        opened.evaluate("forwardly.digits.run(false)")
        stroke(opened, [(0.5, 0.15), (0.5, 0.85)])
        opened.until("document.querySelector('#read-backprop .answer').textContent !== '–'")
        click(opened, "pad-clear")
        turns = [2 * np.pi * i / 40 for i in range(41)]
        stroke(opened, [(0.5 + 0.22 * np.sin(t), 0.5 - 0.36 * np.cos(t)) for t in turns])
        opened.until("document.querySelector('#read-backprop .answer').textContent === '0'", 10)
        assert opened.evaluate("document.querySelector('#read-pepita .answer').textContent") == "0"

        # A 0 that they are told is a 7.
        opened.evaluate("document.querySelector('[data-digit=\"7\"]').click()")
        opened.until("document.getElementById('teach-said').textContent.includes('1 drawing')")
        opened.evaluate("forwardly.digits.run(true)")
        opened.until("document.querySelector('#read-backprop .answer').textContent === '7'")
        opened.evaluate("forwardly.digits.run(false)")

        shown = ask(opened, "one", task="digits")["rows"]["pepita"][-1][1]
        (tmp_path / "digits-pepita.safetensors").write_bytes(saved(opened))
        digits = fw.data.load("digits", seed=0)
        python = text(opened, "python").replace("digits-pepita", f"{tmp_path}/digits-pepita")
        *lines, last = python.strip().splitlines()
        values: dict[str, Any] = {"x": digits.test.x}
        exec("\n".join([*lines, f"found = {last}"]), values)
        accuracy = (values["found"] == digits.test.target).float().mean().item()
        assert accuracy == pytest.approx(shown, abs=1e-6)
        assert accuracy > 0.8

    def test_by_keys(self, opened: Browser) -> None:
        opened.evaluate("document.getElementById('pad').focus()")
        opened.press(" ")
        opened.press("ArrowDown", times=10)
        opened.press(" ")
        seen_as = np.array(opened.evaluate("[...forwardly.digits.pad.picture]")).reshape(8, 8)
        assert (seen_as.max(1) > 0.2).all(), "a line from top to bottom"
        assert not seen_as[:, [0, 1, 6, 7]].any()
        opened.press("Delete")
        assert not any(opened.evaluate("[...forwardly.digits.pad.picture]"))
        # All that is to be used can be reached, and has a name.
        unnamed, seen = [], set[str]()
        for node in opened.call("Accessibility.getFullAXTree")["nodes"]:
            role = node.get("role", {}).get("value")
            if role in ("button", "slider", "radio", "combobox", "image", "application", "table"):
                seen.add(role)
                if not node.get("name", {}).get("value"):
                    unnamed.append(node)
        assert unnamed == []
        assert {"button", "slider", "radio", "combobox", "image", "application", "table"} <= seen

    @pytest.mark.parametrize("width", [360, 768, 1280])
    def test_nothing_is_wider_than_the_window_or_moves(self, width: int, opened: Browser) -> None:
        opened.emulate(width, 800)
        assert opened.evaluate("document.documentElement.scrollWidth") == width
        places = "teacher-title", "passes-title", "digits-title", "rules-title"
        before = tops(opened, places)
        click(opened, "teacher-one")
        click(opened, "teacher-break")
        click(opened, "digits-one")
        for _ in range(6):
            click(opened, "passes-next")
        click(opened, "pad-sample")
        opened.until("document.getElementById('teacher-said').textContent")
        opened.until("forwardly.digits.now.rows.pepita.length > 1")
        assert tops(opened, places) == before

    def test_no_motion_where_none_is_wanted(self, built: Path, browser: Browser) -> None:
        for still in (True, False):
            browser.emulate(800, 600, still=still)
            browser.open("about:blank")
            browser.open(built.as_uri())
            browser.until("document.documentElement.dataset.state === 'ready'")
            browser.evaluate("forwardly.test.ask('pause', {task: 'digits'})")
            assert browser.evaluate("forwardly.teacher.running") != still

    def test_nothing_leaves(self, built: Path, browser: Browser) -> None:
        for opened in visit(browser, built.as_uri()):
            opened.until("forwardly.teacher.now.epoch > 10")
            opened.evaluate("forwardly.digits.run(true)")
            opened.until("forwardly.digits.now.epoch > 1")
        own = (built.as_uri(), "blob:", "data:")
        assert browser.requests
        assert [address for address in browser.requests if not address.startswith(own)] == []
        # And could not: the policy forbids it.
        for address in ("https://example.org/", built.as_uri()):
            answer = browser.evaluate(f"fetch('{address}').then(() => 'came', () => 'refused')")
            assert answer == "refused"

    def test_mnist_is_learned_as_in_python(self, with_mnist: Browser, mnist: page.Images) -> None:
        """An epoch by the very files that lie in the folder, on onnxruntime."""
        (x, target), (test_x, test_target) = (
            (x.numpy().astype(np.float32) / np.float32(255), target.numpy())
            for x, target in (mnist.train, mnist.test)
        )
        assert (x.shape, test_x.shape) == ((10_000, 784), (2000, 784))
        order = np.random.default_rng(3).permutation(len(x))
        batches = order[: 312 * 32].reshape(312, 32)
        state = state_of("mnist", 4)
        settings = {"seed": 0, "rate": 0.3, "length": 0.5, "presynaptic": "clean", "set": "mnist"}
        found = ask(
            with_mnist,
            "learnDigits",
            settings=settings,
            state=as_sent(state),
            batches=batches.tolist(),
        )

        steps = {step.name: step for step in exported_steps(("mnist",))}
        accuracies: dict[str, float] = {}
        for name in RULES:
            step = steps[f"mnist/{'pepita-clean' if name == 'pepita' else name}"]
            train, predict = ort.InferenceSession(step.train), ort.InferenceSession(step.predict)
            own: dict[str, Any] = {**state, "learning_rate": np.asarray(0.3, np.float32)}
            outputs = [value.name for value in train.get_outputs()]
            for batch in batches:
                feeds = {**own, "x": x[batch], "target": target[batch]}
                given = {value.name: feeds[value.name] for value in train.get_inputs()}
                named = dict(zip(outputs, train.run(None, given), strict=True))
                own |= {n[4:]: v for n, v in named.items() if n.startswith("new.")}
            own["x"] = test_x
            given = {value.name: own[value.name] for value in predict.get_inputs()}
            accuracies[name] = float((predict.run(None, given)[0].argmax(1) == test_target).mean())
        assert found == pytest.approx(accuracies, abs=0.01)
        assert found["readout-only"] + 0.05 < found["pepita"] < found["backprop"] + 0.02

    def test_draw_as_mnist_teach_and_take_along(
        self, with_mnist: Browser, mnist: page.Images, tmp_path: Path
    ) -> None:
        opened = with_mnist
        opened.evaluate("forwardly.digits.run(true)")
        opened.until("forwardly.digits.now.epoch >= 1")
        opened.evaluate("forwardly.digits.run(false)")
        # 20 pixels high, and its ink's middle in the middle, wherever it was drawn.
        stroke(opened, [(0.15, 0.2), (0.15, 0.6), (0.3, 0.6)])
        seen = np.array(opened.evaluate("[...forwardly.digits.pad.picture]")).reshape(28, 28)
        rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
        assert 20 <= len(rows) <= 21
        assert len(columns) < 14
        places = np.arange(28) + 0.5
        middle = [(seen.sum(axis) * places).sum() / seen.sum() for axis in (0, 1)]
        assert middle == pytest.approx([14, 14], abs=0.3)
        assert seen.max() == 1

        click(opened, "pad-clear")
        stroke(opened, [(0.5, 0.15), (0.5, 0.85)])
        opened.until("document.querySelector('#read-backprop .answer').textContent === '1'", 10)
        assert opened.evaluate("document.querySelector('#read-pepita .answer').textContent") == "1"
        opened.evaluate("document.querySelector('[data-digit=\"7\"]').click()")
        opened.until("document.getElementById('teach-said').textContent.includes('1 drawing')")
        opened.evaluate("forwardly.digits.run(true)")
        opened.until("document.querySelector('#read-backprop .answer').textContent === '7'")
        opened.evaluate("forwardly.digits.run(false)")

        shown = ask(opened, "one", task="digits")
        path = tmp_path / "mnist-pepita.safetensors"
        path.write_bytes(saved(opened))
        x, target = mnist.test
        python = text(opened, "python").replace("mnist-pepita", f"{tmp_path}/mnist-pepita")
        *lines, last = python.strip().splitlines()
        values: dict[str, Any] = {"x": x / 255}
        exec("\n".join([*lines, f"found = {last}"]), values)
        accuracy = (values["found"] == target).float().mean().item()
        assert accuracy == pytest.approx(shown["rows"]["pepita"][-1][1], abs=1e-3)

        # Each set has drawings of its own.
        assert shown["own"] == 1
        choose(opened, "digits")
        assert opened.evaluate("document.getElementById('forget').disabled")
        assert opened.evaluate("forwardly.digits.pad.picture.length") == 64
        assert 'load("digits-pepita' in text(opened, "python")
        choose(opened, "mnist")
        assert not opened.evaluate("document.getElementById('forget').disabled")

    @pytest.mark.parametrize("width", [360, 1280])
    def test_nothing_moves_while_drawing_as_mnist(self, width: int, with_mnist: Browser) -> None:
        opened = with_mnist
        opened.emulate(width, 800)
        assert opened.evaluate("document.documentElement.scrollWidth") == width
        places = "digits-title", "pad", "teach-said", "python", "rules-title"
        before = tops(opened, places)
        click(opened, "digits-one")
        click(opened, "pad-sample")
        stroke(opened, [(0.3, 0.15), (0.5, 0.85)])
        opened.until("document.querySelector('#read-backprop .answer').textContent !== '–'")
        opened.evaluate("document.querySelector('[data-digit=\"1\"]').click()")
        opened.until("document.getElementById('teach-said').textContent.includes('1 drawing')")
        assert tops(opened, places) == before
        name = opened.evaluate("document.getElementById('seen').getAttribute('aria-label')")
        assert name == "What the networks see: 28 by 28 pixels"

    def test_images_that_do_not_come_are_told(self, tmp_path: Path, browser: Browser) -> None:
        write_page(tmp_path, single_file=False, mnist=of_noise())
        (tmp_path / "mnist.bin").unlink()
        with served(tmp_path) as address:
            for opened in visit(browser, f"{address}learn.html#still"):
                opened.evaluate("document.querySelector('[value=mnist]').click()")
                said = "document.getElementById('digits-said').textContent"
                opened.until(f"{said}.startsWith('The images did not come: mnist.bin: 404')")
                assert opened.evaluate("document.querySelector('[value=digits]').checked")
                click(opened, "digits-one")
                opened.until("forwardly.digits.now.epoch > 0")
                assert len(opened.complaints) == 1, "the browser's own, of the 404"
                opened.complaints.clear()

    def test_from_a_server(self, tmp_path: Path, browser: Browser) -> None:
        """As a folder, the page takes the runtime from beside it."""
        written = write_page(tmp_path, single_file=False)
        names = {str(path.relative_to(tmp_path)) for path in written}
        assert {f"steps/{model}/train_step.onnx" for model in MODELS} <= names
        with served(tmp_path) as address:
            for opened in visit(browser, f"{address}learn.html#still"):
                click(opened, "teacher-one")
                opened.until("forwardly.teacher.now.epoch === 1")
            others = [r for r in browser.requests if not r.startswith((address, "blob:", "data:"))]
            assert others == []
            assert any(r.endswith(".wasm") for r in browser.requests)


def stroke(browser: Browser, points: list[tuple[float, float]]) -> None:
    """Draw on the board with the mouse."""
    browser.evaluate("document.getElementById('pad').scrollIntoView({block: 'center'})")
    left, top, width, height = browser.evaluate(
        "(({left, top, width, height}) => [left, top, width, height])"
        "(document.getElementById('pad').getBoundingClientRect())"
    )
    places = [(left + x * width, top + y * height) for x, y in points]
    kinds = ["mousePressed", *["mouseMoved"] * (len(places) - 1)]
    for kind, (x, y) in zip(kinds, places, strict=True):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1)
    x, y = places[-1]
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left")


def test_the_page_escapes_what_it_shows() -> None:
    (first, *_) = exported_steps()
    hostile = Step("</script><script>alert(1)</script>", first.train, first.predict)
    runtime = web_runtime.WebRuntime(b"</script>", b"</script>")
    shown = page._text([hostile], {"digits": page._digits()}, runtime)
    assert "alert(1)</script>" not in shown
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in shown
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', shown)
    assert policy is not None
    assert "http" not in policy[1]
    assert "connect-src &#39;none&#39;" in policy[1]
    assert re.findall(r'(?:src|href)="([^"#]+)"', shown) == []


def of_noise() -> fw.Dataset:
    """In MNIST's place."""
    x = torch.randint(256, (60, 1, 28, 28), dtype=torch.uint8)
    part = fw.Split(x, torch.arange(60) % 10)
    return fw.Dataset("mnist", 10, part, part, part)


@pytest.mark.skipif(not web_runtime.is_there(), reason=NO_RUNTIME)
@pytest.mark.parametrize("has_mnist", [False, True])
def test_by_the_command(
    has_mnist: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(name: str, *_: object, **__: object) -> fw.Dataset:
        assert name == "mnist"
        if not has_mnist:
            raise UsageError("mnist could not be downloaded")
        return of_noise()

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["forwardly", "export", "--page", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    monkeypatch.setattr("forwardly.commands.export.load", load)
    folder = tmp_path / "page"
    assert call("--out", str(folder)) == 0
    files = [path for path in folder.rglob("*") if path.is_file()]
    said = "".join(capsys.readouterr().out.split())
    assert all(str(path) in said for path in files)
    assert {folder / "learn.html", folder / "hosted" / "learn.html"} < set(files)
    assert (folder / "learn.html").stat().st_size < 6_000_000
    assert (folder / "hosted" / "mnist.bin" in files) == has_mnist
    assert ("hosteddoeswithoutMNIST:mnistcouldnotbedownloaded" in said) != has_mnist
    for path, has in ((folder, False), (folder / "hosted", has_mnist)):
        shown = (path / "learn.html").read_text("utf-8")
        assert ('id="payload-mnist"' in shown) == has
        assert ('name="digits-set"' in shown) == has
    assert call("--rule", "backprop") != 0
    assert "has rules and data of its own" in " ".join(capsys.readouterr().err.split())


def test_another_runtime_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*npm install onnxruntime-web@1"):
        write_page(tmp_path / "out", runtime=tmp_path)
    for name in web_runtime.NAMES:
        (tmp_path / name).write_bytes(b"another")
    monkeypatch.setenv(web_runtime.VARIABLE, str(tmp_path))
    with pytest.raises(UsageError, match=r"is not the file of onnxruntime-web 1.*checksum"):
        write_page(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_runtime_is_downloaded_once_and_only_if_it_is_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry answers with another package, and then not at all."""
    import requests

    monkeypatch.delenv(web_runtime.VARIABLE, raising=False)
    monkeypatch.setenv("FORWARDLY_DATA", str(tmp_path))

    class Answer:
        headers: ClassVar[dict[str, str]] = {}

        def raise_for_status(self) -> None:
            pass

        def iter_content(self, **_: object) -> Iterator[bytes]:
            yield b"another package"

    monkeypatch.setattr(requests, "get", lambda *_, **__: Answer())
    with pytest.raises(UsageError, match=r"could not be downloaded .*wrong checksum"):
        web_runtime.find()
    assert list(tmp_path.iterdir()) == []

    def fails(*_: object, **__: object) -> None:
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "get", fails)
    with pytest.raises(UsageError, match=r"could not be downloaded .*ConnectionError"):
        web_runtime.find()
