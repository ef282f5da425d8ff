"""The panels in JupyterLab: clicked, dragged, typed into and walked by keyboard, as a reader would."""

import re

import pytest

from tests.browser.harness import cells, open_notebook, run_all, save_notebook

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser

SOURCES = [
    'from course.teaching.panels.bits import BitPanel\nBitPanel(["FP16", "BF16"], "1")',
    'from course.teaching.panels.ruler import UlpRuler\nUlpRuler(["FP16", "BF16"], "1", "2^-11")',
    'from course.teaching.panels.bench import RoundingBench\nRoundingBench("0.1")',
]


@pytest.fixture
def notebook(lab_page, lab_server):
    """A notebook with the three panels, run."""
    save_notebook(lab_server.notebooks / "panels.ipynb", SOURCES)
    open_notebook(lab_page, lab_server, "panels")
    run_all(lab_page)
    expect(lab_page.locator(".course-panel")).to_have_count(len(SOURCES))
    return lab_page


@pytest.fixture
def bit_panel(notebook):
    return notebook.locator(".course-panel").nth(0)


def bit(panel, number, fmt="FP16"):
    return panel.get_by_role("group", name=f"Bits of {fmt}").get_by_role("button", name=re.compile(rf"bit {number},"))


def said(panel):
    return panel.get_by_role("status")


def focused(page):
    return page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.dataset.act")


def test_a_click_flips_a_bit_in_every_sense(bit_panel):
    top = bit(bit_panel, 9)
    expect(top).to_have_attribute("aria-pressed", "false")
    top.click()
    expect(top).to_have_attribute("aria-pressed", "true")
    expect(top).to_have_text("1M")
    expect(said(bit_panel)).to_contain_text("FP16 holds 1.5")
    expect(bit(bit_panel, 6, "BF16")).to_have_attribute("aria-pressed", "true")  # the other format shows the same number
    bit(bit_panel, 14).click()
    expect(bit_panel.locator("code").first).to_have_text("0x7E00")
    expect(said(bit_panel)).to_contain_text("not a number")


def test_typing_rounds_and_nonsense_keeps_the_number(bit_panel):
    box = bit_panel.get_by_label("Number or code")
    box.fill("0.1")
    box.press("Enter")
    expect(said(bit_panel)).to_contain_text("FP16 comes to 0.0999755859375, 2/5 ulp too low")
    box.fill("nonsense <b>")
    box.press("Enter")
    alert = bit_panel.locator("[role=alert]").first
    expect(alert).to_contain_text("'nonsense <b>' is not a number I can read: try 0.1")
    expect(box).to_have_value("nonsense <b>")
    expect(said(bit_panel)).to_contain_text("FP16 comes to 0.0999755859375")
    box.fill("0x3C01")
    box.press("Enter")
    expect(alert).to_be_empty()
    expect(said(bit_panel)).to_contain_text("1.0009765625")


def test_the_live_region_is_one_node_whose_text_changes(notebook, bit_panel):
    said(bit_panel).evaluate("""node => { window.region = node; window.heard = [];
        new MutationObserver(() => window.heard.push(node.textContent)).observe(node, {subtree: true, childList: true, characterData: true}) }""")
    bit(bit_panel, 9).click()
    expect(said(bit_panel)).to_contain_text("1.5")
    assert said(bit_panel).evaluate("node => node === window.region")  # a new node would not be spoken
    assert any("1.5" in text for text in notebook.evaluate("window.heard"))


def test_the_bits_are_one_tab_stop_walked_by_arrows_and_pressed_by_keys(notebook, bit_panel):
    group = bit_panel.get_by_role("group", name="Bits of FP16")
    expect(group.locator("[tabindex='0']")).to_have_count(1)
    bit(bit_panel, 15).focus()
    before = notebook.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex")
    notebook.keyboard.press("ArrowRight")
    assert "bit 14, exponent" in focused(notebook)
    notebook.keyboard.press("Space")
    expect(bit(bit_panel, 14)).to_have_attribute("aria-pressed", "true")
    assert "bit 14, exponent" in focused(notebook)  # the focus outlives the redrawing
    notebook.keyboard.press("Enter")
    expect(bit(bit_panel, 14)).to_have_attribute("aria-pressed", "false")
    notebook.keyboard.press("End")
    assert "bit 0, mantissa" in focused(notebook)
    notebook.keyboard.press("ArrowRight")
    assert "bit 0, mantissa" in focused(notebook)
    notebook.keyboard.press("ArrowUp")
    expect(said(bit_panel)).to_contain_text("1.0009765625")
    notebook.keyboard.press("ArrowDown")
    expect(said(bit_panel)).to_contain_text("FP16 holds 1 ")
    notebook.keyboard.press("Tab")
    assert "on the number line" in focused(notebook)
    expect(group.locator("[tabindex='0']")).to_have_count(1)
    after = notebook.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex")
    assert after == before and len(cells(notebook)) == len(SOURCES)


