"""The page in a real browser: players in step, blind tests by keyboard, nothing requested."""

import json
import re
from pathlib import Path

import pytest
from browser import open_browser, phone, press, wait

from bittern.evaluation import page
from bittern.evaluation.scores import METRICS


def test_the_page_is_one_file_without_addresses(evaluated):
    html = (evaluated.out / "index.html").read_text()
    assert "{{" not in html
    outside = [u for u in re.findall(r"https?://[^\s\"'`<]+", html) if "www.w3.org" not in u]
    assert outside == []
    assert not re.search(r"<(script|img|audio|iframe)[^>]+src=|<link[^>]+href=\"(?!data:)", html)


def test_a_clip_named_like_markup_stays_data(evaluated):
    html = (evaluated.out / "index.html").read_text()
    assert "<b>44100" not in html
    assert "\\u003cb>44100" in html


def test_page_versions_are_the_stages_and_the_nearest_baselines():
    from bittern.evaluation.baselines import parse
    from bittern.evaluation.systems import ModelFamily

    model = ModelFamily("m", Path(), "", 1024, 16_000, (1, 2, 4, 8, 16, 32))
    opus = parse("opus=6,8,12,16,24")
    assert opus.name == "Opus"
    rates = {system.name: float(system.setting.split()[0]) / 2 for system in model.systems}
    rates |= {system.name: float(system.setting.split()[0]) for system in opus.systems}
    document = {"systems": [{"name": name, "kbps": rate} for name, rate in rates.items()]}
    chosen = [s.name for s in page.audible([model, opus], document)]
    models = ["m 4 stages", "m 8 stages", "m 16 stages", "m 32 stages"]
    assert chosen == [*models, "Opus 6 kbit/s", "Opus 8 kbit/s", "Opus 16 kbit/s"]


def test_a_model_by_bitrate_is_heard_at_its_bitrates_and_not_by_stages_too():
    from bittern.evaluation.baselines import parse
    from bittern.evaluation.systems import Loss, ModelFamily

    stages = ModelFamily("m", Path(), "", 1024, 16_000, (4, 8))
    asked = ModelFamily("m by bitrate", Path(), "", 1024, 16_000, bitrates=(3.0, 6.0, 8.0))
    lossy, opus = asked.losing(Loss(0.1, 1.5)), parse("opus=6,8,24")
    families = [stages, asked, lossy, opus]
    document = {
        "systems": [
            {"name": s.name, "kbps": float(s.setting.split()[0])}
            for f in families
            for s in f.systems
        ]
    }
    chosen = [s.name for s in page.audible(families, document)]
    model = [f"m by bitrate {rate} kbit/s" for rate in ("3.0", "6.0", "8.0")]
    assert chosen == [*model, "Opus 6 kbit/s", "Opus 8 kbit/s"]


@pytest.fixture(scope="module")
def browser():
    with open_browser() as driver:
        yield driver


