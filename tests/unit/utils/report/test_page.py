"""Templates escape every value and fail on a missing one; a page holds its images."""

import base64

import pytest
from jinja2 import UndefinedError

from tests.pages import HOSTILE, elements_of
from utils.report import page
from utils.report.columns import Table


def macro(call: str, **values: object) -> str:
    name = call.split("(")[0]
    template = page.TEMPLATES.from_string(f"{{% from 'macros.html.j2' import {name} %}}{{{{ {call} }}}}")
    return template.render(values)


def test_a_value_is_text_in_an_element_and_inside_an_attribute() -> None:
    picture = {"heading": HOSTILE, "caption": HOSTILE, "source": HOSTILE}
    parts = macro("figure(picture)", picture=picture), macro("tile_row(t)", t=[{"value": HOSTILE, "name": HOSTILE}])
    parts += (macro("data_table(t, name)", t=Table([HOSTILE], [[HOSTILE, HOSTILE]]), name=HOSTILE),)
    cine = {"name": HOSTILE, "text": HOSTILE, "still": HOSTILE, "moving": HOSTILE}
    parts += (macro("cine_list(c, scale)", c=[cine], scale=HOSTILE),)
    parts += (macro("definitions(m)", m=[(HOSTILE, HOSTILE)]),)
    tags = {tag for part in parts for tag, _ in elements_of(part)}
    assert not tags & {"script", "pre"} and [tag for tag, _ in elements_of(parts[0])].count("img") == 1
    assert not {"onerror"} & {name for part in parts for _, names in elements_of(part) for name in names}


def test_a_missing_value_is_an_error_even_in_a_condition() -> None:
    for text in ("{{ missing }}", "{% if missing %}x{% endif %}", "{% for x in missing %}{% endfor %}"):
        with pytest.raises(UndefinedError, match="missing"):
            page.TEMPLATES.from_string(text).render({})
    with pytest.raises(UndefinedError, match="name"):
        macro("tile_row(t)", t=[{"value": "1"}])


def test_the_row_of_the_marked_model_stands_out() -> None:
    html = macro("data_table(t, 'x', mark='b')", t=Table(["", "PSNR"], [["a", "1"], ["b", "2"]]))
    assert html.count('class="mark"') == 1
    assert '<tr class="mark"><th scope="row">b</th><td>2</td></tr>' in html


def test_an_image_is_stored_in_its_url() -> None:
    url = page.data_url(b"\x89PNG")
    assert url.startswith("data:image/png;base64,") and base64.b64decode(url.split(",")[1]) == b"\x89PNG"
    assert page.data_url(b"<svg/>", "svg+xml").startswith("data:image/svg+xml;base64,")


def test_the_style_serves_dark_mode_sticky_heads_and_narrow_screens() -> None:
    source = page.TEMPLATES.get_template("base.html.j2").filename or ""
    with open(source) as stream:
        style = stream.read()
    for rule in ("prefers-color-scheme: dark", "position: sticky", "overflow: auto", "width=device-width"):
        assert rule in style
