"""report.html in a real browser: headless Chromium, driven by chromedriver."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepreduce.api import report_run
from deepreduce.candidate import Candidate
from deepreduce.report.tables import read_candidates_csv
from deepreduce.store.candidates import write_candidates
from tests.helpers.made_up_run import HOSTILE, write_run

pytestmark = pytest.mark.slow

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or CHROMEDRIVER is None:
    pytest.skip("chromium and chromedriver are not installed (Debian: chromium-driver)", allow_module_level=True)

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--window-size=1400,1000",
)  # fmt: skip


class Browser:
    """One page in Chromium."""

    def __init__(self, downloads: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={downloads / 'profile'}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
        self.downloads = downloads
        self.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def command(self, name: str, **values: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, values)

    def script(self, code: str, *values: Any) -> Any:
        return self.driver.execute_script(code, *values)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def open(self, page: Path) -> None:
        """Open a page as new: wide and light, nothing logged yet."""
        self.command("Emulation.clearDeviceMetricsOverride")
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(page.as_uri())
        self.wait_for("return document.querySelectorAll('#training-chart .scatterlayer .trace').length > 0")

    def wait_for(self, code: str, *values: Any) -> None:
        WebDriverWait(self.driver, 20).until(lambda _: self.script(code, *values), code)

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]

    def requests(self) -> list[str]:
        """Every address that the page asked for since it was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [*sent, *(m["params"]["url"] for m in messages if m["method"] == "Network.webSocketCreated")]

    def points(self) -> dict[str, list[str]]:
        """The plan_ids of the frontier plot's markers that are drawn, by the name of their trace."""
        return {name: ids for name, ids in self.script(POINTS) if name in ("others", "frontier", "teacher")}

    def point(self, plan_id: str) -> WebElement:
        """A network's marker."""
        return self.script(POINT, plan_id)

    def column(self, name: str) -> list[str]:
        """The table's cells below a head, as shown."""
        heads = [head.text for head in self.find_all("#table thead th")]
        cells = f"#table tbody tr > :nth-child({heads.index(name) + 1})"
        return self.script("return [...document.querySelectorAll(arguments[0])].map(c => c.innerText.trim())", cells)

    def sort_by(self, name: str) -> None:
        next(b for b in self.find_all("#table thead button") if b.text == name).send_keys(Keys.ENTER)

    def title(self) -> str:
        return self.find("#details-title").text

    def emulate_phone(self) -> None:
        self.command("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
        self.wait_for("return innerWidth === 360")


DRAWN = """
const chart = document.getElementById("frontier-chart");
const groups = [...chart.querySelectorAll(".scatterlayer .trace")];
// plotly.js makes no group for a trace without points
const drawn = chart.data.map((trace) => [trace, trace.customdata.length ? groups.shift() : document.body]);
const marker = (group, k) => group.querySelectorAll(".points path")[k];
"""

POINTS = f"""{DRAWN}
return drawn.map(([trace, group]) => [trace.name, trace.customdata.filter((_, k) => marker(group, k))]);
"""

POINT = f"""{DRAWN}
for (const [trace, group] of drawn) {{
  const k = trace.hoverinfo === "skip" ? -1 : trace.customdata.indexOf(arguments[0]);
  if (k >= 0) return marker(group, k);
}}
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("browser"))
    yield started
    started.driver.quit()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "run"
    write_run(folder)
    report_run(folder)
    return folder


@pytest.fixture
def page(browser: Browser, run: Path) -> Browser:
    browser.open(run / "report.html")
    return browser


def rows_of(path: Path) -> list[Candidate]:
    return read_candidates_csv(path.read_text(encoding="utf-8"))


def test_it_loads_and_works_without_complaint_or_request(page: Browser, run: Path) -> None:
    page.find("#table tbody tr:nth-child(4) button").click()
    page.find("input[value=train_loss]").click()
    page.find("#frontier-only").click()
    for summary in page.find_all("summary"):
        summary.click()
    page.script("scrollTo(0, document.body.scrollHeight)")
    assert page.complaints() == []
    assert page.requests() == [(run / "report.html").as_uri()]


def test_a_script_that_is_not_ours_is_not_run(page: Browser) -> None:
    page.script("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = true\">')")
    page.script(
        "const s = document.createElement('script'); s.textContent = 'window.ran = true'; document.body.append(s)"
    )
    page.script("fetch('http://127.0.0.1:9/').catch(() => { window.refused = true; })")
    page.wait_for("return window.refused")
    assert page.script("return window.ran") is None
    assert len([c for c in page.complaints() if "Content Security Policy" in c]) >= 3


def test_it_shows_a_point_for_each_row_of_the_tables(page: Browser, run: Path) -> None:
    shown = page.points()
    trained = {c.plan_id for c in rows_of(run / "candidates.csv") if c.measurement is not None}
    front = {c.plan_id for c in rows_of(run / "frontier.csv")}
    assert sum(map(len, shown.values())) == len(trained)
    assert set(shown["frontier"]) | set(shown["teacher"]) == front
    assert {*shown["others"], *shown["frontier"], *shown["teacher"]} == trained
    assert len(page.find_all("#table tbody tr")) == len(rows_of(run / "candidates.csv"))


def test_a_click_on_a_point_shows_its_network_beside_the_original(page: Browser, run: Path) -> None:
    before = page.title()
    chosen = next(c for c in rows_of(run / "frontier.csv") if c.label != before and not c.is_teacher)
    ActionChains(page.driver).move_to_element(page.point(chosen.plan_id)).click().perform()
    page.wait_for("return document.getElementById('details-title').textContent === arguments[0]", chosen.label)
    assert chosen.measurement is not None
    full = next(c for c in rows_of(run / "candidates.csv") if c.is_teacher).measurement
    assert full is not None
    stages = [row.text.split() for row in page.find_all("#stages tbody tr")]
    assert stages == [
        [stage, f"{chosen.measurement.stage_relu_counts[stage]:,}", f"{count:,}"]
        for stage, count in full.stage_relu_counts.items()
    ]
    sites = page.script("return [...document.querySelectorAll('#sites td:nth-child(3)')].map(c => c.textContent)")
    assert sum(int(count.replace(",", "")) for count in sites) == chosen.relu_count
    assert chosen.folder in page.find("#details-body pre").text
    assert page.find("#table tr[aria-current=true]").get_attribute("data-network") == chosen.plan_id


def test_hovering_a_point_tells_its_plan_counts_and_accuracies(page: Browser, run: Path) -> None:
    chosen = rows_of(run / "frontier.csv")[2]
    assert chosen.measurement is not None
    ActionChains(page.driver).move_to_element(page.point(chosen.plan_id)).perform()
    page.wait_for("return document.querySelector('#frontier-chart .hovertext') !== null")
    text = page.find("#frontier-chart .hovertext").text
    assert chosen.label in text and f"{chosen.relu_count:,} ReLUs" in text and chosen.plan_id in text
    assert f"test {100 * chosen.measurement.test_accuracy:.2f} %" in text
    assert f"validation {100 * chosen.measurement.val_accuracy:.2f} %" in text


def test_every_network_is_reached_by_keyboard(page: Browser, run: Path) -> None:
    page.find("#frontier-only").send_keys(Keys.NULL)  # focuses it
    seen, keys = [], ActionChains(page.driver)
    for _ in range(80):
        keys.send_keys(Keys.TAB).perform()
        row = page.script("return document.activeElement.closest('tbody tr')?.dataset.network ?? null")
        if row is None:
            if seen:
                break
            continue
        outline = page.script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"  # the focus shows
        keys.send_keys(Keys.ENTER).perform()
        label = page.script("return document.activeElement.innerText.trim()")
        assert page.title() == label
        assert label in page.find("#status").get_attribute("textContent")
        seen.append(row)
    assert seen == [c.plan_id for c in rows_of(run / "candidates.csv")]


def test_the_neighbours_of_a_network_are_one_press_away(page: Browser, run: Path) -> None:
    everything = [c.plan_id for c in rows_of(run / "candidates.csv")]
    current = "return document.querySelector('#table tr[aria-current]').dataset.network"
    place = everything.index(page.script(current))
    page.find("#next").send_keys(Keys.ENTER)
    assert page.script(current) == everything[place + 1]
    for _ in range(place + 1):
        page.find("#previous").send_keys(Keys.ENTER)
    assert page.script(current) == everything[0] and not page.find("#previous").is_enabled()


def test_a_network_that_failed_says_why(page: Browser) -> None:
    page.find("#table tr[data-network=broken] button").click()
    assert "Training failed: the loss is not finite: nan in epoch 3" in page.find("#details-body").text
    assert page.complaints() == []


def test_a_network_that_was_dropped_is_not_called_failed(page: Browser) -> None:
    page.find("#table tr[data-network=beaten] button").click()
    assert "Dropped: its draft has 30.00 % validation accuracy" in page.find("#details-body").text
    status = dict(zip(page.column("Plan"), page.column("Status"), strict=True))
    assert (status["beaten"], status["broken"]) == ("dropped", "failed")
    assert "1 failed, 1 dropped" in page.find("#summary").text
    assert page.complaints() == []


def test_the_table_sorts_by_each_column(page: Browser) -> None:
    def numbers(name: str) -> list[float]:
        texts = page.column(name)
        kept = [text for text in texts if text != "\u2013"]
        assert texts == [*kept, *["\u2013"] * (len(texts) - len(kept))]  # what was not measured comes last
        return [float(text.replace(",", "").replace("\u2212", "-").strip("\u00b1+\u00d7")) for text in kept]

    assert numbers("ReLUs") == sorted(numbers("ReLUs"), reverse=True)
    heads = [head.text for head in page.find_all("#table thead th")]
    for name in heads:
        page.sort_by(name)
        head = page.find_all("#table thead th")[heads.index(name)]
        assert head.get_attribute("aria-sort") == "ascending"
        assert len(page.find_all("#table th[aria-sort]")) == 1
        textual = name in ("Network", "Status", "Plan")
        up: list[Any] = page.column(name) if textual else numbers(name)
        page.sort_by(name)
        assert head.get_attribute("aria-sort") == "descending"
        down: list[Any] = page.column(name) if textual else numbers(name)
        if not textual:
            assert up == sorted(up)
        assert up == down[::-1] and len(set(up)) > 1, name


def test_the_frontier_can_be_had_alone(page: Browser, run: Path) -> None:
    page.find("#frontier-only").click()
    shown = page.script("return [...document.querySelectorAll('#table tbody tr')].map(r => r.dataset.network)")
    assert shown == [c.plan_id for c in rows_of(run / "frontier.csv")]


def test_the_download_is_the_table_of_all_candidates(page: Browser, run: Path) -> None:
    file = page.downloads / "candidates.csv"
    page.find("#download").click()
    WebDriverWait(page.driver, 20).until(lambda _: file.exists(), "no download")
    text = file.read_text(encoding="utf-8")
    assert list(csv.reader(io.StringIO(text))) == list(csv.reader(io.StringIO((run / "candidates.csv").read_text())))
    assert read_candidates_csv(text) == rows_of(run / "candidates.csv")


def test_the_snippet_is_copied(page: Browser, run: Path) -> None:
    page.command("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.find("#details-body .snippet button").click()
    page.wait_for("return document.querySelector('#details-body .snippet button').textContent === 'Copied'")
    copied = page.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied.startswith("import deepreduce\n") and f"load_reduced('{run}/candidates/" in copied


def test_a_zoomed_plot_can_be_left_by_a_button(page: Browser) -> None:
    button, drag = page.find("#zoom-out"), page.find("#frontier-chart .nsewdrag")
    ticks = "return [...document.querySelectorAll('#frontier-chart .xtick')].map(t => t.textContent)"
    before = page.script(ticks)
    assert not button.is_displayed()
    ActionChains(page.driver).move_to_element(drag).click_and_hold().move_by_offset(160, 90).release().perform()
    page.wait_for("return !document.getElementById('zoom-out').hidden")
    assert page.script(ticks) != before and len(page.script(ticks)) >= 2
    page.find("#table tbody tr:nth-child(2) button").click()
    assert button.is_displayed()  # another network leaves the zoom as it is
    button.send_keys(Keys.ENTER)
    assert page.script(ticks) == before and not button.is_displayed()
    assert page.complaints() == []


def test_the_training_plot_shows_every_history(page: Browser, run: Path) -> None:
    lines = (
        "return document.getElementById('training-chart').data.map(t => [t.name, t.y.filter(y => y !== null).length])"
    )
    drawn = page.script(lines)
    assert len(drawn) == len([c for c in rows_of(run / "candidates.csv") if c.measurement is not None])
    assert {count for _, count in drawn} == {20}  # of 40 epochs every other is validated
    page.find("input[value=train_loss]").click()
    assert {count for _, count in page.script(lines)} == {40}


def test_the_criticality_is_drawn_least_first(page: Browser, run: Path) -> None:
    worth = json.loads((run / "criticality.json").read_text())["criticality"]
    shown = [row.text.split()[0] for row in page.find_all("#criticality-table tbody tr")]
    widths = [bar.size["width"] for bar in page.find_all("#criticality-table .fill")]
    assert shown == sorted(worth, key=lambda stage: worth[stage]) and widths == sorted(widths)


# -- other costs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def costed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Candidate]]:
    folder = tmp_path_factory.mktemp("costed") / "run"
    # of no more networks are all labels different
    candidates = write_run(folder, size=5, seed=3, presets=["cheetah-lan", "measured-semi2k-loopback"])
    report_run(folder)
    return folder, candidates


def choose(page: Browser, selector: str, value: str) -> None:
    Select(page.find(selector)).select_by_value(value)


def test_a_run_without_costs_offers_none(page: Browser) -> None:
    assert not page.find("#axis").is_displayed() and not page.find("#costs").is_displayed()
    assert not any("Latency" in head.text for head in page.find_all("#table thead th"))


def test_another_cost_has_its_own_frontier_everywhere(browser: Browser, costed: tuple[Path, list[Candidate]]) -> None:
    folder, candidates = costed
    browser.open(folder / "report.html")
    choose(browser, "#axis", "latency cheetah-lan")
    browser.wait_for("return document.getElementById('status').textContent.includes('cheetah over lan')")
    latency = {c.plan_id: c.cost_estimates["cheetah-lan"].latency for c in candidates if c.measurement}
    accuracy = {c.plan_id: c.measurement.val_accuracy for c in candidates if c.measurement}
    front = {a for a in latency if not any(latency[b] <= latency[a] and accuracy[b] > accuracy[a] for b in latency)}
    shown = browser.points()
    assert {*shown["frontier"], *shown["teacher"]} - ({"teacher"} - front) == front
    browser.find("#frontier-only").click()
    listed = browser.script("return [...document.querySelectorAll('#table tbody tr')].map(r => r.dataset.network)")
    assert set(listed) == front | {"teacher"}
    assert f"{len(front)} on the frontier" in browser.find("#summary").text
    title = browser.script("return document.getElementById('frontier-chart').layout.xaxis.title.text")
    assert title == "Latency for one image, cheetah over lan (estimated) (log scale)"
    place = browser.script(
        "const t = document.getElementById('frontier-chart').data.find(t => t.name === 'teacher'); return t.x[0]"
    )
    assert place == pytest.approx(latency["teacher"])
    choose(browser, "#axis", "relus")
    assert browser.script("return document.getElementById('frontier-chart').layout.xaxis.title.text").startswith(
        "ReLUs"
    )
    assert browser.complaints() == []


def test_bars_show_where_the_seconds_and_bytes_go(browser: Browser, costed: tuple[Path, list[Candidate]]) -> None:
    folder, candidates = costed
    browser.open(folder / "report.html")
    choose(browser, "#preset", "measured-semi2k-loopback")
    by_label = {
        "teacher" if c.is_teacher else c.label: c.cost_estimates["measured-semi2k-loopback"] for c in candidates
    }
    assert len(by_label) == len(candidates)
    rows = browser.find_all("#costs-table tbody tr")
    assert len(rows) >= 2
    labels = [row.find_element(By.TAG_NAME, "th").text for row in rows]
    slowest = max(by_label[label].latency for label in labels)
    assert labels == sorted(labels, key=lambda label: -by_label[label].latency)
    for row, label in zip(rows, labels, strict=True):
        widths = browser.script(
            "const stack = arguments[0].querySelector('td.costs .stack');"
            "const width = (element) => element.getBoundingClientRect().width;"
            "return [...stack.children].map((part) => width(part) / width(stack))",
            row,
        )
        shares = [share.seconds / slowest for share in by_label[label].shares]
        assert widths == pytest.approx(shares, abs=0.02)
    assert "trusted dealer" in browser.find("#preset option[value=measured-semi2k-loopback]").text
    browser.emulate_phone()
    assert browser.script("return document.documentElement.scrollWidth") == 360
    assert browser.complaints() == []


def luminance(colour: str) -> float:
    """Of a colour as the browser tells it, rgb(r, g, b) or #rrggbb: W3C's relative luminance, 0 to 1."""
    if colour.startswith("#"):
        channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    else:
        channels = [int(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(page: Browser, scheme: str) -> None:
    page.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.wait_for("return matchMedia(`(prefers-color-scheme: ${arguments[0]})`).matches", scheme)
    colour = {
        name: page.script(
            "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0])", f"--{name}"
        )
        for name in ("page", "card", "code", "accent-wash", "ink", "soft", "accent", "teacher", "failed", "faint")
    }
    assert (luminance(colour["page"]) < 0.1) == (scheme == "dark")
    for ground in ("page", "card", "code", "accent-wash"):
        for text in ("ink", "soft"):
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)  # W3C's minimum for text
    for text in ("accent", "teacher", "failed"):
        assert contrast(colour[text], colour["card"]) >= 4.5, text
    assert contrast(colour["faint"], colour["card"]) >= 3  # and for what is drawn
    # the plots are drawn by script: they follow without a reload
    fill = "return getComputedStyle(document.querySelector('#frontier-chart .xtick text')).fill"
    page.wait_for(
        "return document.getElementById('frontier-chart').layout.font.color === arguments[0]", colour["soft"]
    )
    assert luminance(page.script(fill)) == pytest.approx(luminance(colour["soft"]))
    assert page.complaints() == []


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Browser, run: Path) -> None:
    page.emulate_phone()
    page.driver.refresh()
    page.wait_for("return document.querySelectorAll('#training-chart .scatterlayer .trace').length > 0")
    for summary in page.find_all("summary"):
        summary.click()
    assert page.script("return document.documentElement.scrollWidth") == 360
    wider = page.script(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, pre, .unseen, .skip'))"
        ".filter(e => e.getBoundingClientRect().right > 360.5).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wider == []
    page.find("#table tbody tr:nth-child(3) button").send_keys(Keys.ENTER)
    assert page.script("return document.activeElement.id") == "details-title"  # the details come into sight
    top = page.script("return document.getElementById('details-title').getBoundingClientRect().top")
    assert 0 <= top <= 740
    page.find("#back-to-table").send_keys(Keys.ENTER)
    row = page.script("return document.activeElement.closest('tr').dataset.network")
    assert row == rows_of(run / "candidates.csv")[2].plan_id


def test_hostile_names_are_shown_as_they_are(browser: Browser, tmp_path: Path) -> None:
    stages = {f"S1<b>{HOSTILE}": (64, 2), "S2 & \"quoted\" 'too' `${1}`": (32, 2)}
    write_run(tmp_path / "run", model=HOSTILE, stages=stages, size=4)
    browser.open(report_run(tmp_path / "run", out=tmp_path / "<b>page #1?.html"))
    assert browser.find("h1").text.startswith(HOSTILE)
    row = browser.find("#table tbody tr:nth-child(3)")
    row.find_element(By.TAG_NAME, "button").click()
    assert browser.find("#stages tbody th").text == f"S1<b>{HOSTILE}"
    ActionChains(browser.driver).move_to_element(browser.point(row.get_attribute("data-network"))).perform()
    browser.wait_for("return document.querySelector('#frontier-chart .hovertext') !== null")
    assert HOSTILE in browser.find("#frontier-chart .hovertext").text
    assert browser.script("return document.querySelectorAll('script, img, iframe').length") == 3
    assert browser.complaints() == []  # an alert would have stopped every command, a script been refused


def test_a_run_of_one_network_shows_it(browser: Browser, tmp_path: Path) -> None:
    """The teacher alone, of one stage: a run that was looked at early, or that nothing fits."""
    everything = write_run(tmp_path / "run", stages={"S1": (64, 3)}, size=0, complete=False, with_criticality=False)
    kept = [candidate for candidate in everything if candidate.is_teacher]
    assert len(kept) == 1 < len(everything)
    write_candidates(tmp_path / "run", kept)
    browser.open(report_run(tmp_path / "run"))
    assert browser.points() == {"others": [], "frontier": [], "teacher": ["teacher"]}
    assert browser.find("#incomplete").is_displayed() and not browser.find("#criticality").is_displayed()
    assert not browser.find("#next").is_enabled() and not browser.find("#previous").is_enabled()
    assert browser.complaints() == []


def test_a_screenshot_is_not_blank(page: Browser) -> None:
    """The plot's pixels, as a reader sees them: many colours, the frontier's among them."""
    import matplotlib.image

    taken = page.command("Page.captureScreenshot", format="png")["data"]
    pixels = (matplotlib.image.imread(io.BytesIO(base64.b64decode(taken)))[..., :3] * 255).round().astype(int)
    accent = (abs(pixels - [0x00, 0x72, 0xB2]).sum(axis=2) < 12).sum()
    assert accent > 500
