# Arguments: URL MESSAGE [PATH]. Sends MESSAGE to the WebSocket at URL with websocket-client, over
# the unix socket at PATH if given, and prints the message that it receives.
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
