// Makes the pictures of the README: the status page in light, dark and on a phone, and the
// terminal of `make demo`. PROGRAM is the program, DEMO the demo's own.
//
//   make pictures
//
// Needs chromium, node and a font with Chinese characters (Debian: fonts-wqy-microhei).
// Everything runs on loopback; it takes about a minute and a half.
import { spawn, execFileSync } from 'node:child_process';
import { createServer } from 'node:http';
import { createHash } from 'node:crypto';
import net from 'node:net';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { open } from '../../tests/peers/browser.mjs';

const [program, demo] = process.argv.slice(2);
const folder = dirname(fileURLToPath(import.meta.url));
const pause = ms => new Promise(done => setTimeout(done, ms));
const listening = server => new Promise(done =>
  server.listen(0, '127.0.0.1', () => done(server.address().port)));

// An upstream whose answers take a moment, and that takes WebSockets and says nothing.
const upstream = createServer((request, response) => {
  const size = 2000 + Math.floor(Math.random() * 40000);
  setTimeout(() => {
    response.writeHead(request.url === '/missing' ? 404 : 200, { 'Content-Length': size });
    response.end('x'.repeat(size));
  }, 8 + Math.random() * 25);
});
upstream.on('upgrade', (request, socket) => {
  const accept = createHash('sha1')
    .update(request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11')
    .digest('base64');
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
    `Sec-WebSocket-Accept: ${accept}\r\n\r\n`);
  socket.on('error', () => {});
});
const upstreamPort = await listening(upstream);

// A SOCKS5 proxy with a password that leads every name to that upstream, while it is `up`.
let up = true;
const socks = net.createServer(async client => {
  client.on('error', () => {});
  const said = () => new Promise(done => client.once('data', done));
  await said();
  client.write(Buffer.from([5, 2]));
  await said();
  client.write(Buffer.from([1, 0]));
  await said();
  await pause(15);
  client.write(Buffer.from([5, up ? 0 : 5, 0, 1, 0, 0, 0, 0, 0, 0]));
  if (!up) return client.end();
  const there = net.connect(upstreamPort, '127.0.0.1');
  there.on('error', () => client.destroy());
  client.pipe(there).pipe(client);
});
const socksPort = await listening(socks);

const started = spawn(program, ['-u', 'app.example.com:80', '-b', '127.0.0.1', '-p', '0',
  '--log-lang', 'en', '--log-format', 'json', '--status-listen', '127.0.0.1:0'], {
  env: { PATH: process.env.PATH, SOCKS_PROXY: `socks5://alice:secret@127.0.0.1:${socksPort}` },
  stdio: ['ignore', 'ignore', 'pipe'],
});
const profile = mkdtempSync(join(tmpdir(), 'pictures-'));
process.on('exit', () => { started.kill(); rmSync(profile, { recursive: true, force: true }); });
const addresses = {};
let log = '';
started.stderr.setEncoding('utf8').on('data', text => {
  log += text;
  const lines = log.split('\n');
  log = lines.pop();
  for (const line of lines.map(line => JSON.parse(line))) addresses[line.event] ??= line.address;
});
while (!addresses.status_page) await pause(20);

const page = await open(profile, ['--font-render-hinting=none']);
const show = async (width, height, scheme) => {
  await page.call('Emulation.setDeviceMetricsOverride',
    { width, height, deviceScaleFactor: width < 500 ? 1.5 : 1.25, mobile: false });
  await page.call('Emulation.setEmulatedMedia',
    { features: [{ name: 'prefers-color-scheme', value: scheme }] });
  await pause(300);
};
const picture = async (name, whole) => {
  const { cssContentSize } = await page.call('Page.getLayoutMetrics');
  const clip = { x: 0, y: 0, width: cssContentSize.width, height: cssContentSize.height, scale: 1 };
  const { data } = await page.call('Page.captureScreenshot',
    { format: 'png', captureBeyondViewport: true, ...(whole ? { clip } : {}) });
  writeFileSync(join(folder, name), Buffer.from(data, 'base64'));
  console.log(`docs/pictures/${name}`);
};

// A minute of traffic: waves of requests, WebSockets that come and go, and a proxy that
// refuses for a moment near the end.
await page.call('Page.enable');
await page.call('Page.navigate', { url: `http://${addresses.status_page}/` });
const [host, port] = addresses.listening.split(':');
const sockets = [];
const ask = path => fetch(`http://${host}:${port}${path}`).then(r => r.arrayBuffer()).catch(() => {});
for (let second = 0; second < 62; second += 1) {
  const wave = 20 + Math.round(14 * Math.sin(second / 6)) + Math.floor(Math.random() * 5);
  const until = Date.now() + 1000;
  if (sockets.length < 9 + second / 8 && second % 2) {
    const socket = net.connect(port, host, () => socket.write('GET /ws/chat HTTP/1.1\r\n' +
      'Host: app.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'));
    socket.on('error', () => {}).resume();
    sockets.push(socket);
  } else if (second % 7 === 0) {
    sockets.shift()?.destroy();
  }
  if (second === 50) {
    up = false;
    const refused = net.connect(port, host, () => refused.write('GET /ws/chat HTTP/1.1\r\n' +
      'Host: app.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'));
    refused.on('error', () => {}).resume();
    upstream.closeIdleConnections();
    await pause(200);
    await ask('/orders');
    up = true;
  }
  await Promise.all(Array.from({ length: wave }, (_, n) => ask(n === 3 ? '/missing' : '/')));
  await pause(Math.max(0, until - Date.now()));
}
await show(1080, 800, 'light');
await picture('status-light.png', true);
await show(1080, 800, 'dark');
await picture('status-dark.png', true);
await show(390, 844, 'light');
await picture('status-phone.png', false);

// The terminal: what the demo prints, as a page.
const printed = execFileSync(demo, [program], { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C.UTF-8' } });
const escape = text => text.replace(/[&<>]/g, c => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[c]);
const lines = printed.trimEnd().split('\n').map(escape);
const terminal = `<!doctype html><meta charset="utf-8"><style>
  body { margin: 0; padding: 18px 22px; background: #1b2128; color: #d7dde5;
    font: 14px/1.5 "DejaVu Sans Mono", "WenQuanYi Micro Hei Mono", monospace; }
  pre { margin: 0; white-space: pre-wrap; } b { color: #7fa9ff; font-weight: 600; }
</style><pre><b>$ make demo</b>\n${lines.join('\n')}</pre>`;
await show(900, 300, 'dark');
await page.call('Page.navigate', { url: `data:text/html;base64,${Buffer.from(terminal).toString('base64')}` });
await pause(500);
await picture('demo.png', true);
page.close();
for (const socket of sockets) socket.destroy();
upstream.closeAllConnections();
upstream.close();
socks.close();
started.kill();