@pytest.fixture
def opened(browser, evaluated):
    """The page with its first clip loaded; afterwards, nothing may have gone wrong."""
    browser.get_log("performance")
    browser.get((evaluated.out / "index.html").as_uri())
    wait(browser, "player.buffers.length > 0")
    yield browser
    errors = [line for line in browser.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]
    assert errors == []
    events = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    requested = {
        event["params"]["request"]["url"].partition(":")[0]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert "file" in requested  # the page itself: the log works
    assert requested <= {"file", "data"}


def test_every_version_of_every_clip_plays(opened):
    for clip in range(2):
        opened.execute_script(
            "player.pause(); at('clip-choice').value = arguments[0];return showClip(arguments[0]);",
            clip,
        )
        count = opened.execute_script("return report.heard[arguments[0]].versions.length", clip)
        assert count == 4  # the original, 4 and 8 stages, the baseline
        wait(opened, f"player.buffers.length === {count}")
        for version in range(count):
            opened.execute_script("rows[arguments[0]].click()", version)
            wait(opened, f"player.playing && player.levels[{version}] === 1")
            levels = opened.execute_script("return player.levels")
            assert [round(level, 3) for level in levels] == [
                float(v == version) for v in range(count)
            ]
            assert opened.execute_script(
                "return Math.max(...player.buffers[arguments[0]].getChannelData(0)) > 0.001",
                version,
            )


def test_switching_keeps_the_place_and_runs_on(opened):
    opened.execute_script("player.play(0)")
    wait(opened, "player.place > 0.2")
    jump = opened.execute_script(
        "const before = player.place; rows[2].click(); return Math.abs(player.place - before)"
    )
    assert jump < 0.02
    assert opened.execute_script("return player.playing && player.active === 2")
    place = opened.execute_script("return player.place")
    wait(opened, f"player.place > {place} + 0.1 || player.place < {place}")


def test_a_press_into_a_spectrogram_plays_that_version_from_there(opened):
    for version in (2, 3):  # the first press while nothing plays, the second while playing
        place = opened.execute_async_script(
            """
            const [version, done] = arguments;
            const picture = rows[version].querySelector(".picture");
            const box = picture.getBoundingClientRect();
            const at = { bubbles: true, clientX: box.left + box.width / 2 };
            picture.dispatchEvent(new MouseEvent("click", at));
            setTimeout(() => done(player.place / player.duration), 100);
            """,
            version,
        )
        assert 0.45 < place < 0.8
        wait(opened, f"player.playing && player.levels[{version}] === 1")


def test_keys_play_switch_and_move(opened):
    from selenium.webdriver import Keys

    press(opened, " ")
    wait(opened, "player.playing")
    press(opened, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert opened.execute_script("return player.active") == 2
    press(opened, "o")
    assert opened.execute_script("return player.active") == 0
    press(opened, "o")
    assert opened.execute_script("return player.active") == 2
    press(opened, " ")
    wait(opened, "!player.playing")
    before = opened.execute_script("return player.place")
    press(opened, Keys.ARROW_LEFT if before > 1 else Keys.ARROW_RIGHT)
    assert abs(abs(opened.execute_script("return player.place") - before) - 1) < 0.05


def test_without_loop_it_stops_at_the_end(opened):
    opened.execute_script("document.getElementById('loop').click()")
    opened.execute_script("player.seek(player.duration - 0.3); player.play(0)")
    wait(opened, "player.playing")
    wait(opened, "!player.playing")
    assert opened.execute_script("return player.place") == 0


def test_spectrograms_are_drawn(opened):
    wait(opened, "rows[0].querySelector('canvas').width === 420")
    colours = opened.execute_script(
        "return rows.map((row) => { const c = row.querySelector('canvas');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return new Set(d.filter((_, i) => i % 4 === 0)).size; })"
    )
    assert all(count > 50 for count in colours)


def test_curves_of_every_metric_are_drawn(opened):
    from selenium.webdriver.common.by import By

    buttons = opened.find_elements(By.CSS_SELECTOR, "#metric-choices button")
    assert len(buttons) == len(METRICS)
    for button in buttons:
        button.click()
        assert len(opened.find_elements(By.CSS_SELECTOR, "#plot .point")) == 4


def test_abx_runs_through_by_keyboard(opened):
    start_blind(opened, "abx", 6)
    for trial in range(6):
        wait(
            opened, f"document.querySelector('.progress')?.textContent === 'Trial {trial + 1} of 6'"
        )
        press(opened, "a", "b", "x")
        wait(opened, "test.player.playing && test.player.active === 2")
        assert "tiny-test" not in opened.execute_script("return test.stage.textContent")
        truth = opened.execute_script("return test.trials[test.number].x")
        press(opened, "12"[truth])
    wait(opened, "test === null")
    said = opened.execute_script("return document.getElementById('blind-result').textContent")
    assert "6 of 6 right" in said
    assert "0.016" in said  # 1 / 64
    assert opened.execute_script("return document.querySelectorAll('#blind-result tr').length") == 7


def test_rating_runs_through_by_keyboard_and_ranks_the_versions(opened):
    from selenium.webdriver import Keys

    start_blind(opened, "rating", 2)
    for clip in range(2):
        wait(
            opened,
            f"document.querySelector('.progress')?.textContent.startsWith('Clip {clip + 1} of 2')",
        )
        order = opened.execute_script(
            "return test.trials[test.number].order.map((version) => version.system)"
        )
        press(opened, str(order.index(None) + 1), Keys.ARROW_UP, Keys.ARROW_UP)
        press(opened, "r", Keys.ARROW_UP)  # the open reference has no rating
        press(opened, Keys.ENTER)
    wait(opened, "test === null")
    cells = opened.execute_script(
        "return [...document.querySelectorAll('#blind-result td')].map((cell) => cell.textContent)"
    )
    assert cells[:5] == ["Original (hidden)", "", "60", "60", "60"]


def test_a_blind_test_can_be_left(opened):
    from selenium.webdriver import Keys

    start_blind(opened, "abx", 5)
    wait(opened, "document.querySelector('.progress')")
    press(opened, Keys.ESCAPE)
    wait(opened, "test === null")
    assert "0 of 0 right" in opened.execute_script("return document.body.textContent")


def test_a_phone_needs_no_sideways_scrolling(opened):
    with phone(opened):
        wait(opened, "document.documentElement.scrollWidth === 390")


def start_blind(browser, kind: str, trials: int) -> None:
    browser.execute_script(
        "at('blind-kind').value = arguments[0]; at('blind-kind').onchange();"
        "at('blind-trials').value = arguments[1]; at('blind-start').click();",
        kind,
        trials,
    )
