"""Way out: pycurl, that is libcurl in the test's own process."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced


@pytest.mark.needs("module:pycurl")
def test_pycurl(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import io
        import pycurl, pytest
        from here import AWAY, HELLO, HTTP

        def get(url):
            body = io.BytesIO()
            curl = pycurl.Curl()
            try:
                curl.setopt(pycurl.URL, url)
                curl.setopt(pycurl.TIMEOUT, 10)
                curl.setopt(pycurl.WRITEDATA, body)
                curl.perform()
            finally:
                curl.close()
            return body.getvalue()

        def test_away():
            with pytest.raises(pycurl.error) as caught:
                get(f"http://{AWAY}/")
            assert caught.value.args[0] == pycurl.E_COULDNT_CONNECT

        def test_name_away():
            with pytest.raises(pycurl.error) as caught:
                get("https://api.stripe.com/")
            assert caught.value.args[0] == pycurl.E_COULDNT_RESOLVE_HOST

        def test_loopback():
            assert get(f"http://127.0.0.1:{HTTP}/") == HELLO
        """
    )
    run.refused("test_away", "connect 198.51.100.7:80/tcp", line="curl.perform()")
    run.refused("test_name_away", "resolve api.stripe.com", count=None)
    run.clean("test_loopback")
