# Says MESSAGE to the WebSocket at URL with websocket-client and prints what comes back.
import sys

import websocket

url, message = sys.argv[1:]
ws = websocket.WebSocket()
ws.connect(url, timeout=60)
ws.send(message)
print(ws.recv())
ws.close()
