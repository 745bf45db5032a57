// Makes the pictures of the READMEs: the status page in light, dark and on a phone, and the
// terminal of `make demo`, in English and in Chinese. PROGRAM is the program, DEMO the demo's
// own.
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
  socket.on('error', () => {}).resume();
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

const WEBSOCKET = 'GET /ws/chat HTTP/1.1\r\nHost: app.example.com\r\nConnection: Upgrade\r\n' +
  'Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n' +
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n';

// A program that logs in this language, and its status page in a browser.
async function watched(language) {
  const started = spawn(program, ['-u', 'app.example.com:80', '-b', '127.0.0.1', '-p', '0',
    '--log-lang', language, '--log-format', 'json', '--status-listen', '127.0.0.1:0'], {
    env: { PATH: process.env.PATH, SOCKS_PROXY: `socks5://alice:secret@127.0.0.1:${socksPort}` },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const profile = mkdtempSync(join(tmpdir(), 'pictures-'));
  process.on('exit', () => {
    started.kill();
    rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
  });
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
  await page.call('Page.enable');
  await page.call('Page.navigate', { url: `http://${addresses.status_page}/` });
  const [host, port] = addresses.listening.split(':');
  return { page, host, port, sockets: [] };
}

const connect = ({ host, port }) => {
  const socket = net.connect(port, host, () => socket.write(WEBSOCKET));
  return socket.on('error', () => {}).resume();
};
const ask = ({ host, port }, path) =>
  fetch(`http://${host}:${port}${path}`).then(r => r.arrayBuffer()).catch(() => {});

// A second of traffic: waves of requests, and WebSockets that come and go and send a little.
async function second(of, number) {
  const wave = 20 + Math.round(14 * Math.sin(number / 6)) + Math.floor(Math.random() * 5);
  if (of.sockets.length < 9 + number / 8 && number % 2) {
    of.sockets.push(connect(of));
  } else if (number % 7 === 0) {
    of.sockets.shift()?.destroy();
  }
  // A masked text message of 100 bytes each.
  const message = Buffer.concat([Buffer.from([0x81, 0x80 | 100, 0, 0, 0, 0]), Buffer.alloc(100, 'x')]);
  for (const socket of of.sockets.slice(0, -1)) {
    for (let n = 0; n < 4 + 3 * Math.sin(number / 9); n += 1) socket.write(message);
  }
  await Promise.all(Array.from({ length: wave }, (_, n) => ask(of, n === 3 ? '/missing' : '/')));
}

const show = async (page, width, height, scheme) => {
  await page.call('Emulation.setDeviceMetricsOverride',
    { width, height, deviceScaleFactor: width < 500 ? 1.5 : 1.25, mobile: false });
  await page.call('Emulation.setEmulatedMedia',
    { features: [{ name: 'prefers-color-scheme', value: scheme }] });
  await pause(300);
};
const picture = async (page, name) => {
  const { cssContentSize } = await page.call('Page.getLayoutMetrics');
  const clip = { x: 0, y: 0, width: cssContentSize.width, height: cssContentSize.height, scale: 1 };
  const { data } = await page.call('Page.captureScreenshot',
    { format: 'png', captureBeyondViewport: true, clip });
  writeFileSync(join(folder, name), Buffer.from(data, 'base64'));
  console.log(`docs/pictures/${name}`);
};

const english = await watched('en');
const chinese = await watched('zh');
let number = 0;
async function onward() {
  const until = Date.now() + 1000;
  if (number === 50) {
    // The proxy refuses for a moment.
    up = false;
    upstream.closeIdleConnections();
    for (const of of [english, chinese]) connect(of);
    await pause(200);
    for (const of of [english, chinese]) await ask(of, '/orders');
    up = true;
  }
  await Promise.all([english, chinese].map(of => second(of, number)));
  await pause(Math.max(0, until - Date.now()));
  number += 1;
}
while (number < 62) await onward();
// The traffic goes on while the pictures are taken.
let goes = true;
const traffic = (async () => { while (goes) await onward(); })();
await show(english.page, 1080, 800, 'light');
await picture(english.page, 'status-light.png');
await show(english.page, 1080, 800, 'dark');
await picture(english.page, 'status-dark.png');
await show(english.page, 390, 844, 'light');
await picture(english.page, 'status-phone.png');
await show(chinese.page, 1080, 800, 'light');
await picture(chinese.page, 'status-light.zh-CN.png');
goes = false;
await traffic;

// The terminal: what the demo prints, as a page.
async function terminal(locale, language, name) {
  const printed = execFileSync(demo, [program], {
    encoding: 'utf8', env: { ...process.env, LC_ALL: locale, SIMPLE_PROXY_LOG_LANG: language },
  });
  const escape = text => text.replace(/[&<>]/g, c => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[c]);
  const lines = printed.trimEnd().split('\n').map(escape);
  const typed = language === 'zh' ? [] : [`export SIMPLE_PROXY_LOG_LANG=${language}`];
  const prompts = [...typed, 'make demo'].map(line => `<b>$ ${line}</b>\n`).join('');
  const html = `<!doctype html><meta charset="utf-8"><style>
    body { margin: 0; padding: 18px 22px; background: #1b2128; color: #d7dde5;
      font: 14px/1.5 "DejaVu Sans Mono", "WenQuanYi Micro Hei Mono", monospace; }
    pre { margin: 0; white-space: pre-wrap; } b { color: #7fa9ff; font-weight: 600; }
  </style><pre>${prompts}${lines.join('\n')}</pre>`;
  await show(english.page, 920, 300, 'dark');
  const url = `data:text/html;base64,${Buffer.from(html).toString('base64')}`;
  await english.page.call('Page.navigate', { url });
  await pause(500);
  await picture(english.page, name);
}
await terminal('C.UTF-8', 'en', 'demo.png');
await terminal('zh_CN.UTF-8', 'zh', 'demo.zh-CN.png');
english.page.close();
chinese.page.close();
