"""The way out of this process: every request goes to the daemon's socket, whatever host it names."""

from __future__ import annotations

import io
from http.client import HTTPException, HTTPResponse
from typing import Any

import requests.sessions
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.exceptions import ConnectionError as NoConnection
from urllib3 import HTTPHeaderDict
from urllib3 import HTTPResponse as Body

from tests.api.raw_http import Connection
from tests.daemon_process import DaemonProcess

STREAM_S = 2.0
"""How long a stream is read that does not come to its `sync`."""


def use_socket(daemon: DaemonProcess) -> None:
    """From now on no session of `requests` reaches anything else."""

    class Adapter(HTTPAdapter):
        def send(self, request: PreparedRequest, *_: Any, **__: Any) -> Response:
            connection = Connection(daemon)
            try:
                assert request.method is not None
                connection.request(request.method, request.path_url, request.body, dict(request.headers))
                answer = connection.getresponse()
                data = _read(connection, answer)
            except (OSError, HTTPException) as error:
                raise NoConnection(error, request=request) from error
            finally:
                connection.close()
            headers = HTTPHeaderDict(answer.getheaders())
            body = Body(io.BytesIO(data), headers, answer.status, preload_content=False, decode_content=False)
            return self.build_response(request, body)

    requests.sessions.HTTPAdapter = Adapter  # type: ignore[misc]


def _read(connection: Connection, answer: HTTPResponse) -> bytes:
    """The body; of a stream what comes up to the end of its replay."""
    if answer.getheader("content-type") != "text/event-stream":
        return answer.read()
    connection.sock.settimeout(STREAM_S)
    data, is_at_sync = b"", False
    try:
        while line := answer.readline():
            data += line
            is_at_sync = is_at_sync or line == b"event: sync\n"
            if is_at_sync and line == b"\n":
                break
    except TimeoutError:
        pass
    answer.close()
    return data
