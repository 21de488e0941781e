"""The script that draws the charts: Vega-Embed, Vega-Lite and Vega in one piece, made by vl-convert without the network.

Making it takes over a second of another thread's time, so it is begun early and waited for late.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

from conceptlab.plot.chart import VERSION


@lru_cache(maxsize=1)
def begin_bundle() -> "Future[str]":
    """Start making the bundle, once a process."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="vega-bundle")
    future = executor.submit(_make)
    executor.shutdown(wait=False)
    return future


def _make() -> str:
    import vl_convert

    script = vl_convert.javascript_bundle(snippet="window.vegaEmbed = vegaEmbed;", vl_version=VERSION)
    # Inside <script> only these two would end it or change how it is read; both can be written otherwise in a string.
    return script.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")
