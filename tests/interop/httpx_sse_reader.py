"""The stream at argv[1] as `httpx-sse` reads it, reconnected with the last id. Output as of eventsource.mjs."""

from __future__ import annotations

import json
import sys
import time

import httpx
from httpx_sse import connect_sse

last_id, retry_s, is_over = "", 3.0, False
with httpx.Client(timeout=60, trust_env=False) as client:
    while not is_over:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        try:
            with connect_sse(client, "GET", sys.argv[1], headers=headers) as source:
                if source.response.status_code == 204:
                    print(json.dumps(["", "closed", ""]))
                    break
                for sse in source.iter_sse():
                    last_id = sse.id
                    retry_s = sse.retry / 1000 if sse.retry is not None else retry_s
                    print(json.dumps([sse.id, sse.event, sse.data]))
                    if sse.event == "record" and '"type":"session.ended"' in sse.data:
                        is_over = True
                        break
        except httpx.TransportError:
            pass
        if not is_over:
            time.sleep(retry_s)
