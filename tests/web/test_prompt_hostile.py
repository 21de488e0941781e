"""Hostile texts as prompts, as tokens and as targets: shown as text, never run, and given back as they are."""

from urllib.parse import urlencode

import pytest

from conceptlab.plot.naming import visible
from conceptlab.web.live.one_pass import shown_token
from tests.web.conftest import opened
from tests.web.hostile_strings import hostile_strings
from tests.web.prompt_models import byte_tokenizer, fetch, random_model, served
from tests.web.test_prompt_page import settled

N = 200
CONTEXT = 1024


def sendable(text: str) -> bool:
    """Whether an address can hold it: no lone surrogate, not endless, not empty."""
    return 0 < len(text) < 400 and not any("\ud800" <= c <= "\udfff" for c in text)


TEXTS = [text for text in hostile_strings() if sendable(text)][:N]


@pytest.fixture(scope="module")
def running():
    with served(random_model(byte_tokenizer(TEXTS), layers=1, context=CONTEXT), TEXTS[3]) as found:
        yield found


def test_two_hundred_prompts_come_back_exactly(running) -> None:
    assert len(TEXTS) == N
    for text in TEXTS:
        twin = fetch(f"{running.url}/panel/readouts?{urlencode({'prompt': text})}&as=json").json()
        assert twin["prompt"] == text
        assert "".join(twin["tokens"]) == text
        assert twin["shown"] == [shown_token(token) for token in twin["tokens"]]


def test_two_hundred_tokens_are_named_exactly(running) -> None:
    tokenizer = running.desk.live.model.tokenizer
    for text in TEXTS:
        id = tokenizer.convert_tokens_to_ids(text)
        twin = fetch(f"{running.url}/panel/lens?{urlencode({'prompt': 'ab', 'target': f'#{id}'})}&as=json").json()
        assert twin["names"][str(id)] == text
        assert twin["target"] == {"id": id, "text": text, "shown": shown_token(text)}


def test_the_html_holds_no_tag_of_theirs(running) -> None:
    for text in TEXTS[:60]:
        for path in ("/prompt", "/panel/readouts", "/panel/head"):
            page = fetch(f"{running.url}{path}?{urlencode({'prompt': text, 'target': text})}").content.decode()
            for tag in ("<img", "<svg", "<iframe", "<script>window", "<style>", "<math", "<object", "<base"):
                assert tag not in page or tag not in text, (path, text)


@pytest.mark.browser
def test_all_of_them_at_once_in_the_browser(browser, running) -> None:
    text = ""
    for one in TEXTS:
        if len((text + one).encode()) < 6000:
            text += one
    with opened(browser, running.url) as page:
        page.on("dialog", lambda d: page.problems.append(f"a dialog: {d.message}"))
        page.go(f"/prompt?{urlencode({'prompt': text})}")
        settled(page)
        assert page.locator(".said-error").count() == 0
        ids = running.desk.live.model.encode(text).ids[0]
        assert len(ids) > 40
        chips = page.locator('#tokens [data-part="strip"] .chip bdi').all_text_contents()
        twin = fetch(f"{running.url}/panel/readouts?{urlencode({'prompt': text})}&as=json").json()
        assert chips == twin["shown"]
        assert "".join(twin["tokens"]) == text
        page.locator("#lens .grid").focus()
        for key in ("ArrowLeft", "ArrowLeft", "ArrowDown", "ArrowUp"):
            page.keyboard.press(key)
        page.locator('#lens [data-do="numbers"]').click()
        assert page.evaluate("window.pwned") is None
        assert page.evaluate("document.querySelectorAll('main img, main svg, main iframe, main style').length") == 0


@pytest.mark.browser
def test_some_alone_as_prompt_target_and_distractor(browser, running) -> None:
    with opened(browser, running.url) as page:
        page.on("dialog", lambda d: page.problems.append(f"a dialog: {d.message}"))
        for i in range(0, 60, 6):
            text, target, other = TEXTS[i], TEXTS[i + 1], TEXTS[i + 2]
            page.go(f"/prompt?{urlencode({'prompt': text, 'target': target, 'distractor': other})}")
            settled(page)
            assert page.locator('.prompt-form textarea[name="prompt"]').input_value() == text.replace(
                "\r\n", "\n"
            ).replace("\r", "\n")
            assert (
                page.locator('.prompt-form input[name="target"]').evaluate("e => e.getAttribute('value')") is not None
            )
            assert page.evaluate("window.pwned") is None
            mode = page.locator("[data-mode=target_rank] bdi")
            if mode.count():
                assert mode.text_content() == visible(target.replace(" ", "␣"), 24)