def test_keys_of_the_panel_are_not_commands_of_the_notebook(notebook, bit_panel):
    bit(bit_panel, 15).focus()
    for key in ("a", "b", "d", "d", "x", "m"):  # in JupyterLab: insert above, below, delete, cut, to markdown
        notebook.keyboard.press(key)
    assert [cell["cell_type"] for cell in cells(notebook)] == ["code"] * len(SOURCES)


def test_the_slider_is_dragged_and_ends_where_it_was_left(notebook, bit_panel):
    slider = bit_panel.get_by_role("slider", name="FP16 on the number line")
    slider.scroll_into_view_if_needed()
    place = slider.bounding_box()
    y = place["y"] + place["height"] / 2
    notebook.mouse.move(place["x"] + place["width"] * 0.7, y)
    notebook.mouse.down()
    for share in range(70, 100):
        notebook.mouse.move(place["x"] + place["width"] * share / 100, y)
    notebook.mouse.move(place["x"] + place["width"] + 30, y)
    notebook.mouse.up()
    expect(said(bit_panel)).to_contain_text("FP16 holds Inf")
    assert slider.input_value() == str(0x7C00)
    slider.press("ArrowLeft")
    expect(said(bit_panel)).to_contain_text("FP16 holds 65504")
    expect(slider).to_have_attribute("aria-valuetext", "65504")


def test_choosing_a_format_keeps_the_number_and_the_focus(notebook, bit_panel):
    choice = bit_panel.get_by_label("Format 2")
    choice.focus()
    choice.select_option("FP32")
    expect(bit_panel.get_by_role("group", name="Bits of FP32").get_by_role("button")).to_have_count(32)
    assert focused(notebook) == "Format 2"
    bit_panel.get_by_role("button", name="largest", exact=True).click()
    expect(said(bit_panel)).to_contain_text("65504")
    expect(bit_panel.get_by_label("Number or code")).to_have_value("65504")
    assert not wider_than_its_box(bit_panel)


def test_the_cards_keep_their_height_whatever_they_hold(notebook, bit_panel):
    bit_panel.get_by_label("Format 2").select_option("E2M1")  # which has no NaN at all
    expect(bit_panel.get_by_role("group", name="Bits of E2M1")).to_be_visible()
    heights = set()
    for name in ("one", "one tenth", "largest subnormal", "minus zero", "Inf", "NaN"):
        bit_panel.get_by_role("button", name=name, exact=True).click()
        expect(said(bit_panel)).to_contain_text(f"{name[0].upper()}{name[1:]}: ")
        heights.add(tuple(round(card.bounding_box()["height"]) for card in bit_panel.locator(".cp-card").all()))
    expect(bit_panel.get_by_label("E2M1", exact=True)).to_contain_text("E2M1 has no code for NaN")
    assert len(heights) == 1, heights


def test_start_over_brings_the_panel_back_as_it_was(notebook):
    for panel in notebook.locator(".course-panel").all():
        first = said(panel).text_content()
        box, typed = panel.get_by_role("textbox").first, panel.get_by_role("textbox").first.input_value()
        panel.get_by_role("group", name="Presets").get_by_role("button").nth(4).click()
        expect(said(panel)).not_to_have_text(first)
        box.fill("half a word")
        box.press("Enter")
        expect(panel.get_by_role("alert").first).to_contain_text("not a number I can read")
        panel.get_by_role("button", name="start over").click()
        expect(said(panel)).to_have_text(first)
        expect(box).to_have_value(typed)
        expect(panel.locator("[role=alert]").first).to_be_empty()
        assert focused(notebook) == "restart"


def wider_than_its_box(panel):
    return panel.evaluate("""root => [root, ...root.querySelectorAll('*')].filter(n => n.scrollWidth > n.clientWidth + 1 &&
        getComputedStyle(n).display !== 'inline' && !n.closest('svg') && n.tagName !== 'INPUT').map(n => n.outerHTML.slice(0, 80))""")


def test_every_preset_of_every_panel_is_shown_without_overflow(notebook):
    notebook.set_viewport_size({"width": 900, "height": 900})
    if notebook.locator("#jp-left-stack").is_visible():
        notebook.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
    expect(notebook.locator("#jp-left-stack")).to_be_hidden()
    assert notebook.locator(".course-panel").first.bounding_box()["width"] < 800
    for panel in notebook.locator(".course-panel").all():
        for preset in panel.get_by_role("group", name="Presets").get_by_role("button").all():
            before = said(panel).text_content()
            preset.click()
            expect(panel.locator(".cp-oops").last).to_be_empty()
            if before == said(panel).text_content():
                continue
            assert not wider_than_its_box(panel), preset.text_content()


