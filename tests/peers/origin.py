# Arguments: ADDRESS PORT [CERTIFICATE KEY [ORIGIN]]. Echoes WebSocket messages, only for pages of
# ORIGIN if it is given, and serves a page that shows path and Host.
import asyncio
import http
import ssl
import sys

import websockets


async def echo(ws):
    async for message in ws:
        await ws.send(message)


async def page(path, headers):
    if headers.get("Upgrade", "").lower() != "websocket":
        body = f"path={path} host={headers.get('Host')}\n".encode()
        return http.HTTPStatus.OK, [("Content-Length", str(len(body)))], body


async def main(address, port, certificate=None, key=None, origin=None):
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    await websockets.serve(echo, address, int(port), ssl=context, process_request=page,
                           origins=[origin] if origin else None)
    await asyncio.Future()


asyncio.run(main(*sys.argv[1:]))
