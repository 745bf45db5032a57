// Arguments: ADDRESS PORT CERTIFICATE KEY ORIGIN. A Socket.IO server over TLS, which accepts
// only pages of ORIGIN, over either transport, and answers messages. Its page is empty.
const { createServer } = require('node:https');
const { readFileSync } = require('node:fs');
const { Server } = require('socket.io');

const [address, port, cert, key, origin] = process.argv.slice(2);
const page = (request, response) => {
  response.setHeader('Content-Type', 'text/html');
  response.end('<!doctype html><title>page</title>');
};
const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) }, page);
const io = new Server(server);
// `allowRequest` would see the first request alone, a GET, with which a browser sends no Origin
// to its own.
io.engine.use((request, response, next) => {
  const { origin: sent = origin } = request.headers;
  next(sent === origin ? undefined : new Error(`${sent} is refused`));
});
io.on('connection', socket => {
  socket.on('say', (text, done) => done(`heard ${text}`));
});
server.listen(Number(port), address);