def test_the_ruler_shows_where_a_dragged_delta_lands(notebook):
    panel = notebook.locator(".course-panel").nth(1)
    expect(said(panel)).to_contain_text("Adding delta changes nothing in FP16 and BF16")
    slider = panel.get_by_role("slider", name="delta")
    slider.focus()
    notebook.keyboard.press("ArrowRight")  # a 16th of an ulp past the tie
    expect(said(panel)).to_contain_text("FP16 gives 1.0009765625")
    expect(panel.locator("svg")).to_contain_text("x + delta → 1.0009765625")
    expect(panel.get_by_role("row", name=re.compile("^BF16"))).to_contain_text("lost")
    panel.get_by_role("button", name="− wider").click()
    expect(panel.locator("svg")).to_contain_text("0.96875")
    box = panel.get_by_label("x", exact=True)
    box.fill("inf")
    box.press("Enter")
    expect(panel.get_by_role("alert").first).to_contain_text("no place on this line")
    delta = panel.get_by_label("delta", exact=True)
    delta.fill("0.005")
    delta.press("Enter")
    expect(said(panel)).to_contain_text("BF16 gives 1.0078125")
    expect(box).to_have_value("inf")
    expect(panel.get_by_role("alert").first).to_contain_text("The panel still shows x = 1.")
    slider.press("End")
    expect(panel.get_by_role("row", name=re.compile("^BF16"))).to_contain_text("kept exactly")
    expect(panel.get_by_role("row", name=re.compile("^BF16"))).to_contain_text("1.0078125")


def test_the_signs_of_the_ruler_are_explained_where_a_screen_reader_finds_them(notebook):
    panel = notebook.locator(".course-panel").nth(1)
    legend = panel.get_by_role("paragraph").filter(has_text="a number of the format")
    expect(legend).to_contain_text("half-way: a tie")
    expect(legend).not_to_contain_text("dense")
    panel.get_by_role("button", name="add one").click()
    panel.get_by_label("Format 3").select_option("FP32")
    expect(legend).to_contain_text("shaded: numbers too dense to draw")


def test_a_number_in_a_wide_table_stays_on_one_line(lab_page, lab_server):
    source = """from course.teaching.tables import Table
Table(["format", *"abcdef", "note"], [["FP32", *["-1.1754943508222875e-38"] * 6, "a text of some words that may be broken"]], "limits")"""
    save_notebook(lab_server.notebooks / "table.ipynb", [source])
    open_notebook(lab_page, lab_server, "table")
    run_all(lab_page)
    cells_of_row = lab_page.get_by_role("table").get_by_role("cell")
    expect(cells_of_row).to_have_count(7)
    lines = cells_of_row.evaluate_all("all => all.map(cell => { const r = document.createRange(); r.selectNodeContents(cell); return r.getClientRects().length })")
    assert lines[:6] == [1] * 6 and lines[6] > 1
    output = lab_page.locator(".jp-OutputArea-output").filter(has=lab_page.get_by_role("table"))
    assert output.evaluate("node => node.scrollWidth > node.clientWidth && getComputedStyle(node).overflowX") == "auto"  # what is wider is scrolled to


def test_the_bench_switches_between_overflow_rules(notebook):
    panel = notebook.locator(".course-panel").nth(2)
    panel.get_by_role("button", name="just over 464").click()
    row = panel.get_by_role("row", name=re.compile("^E4M3 "))
    expect(row).to_contain_text("NaN overflow")
    saturate = panel.get_by_role("button", name=re.compile("^saturate"))
    saturate.click()
    expect(saturate).to_have_attribute("aria-pressed", "true")
    expect(row).not_to_contain_text("NaN")


def test_the_stored_notebook_holds_no_widget_state_but_a_table(notebook):
    for cell in cells(notebook):
        data = cell["outputs"][0]["data"]
        assert "".join(data["text/html"]).startswith("<table>") and "FP16" in "".join(data["text/plain"])
    metadata = notebook.evaluate("jupyterapp.shell.currentWidget.content.model.sharedModel.metadata")
    assert not metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state")


def test_a_figure_has_an_alt_text_in_the_page(lab_page, lab_server):
    alt = "Line that rises with slope one from zero to 2048 and is flat from there on, because half an ulp is then one."
    source = f"""from course.teaching.figures import figure
with figure(title="FP16 sums of ones stop at 2048", alt="{alt}") as (fig, ax):
    ax.plot([0, 2048, 4096], [0, 2048, 2048])"""
    save_notebook(lab_server.notebooks / "figure.ipynb", [source])
    open_notebook(lab_page, lab_server, "figure")
    run_all(lab_page)
    image = lab_page.get_by_role("img", name=alt)
    expect(image).to_be_visible()
    assert image.evaluate("img => img.naturalWidth") == 700
