# Says MESSAGE to the WebSocket at URL with websocket-client and prints what comes back. With
# PATH, over the unix socket there.
import socket
import sys

import websocket

url, message, *path = sys.argv[1:]
over = {}
if path:
    over["socket"] = socket.socket(socket.AF_UNIX)
    over["socket"].connect(path[0])
ws = websocket.WebSocket()
ws.connect(url, timeout=60, **over)
ws.send(message)
print(ws.recv())
ws.close()
